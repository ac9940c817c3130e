"""Running cells as Ray tasks: what is complete is left alone, what was interrupted goes on, what fails is told."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from atradiff.progress_bar import ProgressBar
from cluster.cells import Cell, data_key, distinct_runs, env_steps_done, needs_preparation, preparation_key
from cluster.config import RunConfig
from cluster.prepare import prepare
from cluster.ray_runtime import hide_unreserved_gpus, start_ray
from cluster.run_folder import RunFolder
from cluster.stop_signal import stop_signal

_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Failure:
    """A cell that did not get to its end, and why in one line."""

    cell: Cell
    error: str


def prepare_cells(cells: Sequence[Cell], gpus_per_cell: float = 0.0) -> tuple[list[Cell], list[Failure]]:
    """Make the data and diffusers that open cells need, each once, as Ray tasks; the cells with their diffuser's path.

    Cells of one diffuser that could not be made are failures. Data sets are worked on side by side, diffusers on the
    same data one after the other.
    """
    groups = _preparations_by_data(cells)
    if not groups:
        return list(cells), []
    start_ray()
    _require_room([run for group in groups for run in group], gpus_per_cell)
    tasks = {_prepare.options(**_resources(group[0], gpus_per_cell)).remote(group): group for group in groups}
    paths: dict[str, Path | None] = {}
    errors: dict[str, str] = {}
    try:
        bar = ProgressBar(total=len(tasks), unit="data set", desc="data and diffusers")
        with bar, _ctrl_c() as stop:
            while tasks and not stop.is_set():
                for task in ray.wait(list(tasks), timeout=_POLL_SECONDS)[0]:
                    group = tasks.pop(task)
                    made, error = _outcome(task)
                    for run, (path, reason) in zip(group, made or [(None, error)] * len(group), strict=True):
                        key = preparation_key(run)
                        paths[key] = path
                        if reason is not None:
                            errors[key] = reason
                    bar.update()
                bar.tick()
    finally:
        _stop(list(tasks), "fits and imports to end")
    keyed = [(preparation_key(cell.run), cell) for cell in cells]
    failed = [
        Failure(cell, errors[key])
        for key, cell in keyed
        if key in errors and needs_preparation(cell.run) and not cell.folder.complete
    ]
    return [_with_path(cell, paths.get(key)) for key, cell in keyed], failed


def train_cells(cells: Sequence[Cell], gpus_per_cell: float = 0.0) -> list[Failure]:
    """Train every run that is not complete, as many at once as the cluster holds, under one progress bar.

    A run that fails is a failure of each of its cells. Ctrl-C lets all of them write a checkpoint; the same call goes
    on from there.
    """
    runs = distinct_runs(cells)
    open_cells = [cell for cell in runs if not cell.folder.complete]
    if not open_cells:
        return []
    start_ray()
    _require_room([cell.run for cell in open_cells], gpus_per_cell)
    tasks = {_train_cell.options(**_resources(cell.run, gpus_per_cell)).remote(cell.run): cell for cell in open_cells}
    errors = {failure.cell.run.folder: failure.error for failure in _watch(tasks, runs)}
    return [Failure(cell, errors[cell.run.folder]) for cell in cells if cell.run.folder in errors]


def _watch(tasks: dict[ray.ObjectRef[None], Cell], runs: Sequence[Cell]) -> list[Failure]:
    failures: list[Failure] = []
    done = {cell.run.folder: env_steps_done(cell) for cell in runs}
    total = sum(cell.run.env_steps for cell in runs)
    try:
        bar = ProgressBar(total=total, initial=sum(done.values()), unit="step", desc="training", smoothing=0.05)
        with bar, _ctrl_c() as stop:
            while tasks and not stop.is_set():
                for task in ray.wait(list(tasks), timeout=_POLL_SECONDS)[0]:
                    cell = tasks.pop(task)
                    error = _outcome(task)[1]
                    if (reason := _absence(cell) if error is None else error) is not None:
                        failures.append(Failure(cell, reason))
                    done[cell.run.folder] = env_steps_done(cell)
                done |= {cell.run.folder: env_steps_done(cell) for cell in tasks.values()}
                bar.set_postfix_str(f"{len(runs) - len(tasks) - len(failures)}/{len(runs)} runs", refresh=False)
                bar.update(sum(done.values()) - bar.n)
                bar.tick()
    finally:  # after an error or Ctrl-C, the others write a checkpoint and stop
        _stop(list(tasks), "the running cells to write a checkpoint")
    return [failure for failure in failures if not failure.cell.folder.complete]  # by another command, meanwhile


@ray.remote(max_retries=0)
def _train_cell(run: RunConfig) -> None:
    """One run in a process of its own; it tells its progress through a small file in its folder."""
    from cluster.progress import Progress
    from cluster.run import train

    hide_unreserved_gpus()
    folder = RunFolder(run.folder)
    if folder.complete:  # another command has trained it since this one began
        return
    last = time.monotonic()

    def watch(progress: Progress) -> None:
        """At most once in a while: a file for every step would cost more than some steps."""
        nonlocal last
        if time.monotonic() - last >= _POLL_SECONDS:
            folder.tell_progress(progress.env_steps)
            last = time.monotonic()

    train(run, watch, resume=folder.path if folder.started else None)


@ray.remote(max_retries=0)
def _prepare(runs: Sequence[RunConfig]) -> list[tuple[Path | None, str | None]]:
    """What each run begins with, or what kept it from being made: one failure leaves the others alone."""
    hide_unreserved_gpus()
    return [_prepared(run) for run in runs]


def _prepared(run: RunConfig) -> tuple[Path | None, str | None]:
    try:
        return prepare(run), None
    except Exception as error:
        return None, _told(error)


def _preparations_by_data(cells: Iterable[Cell]) -> list[list[RunConfig]]:
    """One run for each model, or data, that an open cell needs and does not name, grouped by the data."""
    wanted = [c.run for c in cells if needs_preparation(c.run) and not c.folder.complete]
    groups: dict[str, list[RunConfig]] = {}
    for run in {preparation_key(run): run for run in wanted if run.reads_data or run.generator.path is None}.values():
        groups.setdefault(data_key(run), []).append(run)
    return list(groups.values())


def _with_path(cell: Cell, path: Path | None) -> Cell:
    """The cell with its diffuser named; unchanged where it needs none."""
    if path is None:
        return cell
    return replace(cell, run=replace(cell.run, generator=replace(cell.run.generator, path=str(path))))


def _resources(run: RunConfig, gpus_per_cell: float) -> dict[str, float]:
    return {"num_cpus": run.threads, "num_gpus": gpus_per_cell}


def _require_room(runs: Sequence[RunConfig], gpus_per_cell: float) -> None:
    """Raise ``ValueError`` where this machine could never run a cell; a cluster may grow to what it lacks now."""
    threads = max(run.threads for run in runs)
    for name, wanted, remedy in (("CPU", threads, "lower threads"), ("GPU", gpus_per_cell, "lower gpus_per_cell")):
        most = max((node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if wanted <= most:
            continue
        if not os.environ.get("RAY_ADDRESS"):
            raise ValueError(f"a cell takes {wanted:g} {name}s and Ray has {most:g} here: {remedy}.")
        print(
            f"a cell takes {wanted:g} {name}s and no node of the cluster has more than {most:g} now: cells wait until "
            f"it grows. (Ctrl-C and {remedy}, if it cannot.)",
            file=sys.stderr,
        )


def _outcome(task: ray.ObjectRef[Any]) -> tuple[Any, str | None]:
    """What a task returned, or what became of it in words."""
    try:
        return ray.get(task), None
    except ray.exceptions.RayTaskError as error:
        return None, _told(error.cause or error)
    except ray.exceptions.RayError as error:  # its process was killed or its node was lost
        return None, _told(error)


def _told(error: BaseException) -> str:
    """An error in words. Those for people speak for themselves; of ``KeyError('x')`` the text alone is ``'x'``."""
    for_people = isinstance(error, ValueError | OSError) and str(error)
    return str(error) if for_people else f"{type(error).__name__}: {error}"


def _absence(cell: Cell) -> str | None:
    """What is wrong with a run that was trained elsewhere and is not seen from here."""
    if cell.folder.complete:
        return None
    return (
        f"it ended well, but {cell.folder.summary} is not there: on several nodes, output must be a folder that all of "
        "them see."
    )


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, and ``KeyboardInterrupt`` once the loop that looks at it has ended."""
    with stop_signal(signal.SIGINT) as stop:
        yield stop
    if stop.is_set():
        raise KeyboardInterrupt


def _stop(tasks: list[ray.ObjectRef[Any]], doing: str) -> None:
    """Have them write a checkpoint and end. That may take minutes: they look up between two rounds of updates, and a
    SynthER that is fitted anew is part of one."""
    for task in tasks:
        ray.cancel(task)
    if tasks and ray.wait(tasks, num_returns=len(tasks), timeout=_PATIENCE_SECONDS)[1]:
        print(f"\nwaiting for {doing}; Ctrl-C again ends them at once", file=sys.stderr)
        ray.wait(tasks, num_returns=len(tasks))
