"""Statistics for few runs: interquartile means, bootstrap intervals, probability of improvement, curve summaries.

The aggregate measures are those of Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical
precipice". ``R`` counts runs, ``P`` points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
Statistic = Callable[..., Any]
"""Reduces an array of scores along the keyword ``axis``, like :func:`numpy.mean`."""


@dataclass(frozen=True)
class Interval:
    """A statistic with the ends of its confidence interval. One run has no spread: its ends equal the value."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        size = max(abs(self.value), abs(self.low), abs(self.high))
        digits = 0 if size >= 100 else 1 if size >= 10 else 3
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interquartile_mean(scores: ArrayLike, axis: int | None = None) -> Any:
    """Mean after a quarter of the values is dropped at either end; with fewer than four values the plain mean."""
    from scipy.stats import trim_mean

    return trim_mean(np.asarray(scores, np.float64), 0.25, axis=axis)


def stratified_bootstrap(
    strata: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of ``statistic`` over all scores, where runs are redrawn within their own stratum (task).

    ``strata`` holds one one-dimensional array of run scores per task. Raises ``ValueError`` for an empty stratum.
    """
    groups = [np.asarray(stratum, np.float64) for stratum in strata]
    if not groups or any(group.ndim != 1 or len(group) == 0 for group in groups):
        raise ValueError(
            f"each stratum needs at least one run score in one dimension, got {[g.shape for g in groups]}."
        )
    rng = np.random.default_rng(seed)
    redrawn = np.concatenate([rng.choice(group, (resamples, len(group))) for group in groups], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(redrawn, axis=1), [tail, 1 - tail])
    return Interval(float(statistic(np.concatenate(groups), axis=0)), float(low), float(high))


def curve_interval(
    curves: ArrayLike, *, seed: int, resamples: int = 1000, confidence: float = 0.95
) -> tuple[Numbers, Numbers, Numbers]:
    """Interquartile mean over runs at each point, with its pointwise bootstrap interval: three arrays (P,).

    ``curves`` is (R, P). Whole runs are redrawn, so a resampled curve is made of real ones.
    """
    runs = np.asarray(curves, np.float64)
    rng = np.random.default_rng(seed)
    draws = np.stack(
        [interquartile_mean(runs[rng.integers(len(runs), size=len(runs))], axis=0) for _ in range(resamples)]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return interquartile_mean(runs, axis=0), low, high


def probability_of_improvement(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Chance that a run of ours beats a run of theirs, ties counted half: Mann-Whitney's U over the pairs of runs."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if len(a) == 0 or len(b) == 0:
        raise ValueError(f"both sides need at least one run score, got {len(a)} and {len(b)}.")
    difference = a[:, None] - b[None, :]
    return float(np.mean(difference > 0) + 0.5 * np.mean(difference == 0))


def area_under_curve(steps: ArrayLike, returns: ArrayLike) -> float:
    """Trapezoid area divided by the steps it spans: the mean return along the way, in the unit of a return."""
    x, y = np.asarray(steps, np.float64), np.asarray(returns, np.float64)
    if len(x) == 1:
        return float(y[0])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def steps_to_threshold(steps: ArrayLike, returns: ArrayLike, threshold: float) -> float | None:
    """Environment steps at the first evaluation whose return is at least ``threshold``; None when none is."""
    reached = np.flatnonzero(np.asarray(returns, np.float64) >= threshold)
    return float(np.asarray(steps)[reached[0]]) if len(reached) else None
