"""Ways to imagine whole episodes, side by side: window lengths, replanning, history, longer windows, key states.

``python -m benchmarks.horizon --data STORE [--cpu-minutes 2] [--json F]``. Models are fitted for the same CPU minutes
on four fifths of the episodes; from states of the others, chains are imagined and held against how those go on.
``keys`` is a model of every tenth state alone: what a coarse plan could keep, not a generator of rows; ``keyed`` fills
such a plan with rows, two models for one budget. ``probe`` fits no diffuser: it asks what a network tells of held-out
actions from the state, and from history besides. ``--tiny`` is all of it in seconds, to see that it runs: its figures
say nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from atradiff.allocator import keep_freed_memory
from atradiff.config import DiffuserConfig, FitConfig, Refine, SamplingOptions
from atradiff.data.collect import collect
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.report.tables import aligned
from atradiff.staging import write_text
from atradiff.types import SyntheticTrajectories
from benchmarks.horizon_figures import ChainFigures, ChainStudy
from benchmarks.horizon_keys import KEY_ROWS, KeyedModel, fit_keyed
from benchmarks.horizon_probes import every_nth, unexplained_actions

HELD_OUT = 0.2
"""Share of the episodes: these sets are of few and long ones, and a distribution of returns takes more than three."""

PROBE = "probe"

MODELS: Mapping[str, DiffuserConfig] = {
    "ours": DiffuserConfig(),
    "history": DiffuserConfig(history=8),
    "long": DiffuserConfig(lengths=(5, 10, 25, 50, 100)),
    "keys": DiffuserConfig(lengths=(5, 10, 20)),
    "keyed": DiffuserConfig(),
}
WINDOWS: Mapping[str, tuple[int, ...]] = {
    "ours": (25, 10, 5, 2),
    "history": (25, 5),
    "long": (100, 50, 25, 5),
    "keyed": (5, 2),
}

REFINED: Mapping[str, Refine] = {"raw": "none", "project": "project", "dynamics": "dynamics"}
"""How windows are refined before the next one is planned from their end."""


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    fit: FitConfig
    chains: int
    marks: tuple[int, ...]
    network: Mapping[str, Any]  # settings of the models, where not their own
    probe_updates: int = 1500


TINY = Scale(
    fit=FitConfig(steps=4, tokens_per_step=200, dynamics_batch=16, held_out=HELD_OUT),
    chains=12,
    marks=(5, 10, 20),
    network={"width": 16, "depth": 1, "dynamics_models": 2, "dynamics_width": 16},
    probe_updates=5,
)


def measure(
    data: Trajectories, names: Sequence[str], temperatures: Sequence[float], scale: Scale, folder: Path, seed: int
) -> list[ChainFigures]:
    """Fit each model that is named into ``folder``, or load it from there, and judge all ways to chain it."""
    _, held_out = data.split(HELD_OUT, seed)
    study = ChainStudy.over(held_out, data.env_id, scale.marks, scale.chains, seed)
    figures = [study.real()]
    for name in names:
        config = replace(MODELS[name], **scale.network)
        if name == "keys":
            figures.extend(_key_states(data, config, scale, folder, seed))
            continue
        model: TrajectoryDiffuser | KeyedModel
        if name == "keyed":
            model = fit_keyed(data, config, scale.fit, folder / name)
        else:
            model = fit(data, folder / name, config=config, settings=scale.fit, device="cpu", quiet=True)
        for label, options in _ways(name, config.longest, temperatures):
            figures.append(_judged(study, model.generate, label, options, seed))
    return figures


def _ways(name: str, longest: int, temperatures: Sequence[float]) -> Iterator[tuple[str, SamplingOptions]]:
    for temperature in temperatures:
        for length in (k for k in WINDOWS[name] if k <= longest):
            for label, refine in REFINED.items():
                options: SamplingOptions = {"length": length, "temperature": temperature, "refine": refine}
                yield f"{name} K={length} T={temperature} {label}", options


def _judged(
    study: ChainStudy, generate: Callable[..., SyntheticTrajectories], label: str, options: SamplingOptions, seed: int
) -> ChainFigures:
    whole: SamplingOptions = {**options, "horizon": study.marks[-1]}
    started = time.process_time()
    chains = generate(study.starts, generator_seed=seed, **whole)
    spent = max(time.process_time() - started, 1e-9)
    twins = generate(study.starts, generator_seed=seed + 1, **whole)
    return study.figures(label, chains, twins, float(chains.lengths.sum()) / spent)


def _key_states(
    data: Trajectories, config: DiffuserConfig, scale: Scale, folder: Path, seed: int
) -> Iterator[ChainFigures]:
    """A model of every tenth state, its rewards summed: one window is the whole horizon, or a chain of shorter ones."""
    train, held_out = data.split(HELD_OUT, seed)
    settings = replace(scale.fit, held_out=0.05)
    model = fit(every_nth(train, KEY_ROWS), folder / "keys", config=config, settings=settings, device="cpu", quiet=True)
    marks = tuple(sorted({max(mark // KEY_ROWS, 1) for mark in scale.marks}))
    study = ChainStudy.over(every_nth(held_out, KEY_ROWS), None, marks, scale.chains, seed)
    yield replace(study.real(), name=f"keys, every {KEY_ROWS}th: real")
    for length in (k for k in (20, 5) if k <= model.config.longest):
        options: SamplingOptions = {"length": length, "refine": "none", "prune": "none"}
        yield _judged(study, model.generate, f"keys, every {KEY_ROWS}th: K={length} raw", options, seed)


def table(figures: Sequence[ChainFigures], marks: Sequence[int]) -> str:
    """The figures as lines of text; errors, survivors and cuts at each mark."""
    header = ["chain", *(f"error -{m}" for m in marks), *(f"runs {m}" for m in marks), f"cut {marks[-1]}"]
    header += ["rows", "reward/row", "returns", "late", "persistence", "spread", "rows/CPU s"]
    return aligned([header, *(_line(f, len(marks)) for f in figures)])


def _line(f: ChainFigures, marks: int) -> list[str]:
    errors, running = ([*values, *[None] * (marks - len(values))] for values in (f.errors, f.running))
    cells = [_cell(x, ".3f") for x in errors] + [_cell(x, ".0%") for x in (*running, f.cut[-1])]
    cells += [_cell(f.mean_length, ".0f"), _cell(f.reward_per_row, ".2f")]
    cells += [_cell(x, ".2f") for x in (f.return_similarity, f.late_similarity, f.persistence, f.spread)]
    return [f.name, *cells, _cell(f.transitions_per_cpu_second, ",.0f")]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main() -> None:
    """Fit or find the models, print the figures by horizon; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="trajectory store; default: 20 random episodes of Pendulum-v1")
    parser.add_argument("--models", nargs="*", default=[*MODELS, PROBE], choices=[*MODELS, PROBE])
    parser.add_argument("--folder", type=Path, help="where models are kept and looked for; default: nowhere")
    parser.add_argument("--cpu-minutes", type=float, default=2.0, help="for each of the fits")
    parser.add_argument(
        "--marks", type=int, nargs="+", default=[25, 50, 100, 200], help="rows; the last is the horizon"
    )
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--chains", type=int, default=128)
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="everything small: seconds, and figures that say nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    budget = FitConfig(cpu_minutes=options.cpu_minutes, held_out=HELD_OUT, seed=options.seed)
    scale = TINY if options.tiny else Scale(budget, options.chains, tuple(sorted(options.marks)), {})
    with tempfile.TemporaryDirectory() as temporary:
        data = open_trajectories(options.data or _random_pendulum(Path(temporary) / "data"))
        folder = options.folder or Path(temporary) / "models"
        models = [name for name in options.models if name != PROBE]
        figures = measure(data, models, options.temperatures, scale, folder, options.seed)
        split = data.split(HELD_OUT, options.seed)
        probes = unexplained_actions(*split, updates=scale.probe_updates) if PROBE in options.models else {}
    if options.json:
        write_text(options.json, json.dumps({"chains": [asdict(f) for f in figures], "unexplained": probes}, indent=1))
    print(table(figures, scale.marks))
    if probes:
        print(aligned([["history", "unexplained"], *([str(rows), f"{share:.3f}"] for rows, share in probes.items())]))


def _random_pendulum(folder: Path) -> Path:
    collect("Pendulum-v1", "random", 20, folder, progress=False)
    return folder


if __name__ == "__main__":
    main()
