"""The cells of a comparison: each one run, told apart and found again by what it was asked to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError

from cluster.config import RunConfig, load_run_config
from cluster.run_folder import RunFolder

_BOOKKEEPING = ("name", "output", "data.cache", "generator.cache", "checkpoint.keep", "evaluation.solved_at")
"""Where and how long things are kept, and what reports count to: changes nothing about a run's result."""

_READ_BY = {
    "atradiff": ("generator", "serving", "adaptation"),
    "synther": ("generator.path", "synther", "serving"),
    "s4rl": ("s4rl", "serving"),
}
"""Settings that an augmentation alone looks at: plain runs with several diffusers are one."""
_GENERATION = ("generator", "serving", "adaptation", "synther", "s4rl")


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: task and arm are its labels there."""

    task: str
    arm: str
    run: RunConfig

    @property
    def title(self) -> str:
        return f"{self.task}, {self.arm}, seed {self.run.seed}"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.run.folder)


def recipe(run: RunConfig) -> dict[str, Any]:
    """Every setting that a run's result depends on, by dotted name."""
    return {name: value for name, value in _flat(asdict(run)).items() if _is_read(name, run)}


def _is_read(name: str, run: RunConfig) -> bool:
    """Plain runs on several data sets are one, unless offline rows are part of their batches."""
    if _below(name, _BOOKKEEPING):
        return False
    if _below(name, ("data",)):
        return run.needs_generator or run.reads_data
    return not _below(name, _GENERATION) or _below(name, _READ_BY.get(run.augmentation, ()))


def needs_preparation(run: RunConfig) -> bool:
    """Whether there is something to make, or to find, before the run."""
    return run.needs_generator or run.reads_data


def preparation_key(run: RunConfig) -> str:
    """The same text for runs that begin with the same model on the same data."""
    parts: list[Any] = [data_key(run)]
    if run.needs_generator and run.augmentation == "synther":
        parts += ["synther", asdict(run.synther), run.generator.path, run.generator.cache]
    elif run.needs_generator:
        generator = run.generator
        parts += [asdict(generator.model), asdict(generator.fit), generator.path, generator.cache]
    return json.dumps(parts, sort_keys=True)


def data_key(run: RunConfig) -> str:
    """The same text for runs on the same data."""
    return json.dumps([run.env, asdict(run.data)], sort_keys=True)


def require_one_process(run: RunConfig) -> None:
    """Raise ``ValueError`` for a run that would be a cluster of actors inside a cell."""
    if run.cluster is not None:
        raise ValueError(
            "a compared run is one process, and many run side by side: leave cluster out (cluster: null), or train "
            "this run alone with `atradiff train`."
        )


def require_reserved_gpu(run: RunConfig, gpus_per_cell: float) -> None:
    """Raise ``ValueError`` for a run that would learn on a GPU where Ray reserves it none: it would see none."""
    if run.learner_device == "cuda" and gpus_per_cell == 0:
        raise ValueError(
            "learner_device: cuda learns on a GPU, and a compared run sees those alone that a grid's gpus_per_cell "
            "reserves for it, 0 here: set it in a grid (0.25 has four runs share a GPU), or learner_device to cpu."
        )


def share_runs(cells: Iterable[Cell]) -> list[Cell]:
    """The same cells, where those with one recipe have one run: the first one's."""
    first: dict[str, RunConfig] = {}
    return [_taking_up(cell, first.setdefault(_shared_key(cell.run), cell.run)) for cell in cells]


def with_runs_kept(cells: Sequence[Cell], below: Path) -> list[Cell]:
    """The same cells, where one whose run has not begun takes up a run of its recipe in a folder that no cell names.

    Which of the cells that share a run gives it its folder hangs on the grid: without that task, or in another order,
    it would be run again.
    """
    if all(cell.folder.started for cell in cells):
        return list(cells)
    own = {cell.folder.path for cell in cells}
    kept = [file for file in sorted(below.glob("*/*/*/*/seed_*/config.yaml")) if file.parent not in own]
    found = {key: run for run in filter(None, map(_run_in, kept)) for key in (_shared_key(run), _named_key(run))}
    return [
        cell if cell.folder.started else _taking_up(cell, found.get(_shared_key(cell.run), cell.run)) for cell in cells
    ]


def _taking_up(cell: Cell, run: RunConfig) -> Cell:
    """The cell with a run of its recipe; what its report counts to stays its own."""
    evaluation = replace(run.evaluation, solved_at=cell.run.evaluation.solved_at)
    return replace(cell, run=replace(run, evaluation=evaluation))


def distinct_runs(cells: Iterable[Cell]) -> list[Cell]:
    """The first cell of each run."""
    return list({cell.run.folder: cell for cell in reversed(list(cells))}.values())[::-1]


def _run_in(config: Path) -> RunConfig | None:
    """The run whose config this is; None where it cannot be read, or says that it is kept elsewhere."""
    try:
        run = load_run_config(config)
    except (ArgumentError, OSError, ValueError):
        return None
    return run if run.folder == config.parent else None


def _shared_key(run: RunConfig) -> str:
    """The same text for runs with one recipe; a run that has begun names its diffuser, and one that has not may not."""
    return json.dumps(recipe(run), sort_keys=True)


def _named_key(run: RunConfig) -> str:
    """As :func:`_shared_key`, of the run before it named its diffuser."""
    return _shared_key(replace(run, generator=replace(run.generator, path=None)))


def differing_settings(run: RunConfig) -> list[str]:
    """How the run in ``run``'s folder differs from it, a line for each setting; empty where there is none or no other.

    A run names its diffuser once it has begun: that counts only against one that is named here, too.
    """
    folder = RunFolder(run.folder)
    if not folder.started:
        return []
    there, wanted = recipe(load_run_config(folder.config)), recipe(run)
    if run.generator.path is None:
        there.pop("generator.path", None)
        wanted.pop("generator.path", None)
    names = [name for name in {**there, **wanted} if there.get(name) != wanted.get(name)]
    return [f"{name} {there.get(name)!r} there, {wanted.get(name)!r} here" for name in names]


def require_same_runs(cells: Sequence[Cell]) -> None:
    """Raise ``ValueError`` where a cell's folder holds a run with other settings: it is not this comparison's."""
    for cell in cells:
        if differing := differing_settings(cell.run):
            raise ValueError(
                f"{cell.folder.path} holds a run with other settings ({'; '.join(differing)}): choose another name for "
                "the comparison, or delete that folder."
            )


def env_steps_done(cell: Cell) -> int:
    """All of them for a complete run, else those that its folder tells; 0 where it has not begun."""
    return cell.run.env_steps if cell.folder.complete else cell.folder.progress()


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _below(name: str, sections: Sequence[str]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)
