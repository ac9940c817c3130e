"""How many environment steps an arm needs for what its baseline ends with, relative to the baseline's own steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atradiff.report.aggregate import percentile_interval
from atradiff.report.curves import RunCurve, align
from atradiff.report.stats import Interval, Numbers, interquartile_mean, steps_to_threshold


@dataclass(frozen=True)
class StepsRatio:
    """0.5 is half the baseline's steps, infinite is never.

    ``at_most``: the baseline itself never got there, so that its whole length stands in for its steps. Where the ratio
    is infinite as well, neither got there.
    """

    ratio: Interval
    threshold: float
    at_most: bool

    @property
    def reached(self) -> bool:
        """Whether the arm got there."""
        return math.isfinite(self.ratio.value)

    def __str__(self) -> str:
        if not self.reached:
            return "neither" if self.at_most else "never"
        ends = [f"{end:.2f}" if math.isfinite(end) else "never" for end in (self.ratio.low, self.ratio.high)]
        return f"{_bound(self.at_most)}{self.ratio.value:.2f} [{', '.join(ends)}]"


@dataclass(frozen=True)
class StepsOverTasks:
    """The median over ``tasks`` tasks, on ``reached`` of which the arm got there; the others count as infinite.

    ``at_most``: a ratio that is a bound takes part in it. An infinite median is one whatever the bounds are.
    """

    ratio: float
    at_most: bool
    reached: int
    tasks: int

    @classmethod
    def of(cls, ratios: Sequence[StepsRatio]) -> StepsOverTasks:
        """One arm's ratios, of which there must be one at least."""
        median = float(np.median([steps.ratio.value for steps in ratios]))
        reached = [steps for steps in ratios if steps.reached]
        at_most = math.isfinite(median) and any(steps.at_most for steps in reached)
        return cls(median, at_most, len(reached), len(ratios))

    def __str__(self) -> str:
        text = f"{_bound(self.at_most)}{self.ratio:.2f}" if math.isfinite(self.ratio) else "never"
        return text if self.reached == self.tasks else f"{text} ({self.reached} of {self.tasks} tasks)"


def _bound(at_most: bool) -> str:
    return "≤ " if at_most else ""


@dataclass(frozen=True)
class _Aligned:
    """The runs of one arm: (P,) steps, (R, P) returns at them and (R,) final returns."""

    steps: Numbers
    returns: Numbers
    finals: Numbers

    @classmethod
    def of(cls, runs: Sequence[RunCurve], final_evaluations: int) -> _Aligned:
        steps, returns = align(runs)
        return cls(steps, returns, np.array([run.final_return(final_evaluations) for run in runs]))

    def redrawn(self, rng: np.random.Generator) -> _Aligned:
        chosen = rng.integers(len(self.finals), size=len(self.finals))
        return _Aligned(self.steps, self.returns[chosen], self.finals[chosen])

    def steps_to(self, threshold: float) -> float | None:
        """Steps at which the interquartile mean of the runs first reaches ``threshold``."""
        return steps_to_threshold(self.steps, interquartile_mean(self.returns, axis=0), threshold)


def steps_ratio(
    ours: Sequence[RunCurve],
    theirs: Sequence[RunCurve],
    *,
    threshold: float | None = None,
    final_evaluations: int = 3,
    seed: int = 0,
    resamples: int = 500,
) -> StepsRatio:
    """Steps of the arm ``ours`` to ``threshold``, divided by those of its baseline ``theirs``.

    ``threshold`` is a return; by default it is what the baseline ends with: the interquartile mean over its runs of
    the mean of their last ``final_evaluations`` evaluations. Steps are read off the interquartile mean of an arm's
    curves. The interval redraws runs of both arms, and with the baseline's also its final return; ends may be finite
    where the ratio is not.
    """
    arm, baseline = _Aligned.of(ours, final_evaluations), _Aligned.of(theirs, final_evaluations)
    value, goal, at_most = _ratio(arm, baseline, threshold)
    rng = np.random.default_rng(seed)
    draws = [_ratio(arm.redrawn(rng), baseline.redrawn(rng), threshold)[0] for _ in range(resamples)]
    return StepsRatio(percentile_interval(value, draws), goal, at_most)


def _ratio(arm: _Aligned, baseline: _Aligned, threshold: float | None) -> tuple[float, float, bool]:
    """The ratio, the return that it is about, and whether the baseline never got there."""
    goal = float(interquartile_mean(baseline.finals)) if threshold is None else threshold
    ours, theirs = arm.steps_to(goal), baseline.steps_to(goal)
    denominator = float(baseline.steps[-1]) if theirs is None else theirs
    if ours is None:
        return math.inf, goal, theirs is None
    if denominator == 0:  # curves from elsewhere may begin at step 0, where the baseline may stand as well as it ends
        return (1.0 if ours == 0 else math.inf), goal, theirs is None
    return ours / denominator, goal, theirs is None
