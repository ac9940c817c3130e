"""Learning curves of finished or running trainings: one ``metrics.csv`` per run, one row per evaluation."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atradiff.report.stats import Numbers, area_under_curve

COLUMNS = ("env_steps", "eval_return", "wall_seconds")


@dataclass(frozen=True)
class RunCurve:
    """The evaluations of one run, in the order of their environment steps."""

    steps: Numbers  # (P,) environment steps, strictly rising
    returns: Numbers  # (P,) mean undiscounted return of the evaluation episodes
    wall_seconds: Numbers  # (P,) seconds since the run started

    def final_return(self, evaluations: int) -> float:
        """Mean of the last ``evaluations`` evaluations (of all of them where there are fewer)."""
        return float(self.returns[-evaluations:].mean())

    def until(self, env_steps: float) -> RunCurve:
        """The evaluations within the first ``env_steps``."""
        within = self.steps <= env_steps
        return RunCurve(self.steps[within], self.returns[within], self.wall_seconds[within])

    @property
    def area(self) -> float:
        """Mean return along the way: the area under the curve over the steps that it spans."""
        return area_under_curve(self.steps, self.returns)


def read_run(folder: Path) -> RunCurve:
    """Read ``folder/metrics.csv``; columns other than :data:`COLUMNS` are ignored.

    Raises ``ValueError`` naming file, row and remedy for missing columns, values that are no finite numbers, steps
    that do not rise, or a file without any evaluation; ``FileNotFoundError`` where there is no such file.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name the folder of a run that has evaluated at least once.")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; it has {reader.fieldnames}.")
        rows = [_numbers(path, number, row) for number, row in enumerate(reader, start=2)]
    if not rows:
        raise ValueError(f"{path} holds no evaluation yet: let the run reach its first one.")
    steps, returns, wall = np.array(rows).T
    if np.any(np.diff(steps) <= 0):
        line = int(np.flatnonzero(np.diff(steps) <= 0)[0]) + 3
        raise ValueError(f"{path}, line {line}: env_steps must rise from row to row; remove the repeated part.")
    return RunCurve(steps, returns, wall)


def _numbers(path: Path, line: int, row: dict[str, str | None]) -> list[float]:
    values = []
    for name in COLUMNS:
        try:
            values.append(float(row[name] or "nan"))
        except ValueError:
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            raise ValueError(f"{path}, line {line}: {name} is {row[name]!r}, which is no finite number.")
    return values


def align(curves: Sequence[RunCurve]) -> tuple[Numbers, Numbers]:
    """(P,) steps that all runs cover and (R, P) returns there, linear between a run's own evaluations.

    Raises ``ValueError`` when the runs have no step in common.
    """
    first = max(curve.steps[0] for curve in curves)
    last = min(curve.steps[-1] for curve in curves)
    if first > last:
        raise ValueError(f"the runs have no steps in common: one starts at {first:g} and another ends at {last:g}.")
    grid = np.unique(np.concatenate([curve.steps for curve in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, curve.steps, curve.returns) for curve in curves])
