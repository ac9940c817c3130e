"""What a grid would run and about how long that takes, judged by the runs that are complete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from atradiff.report.compare import duration
from atradiff.report.tables import aligned
from cluster.cells import Cell, distinct_runs, env_steps_done, needs_preparation, preparation_key
from cluster.grid import Grid


@dataclass(frozen=True)
class Estimate:
    """Wall seconds of one run after another; ``unknown`` open runs are of arms that no complete run tells about."""

    seconds: float
    known: int
    unknown: int


def estimate(cells: Sequence[Cell]) -> Estimate:
    """What the open runs will take, by the pace of complete runs of the same arm: on the same task, else on any."""
    runs = distinct_runs(cells)
    paces = {cell.run.folder: pace for cell in runs if (pace := _seconds_per_step(cell)) is not None}
    told = [cell for cell in cells if cell.run.folder in paces]  # shared runs tell about all of their cells
    seconds, unknown = 0.0, 0
    waiting = [cell for cell in runs if not cell.folder.complete]
    for cell in waiting:
        alike = [other for other in told if other.arm == cell.arm]
        nearest = [other for other in alike if other.task == cell.task] or alike
        if nearest:
            left = cell.run.env_steps - env_steps_done(cell)
            seconds += left * float(np.median([paces[other.run.folder] for other in nearest]))
        else:
            unknown += 1
    return Estimate(seconds, len(waiting) - unknown, unknown)


def plan_text(grid: Grid, cells: Sequence[Cell]) -> str:
    """The cells with what is done of them, and the estimate, for the terminal."""
    runs = distinct_runs(cells)
    waiting = [cell for cell in runs if not cell.folder.complete]
    header = ["task", "arm", "env steps", "seeds"]
    pairs = dict.fromkeys((cell.task, cell.arm) for cell in sorted(cells, key=lambda c: list(grid.tasks).index(c.task)))
    rows = [_row(task, arm, [c for c in cells if (c.task, c.arm) == (task, arm)]) for task, arm in pairs]
    steps = sum(cell.run.env_steps - env_steps_done(cell) for cell in waiting)
    lines = [
        aligned([header, *rows]),
        "",
        f"{len(cells)} cells are {len(runs)} runs; {len(runs) - len(waiting)} complete, {len(waiting)} to do: "
        f"{steps:,} environment steps",
        f"offline data and diffusers to find or make: {_diffusers(waiting)}",
        _cost(cells, waiting),
    ]
    return "\n".join(lines)


def _row(task: str, arm: str, cells: Sequence[Cell]) -> list[str]:
    states = ", ".join(f"{cell.run.seed} {_state(cell)}" for cell in cells)
    return [task, arm, f"{cells[0].run.env_steps:,}", states]


def _state(cell: Cell) -> str:
    if cell.folder.complete:
        return "complete"
    return f"at {cell.folder.progress():,}" if cell.folder.started else "to do"


def _diffusers(cells: Iterable[Cell]) -> int:
    wanted = [cell.run for cell in cells if needs_preparation(cell.run)]
    return len({preparation_key(run) for run in wanted})


def _cost(cells: Sequence[Cell], waiting: Sequence[Cell]) -> str:
    if not waiting:
        return "nothing is left to run"
    cost = estimate(cells)
    if not cost.known:
        return "no complete run tells yet how long one takes: run one seed first (--seeds [0])"
    places = max((os.cpu_count() or 1) // max(cell.run.threads for cell in waiting), 1)
    text = (
        f"about {duration(cost.seconds)} of runs one after another, {duration(cost.seconds / places)} with {places} at "
        "once, as this machine's CPUs allow"
    )
    return text + (f"; {cost.unknown} more runs are of arms of which none is complete yet" if cost.unknown else "")


def _seconds_per_step(cell: Cell) -> float | None:
    """None of a run that is not complete, or whose summary cannot be read: the report says what is wrong with it."""
    if not cell.folder.complete:
        return None
    try:
        cost = cell.folder.cost()
    except ValueError:
        return None
    return cost.wall_seconds / cost.env_steps
