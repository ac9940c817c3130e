"""Arms of one experiment side by side: a picture, a table for people and a table for programs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atradiff.report.aggregate import runs_interval
from atradiff.report.curves import RunCurve, read_run
from atradiff.report.plots import save_learning_curves
from atradiff.report.stats import (
    Interval,
    interquartile_mean,
    probability_of_improvement,
    steps_to_threshold,
)
from atradiff.report.tables import aligned, markdown
from atradiff.staging import staged_file, write_text

HEADER = (
    "arm",
    "seeds",
    "final return, IQM [95 %]",
    "area under curve, IQM [95 %]",
    "P(better than {baseline})",
    "steps to {threshold:.4g}",
    "wall clock",
)


@dataclass(frozen=True)
class ArmSummary:
    """What R runs of one arm came to."""

    name: str
    n_seeds: int
    final_return: Interval  # interquartile mean over runs of the mean of the last evaluations
    area: Interval  # interquartile mean over runs of the mean return along the way
    improvement: float  # probability that a run's final return beats one of the first arm's; 0.5 for that arm itself
    steps_to_threshold: float | None  # median over runs, where more than half of them get there
    n_reached: int  # runs that reach the threshold at all
    wall_seconds: float  # median over runs
    env_steps: float  # the last evaluation of the shortest run


@dataclass(frozen=True)
class ComparisonTable:
    """The arms in the order they were given; the first one is the baseline that the others are held against."""

    arms: tuple[ArmSummary, ...]
    threshold: float
    final_evaluations: int

    def cells(self) -> list[list[str]]:
        """Header and one row per arm, as text."""
        names = {"baseline": self.arms[0].name, "threshold": self.threshold}
        return [[title.format(**names) for title in HEADER], *[self._row(arm) for arm in self.arms]]

    def _row(self, arm: ArmSummary) -> list[str]:
        return [
            arm.name,
            str(arm.n_seeds),
            str(arm.final_return),
            str(arm.area),
            "-" if arm is self.arms[0] else f"{arm.improvement:.2f}",
            f"{_steps(arm.steps_to_threshold)} ({arm.n_reached}/{arm.n_seeds} runs)",
            duration(arm.wall_seconds),
        ]

    def note(self) -> str:
        """How to read the figures, in one paragraph."""
        text = (
            f"Final return: mean of a run's last {self.final_evaluations} evaluations. Area: mean return along the "
            f"way. IQM: interquartile mean over seeds, with a bootstrap interval. Steps and wall clock: medians."
        )
        shortest, longest = min(a.env_steps for a in self.arms), max(a.env_steps for a in self.arms)
        if shortest < longest:
            text += f" Mind that the arms are of unequal length: {shortest:g} to {longest:g} environment steps."
        return text

    def to_text(self) -> str:
        """A table for the terminal."""
        return f"{aligned(self.cells())}\n\n{self.note()}\n"

    def to_markdown(self) -> str:
        """A table for a README."""
        return f"{markdown(self.cells())}\n\n{self.note()}\n"


def compare_runs(
    arms: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    threshold: float | None = None,
    final_evaluations: int = 3,
    title: str = "",
    seed: int = 0,
) -> ComparisonTable:
    """Compare arms (name -> folders of runs with a ``metrics.csv``) and write ``out/comparison.{png,md,csv}``.

    ``threshold`` is the return that steps are counted to; by default it is what the first arm ends with (its final
    interquartile mean), so that the column reads "how soon do the others get there". Raises ``ValueError`` for an arm
    without runs and whatever :func:`~atradiff.report.curves.read_run` raises, before anything is written.
    """
    empty = [name for name, folders in arms.items() if not folders]
    if not arms or empty:
        raise ValueError(f"each arm needs at least one run, got none for: {', '.join(empty) or 'any arm'}.")
    curves = {name: [read_run(Path(folder)) for folder in folders] for name, folders in arms.items()}
    baseline = [curve.final_return(final_evaluations) for curve in next(iter(curves.values()))]
    goal = float(interquartile_mean(baseline)) if threshold is None else threshold
    summaries = tuple(_summary(name, runs, baseline, goal, final_evaluations, seed) for name, runs in curves.items())
    table = ComparisonTable(summaries, goal, final_evaluations)
    save_learning_curves(curves, out / "comparison.png", threshold=threshold, title=title, seed=seed)
    write_text(out / "comparison.md", table.to_markdown())
    _write_csv(table, out / "comparison.csv")
    return table


def _summary(
    name: str, runs: Sequence[RunCurve], baseline: Sequence[float], goal: float, last: int, seed: int
) -> ArmSummary:
    finals = [run.final_return(last) for run in runs]
    reached = [steps_to_threshold(run.steps, run.returns, goal) for run in runs]
    return ArmSummary(
        name=name,
        n_seeds=len(runs),
        final_return=runs_interval(finals, seed=seed),
        area=runs_interval([run.area for run in runs], seed=seed),
        improvement=probability_of_improvement(finals, baseline),
        steps_to_threshold=_median_reached(reached),
        n_reached=sum(steps is not None for steps in reached),
        wall_seconds=float(np.median([run.wall_seconds[-1] for run in runs])),
        env_steps=float(min(run.steps[-1] for run in runs)),
    )


def _median_reached(reached: Sequence[float | None]) -> float | None:
    """Median where a run that never arrives counts as infinitely late; None when that median is infinite."""
    median = float(np.median([np.inf if steps is None else steps for steps in reached]))
    return median if np.isfinite(median) else None


def _write_csv(table: ComparisonTable, path: Path) -> None:
    rows = [_csv_row(arm, table.threshold) for arm in table.arms]
    with staged_file(path) as stage, stage.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _csv_row(arm: ArmSummary, threshold: float) -> dict[str, str | float | None]:
    return {
        "arm": arm.name,
        "seeds": arm.n_seeds,
        "final_return": arm.final_return.value,
        "final_return_low": arm.final_return.low,
        "final_return_high": arm.final_return.high,
        "area": arm.area.value,
        "area_low": arm.area.low,
        "area_high": arm.area.high,
        "improvement": arm.improvement,
        "threshold": threshold,
        "steps_to_threshold": arm.steps_to_threshold,
        "reached": arm.n_reached,
        "wall_seconds": arm.wall_seconds,
        "env_steps": arm.env_steps,
    }


def _steps(steps: float | None) -> str:
    return "never" if steps is None else f"{steps:,.0f}"


def duration(seconds: float) -> str:
    """``2 h 05 min`` or ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
