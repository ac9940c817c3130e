"""The same seeds with and without imagined trajectories, side by side: one plot, one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import ray
from tqdm import tqdm

from atradiff.report.compare import ComparisonTable, compare_runs
from cluster.config import RunConfig, load_run_config
from cluster.prepare import prepare_diffuser
from cluster.ray_runtime import start_ray
from cluster.run_folder import RunFolder

ARMS: dict[Literal["none", "atradiff"], str] = {"none": "without", "atradiff": "with ATraDiff"}
_POLL_SECONDS = 1.0


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
    if not seeds:
        raise ValueError("compare needs at least one seed.")
    run.require_data()
    shared = replace(run, generator=replace(run.generator, path=str(prepare_diffuser(run).resolve())))
    output = str(Path(run.output).resolve())
    cells = [replace(shared, augmentation=arm, seed=seed, output=output) for seed in seeds for arm in ARMS]
    _train_all(cells)
    folder = Path(output) / run.name
    arms = {label: [c.folder for c in cells if c.augmentation == arm] for arm, label in ARMS.items()}
    return Comparison(folder, compare_runs(arms, folder, title=f"{run.env}, {len(seeds)} seeds"))


def _train_all(cells: Sequence[RunConfig]) -> None:
    """Run the cells that are not complete as Ray tasks of one CPU each, under one progress bar."""
    total = sum(cell.env_steps for cell in cells)
    start_ray()
    tasks = [_train_cell.remote(cell.to_yaml()) for cell in cells if not RunFolder(cell.folder).complete]
    with tqdm(total=total, unit="step", desc="training", smoothing=0.05, mininterval=1.0) as bar:
        while tasks:
            done, tasks = ray.wait(tasks, timeout=_POLL_SECONDS)
            ray.get(done)  # raises what a cell raised
            steps = sum(_env_steps(cell) for cell in cells)
            bar.update(steps - bar.n)
        bar.update(total - bar.n)


@ray.remote(num_cpus=1, max_retries=0)
def _train_cell(config: str) -> None:
    """One run in a process of its own; it tells its progress through a small file in its folder."""
    import tempfile

    from cluster.run import Progress, train

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(config)
        file.flush()
        run = load_run_config(Path(file.name))
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
