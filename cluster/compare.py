"""The same seeds with and without imagined trajectories, side by side: one plot, one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import ray
from tqdm import tqdm

from atradiff.report.compare import ComparisonTable, compare_runs
from cluster.config import RunConfig, load_run_config
from cluster.prepare import check_environment, prepare_diffuser
from cluster.ray_runtime import start_ray
from cluster.run_folder import RunFolder
from cluster.storage import is_uri

ARMS: dict[Literal["none", "atradiff"], str] = {"none": "without", "atradiff": "with ATraDiff"}
_POLL_SECONDS = 1.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Comparison:
    """Where the runs are and what they came to."""

    folder: Path
    table: ComparisonTable


def compare(run: RunConfig, seeds: Sequence[int]) -> Comparison:
    """Train every arm with every seed, as many at once as there are CPUs, and write the comparison.

    Data and diffuser are made once, before the first run: every seed is augmented by the same diffuser. Runs that are
    complete are not repeated, interrupted ones go on from their last checkpoint.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"compare needs at least one seed and each only once, got {list(seeds)}.")
    if is_uri(run.output):
        raise ValueError(f"compare reads its runs from a folder of this machine, got output {run.output}.")
    run.require_data()
    run = run.absolute()
    check_environment(run)
    run = replace(run, generator=replace(run.generator, path=str(prepare_diffuser(run))))
    cells = [replace(run, augmentation=arm, seed=seed) for seed in seeds for arm in ARMS]
    for cell in cells:
        _require_same_run(cell)
    _train_all(cells)
    folder = Path(run.output) / run.name
    arms = {label: [c.folder for c in cells if c.augmentation == arm] for arm, label in ARMS.items()}
    title = f"{run.env}, {len(seeds)} seeds"
    return Comparison(folder, compare_runs(arms, folder, threshold=run.evaluation.solved_at, title=title))


def _require_same_run(cell: RunConfig) -> None:
    """Raise ``ValueError`` where the cell's folder holds a run with other settings: it is not this comparison's."""
    folder = RunFolder(cell.folder)
    if not folder.started:
        return
    stored = load_run_config(folder.config)
    differing = [f.name for f in fields(RunConfig) if getattr(stored, f.name) != getattr(cell, f.name)]
    if differing:
        raise ValueError(
            f"{folder.path} holds a run with other settings ({', '.join(differing)}; see its config.yaml): choose "
            "another --name, or delete that folder."
        )


def _train_all(cells: Sequence[RunConfig]) -> None:
    """Run the cells that are not complete as Ray tasks, a CPU for each of their threads, under one progress bar."""
    total = sum(cell.env_steps for cell in cells)
    start_ray()
    open_cells = [cell for cell in cells if not RunFolder(cell.folder).complete]
    running = {_train_cell.options(num_cpus=cell.threads).remote(cell): cell for cell in open_cells}
    try:
        with tqdm(total=total, unit="step", desc="training", smoothing=0.05, mininterval=1.0) as bar:
            while running:
                for task in ray.wait(list(running), timeout=_POLL_SECONDS)[0]:
                    _raise_its_error(task, running.pop(task))
                bar.update(sum(_env_steps(cell) for cell in cells) - bar.n)
    finally:  # after an error or Ctrl-C, the others write a checkpoint and stop
        _stop(list(running))


def _raise_its_error(task: ray.ObjectRef[None], cell: RunConfig) -> None:
    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        message = f"{cell.augmentation}, seed {cell.seed}: {error.cause or error}"
        raise ValueError(message) from error.cause


def _stop(tasks: list[ray.ObjectRef[None]]) -> None:
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_STOP_SECONDS)


@ray.remote(num_cpus=1, max_retries=0)
def _train_cell(run: RunConfig) -> None:
    """One run in a process of its own; it tells its progress through a small file in its folder."""
    from cluster.run import train
    from cluster.session import Progress

    folder = RunFolder(run.folder)
    last = time.monotonic()

    def watch(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _POLL_SECONDS:
            folder.tell_progress(progress.env_steps)
            last = time.monotonic()

    train(run, watch, resume=folder.path if folder.started else None)


def _env_steps(cell: RunConfig) -> int:
    return cell.env_steps if RunFolder(cell.folder).complete else RunFolder(cell.folder).progress()
