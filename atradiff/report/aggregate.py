"""One figure for many tasks: aggregates of normalised scores with stratified bootstrap intervals.

The measures are those of Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice",
and agree with their package rliable where every task has equally many runs. Scores run from 0 to 100. ``Strata`` are
one array ``(..., R_t)`` per task, runs last; leading axes are bootstrap resamples or points of a curve.

``groups`` say which tasks share their runs, one hashable per task: tasks of one group have the same runs in the same
order, and a resample redraws these once for all of them. Redrawn task by task they would pass for independent, and the
interval would be too narrow. By default no task shares its runs. ``ValueError`` where groups do not match the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atradiff.report.stats import Interval, Numbers, interquartile_mean, probability_of_improvement

Strata = Sequence[Numbers]
Groups = Sequence[Hashable]
Aggregate = Callable[[Strata], Numbers]
"""Reduces the runs of all tasks: ``(...)`` from arrays ``(..., R_t)``."""

FULL_SCORE = 100.0
RESAMPLES = 2000


def iqm(scores: Strata) -> Numbers:
    """Interquartile mean over the runs of all tasks together."""
    values: Numbers = interquartile_mean(np.concatenate(scores, axis=-1), axis=-1)
    return values


def median(scores: Strata) -> Numbers:
    """Median over tasks of the mean over a task's runs."""
    return np.median(_task_means(scores), axis=0)


def mean(scores: Strata) -> Numbers:
    """Mean over tasks of the mean over a task's runs."""
    return _task_means(scores).mean(axis=0)


def optimality_gap(scores: Strata) -> Numbers:
    """How far the runs stay below a score of 100 on average; what lies above it earns nothing. Lower is better."""
    return FULL_SCORE - _task_means([np.minimum(values, FULL_SCORE) for values in scores]).mean(axis=0)


AGGREGATES: dict[str, Aggregate] = {
    "IQM": iqm,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def aggregate_interval(
    scores: Sequence[ArrayLike],
    aggregate: Aggregate,
    *,
    seed: int,
    groups: Groups | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """``aggregate`` with its percentile interval; runs are redrawn within their own task. ``scores``: (R_t,) per task.

    Raises ``ValueError`` for a task without runs.
    """
    strata = _checked(scores)
    redrawn = _redraw(strata, _groups(strata, groups), np.random.default_rng(seed), resamples)
    return percentile_interval(float(aggregate(strata)), aggregate(redrawn), confidence)


def runs_interval(scores: ArrayLike, *, seed: int) -> Interval:
    """Interquartile mean of the runs of one task (R,), with its interval; ``ValueError`` where there is none."""
    return aggregate_interval([scores], iqm, seed=seed)


def improvement_interval(
    ours: Sequence[ArrayLike],
    theirs: Sequence[ArrayLike],
    *,
    seed: int,
    our_groups: Groups | None = None,
    their_groups: Groups | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """Chance that a run of ours beats one of theirs on the same task, averaged over tasks; both sides are redrawn.

    Each side has groups of its own. Raises ``ValueError`` for sides of unequal length or a task without runs.
    """
    a, b = _checked(ours), _checked(theirs)
    if len(a) != len(b):
        raise ValueError(f"both sides need the same tasks, got {len(a)} and {len(b)}.")
    rng = np.random.default_rng(seed)
    draws = _improvements(
        _redraw(a, _groups(a, our_groups), rng, resamples), _redraw(b, _groups(b, their_groups), rng, resamples)
    )
    value = float(np.mean([probability_of_improvement(x, y) for x, y in zip(a, b, strict=True)]))
    return percentile_interval(value, draws, confidence)


def aggregate_curve(
    curves: Sequence[Numbers],
    aggregate: Aggregate,
    *,
    seed: int,
    groups: Groups | None = None,
    resamples: int = 500,
    confidence: float = 0.95,
) -> tuple[Numbers, Numbers, Numbers]:
    """``aggregate`` at each of P points with its pointwise interval: three arrays (P,). ``curves``: (R_t, P) per task.

    Whole runs are redrawn, so that a resampled curve is made of real ones.
    """
    rng, groups = np.random.default_rng(seed), _groups(curves, groups)
    strata = [runs.T for runs in curves]  # (P, R_t)
    draws = [aggregate(_redraw(strata, groups, rng)) for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return aggregate(strata), low, high


def runs_curve(returns: Numbers, *, seed: int, resamples: int = 1000) -> tuple[Numbers, Numbers, Numbers]:
    """Interquartile mean of one task's runs (R, P) at each point, with its pointwise interval: three arrays (P,)."""
    return aggregate_curve([returns], iqm, seed=seed, resamples=resamples)


def performance_profile(
    scores: Sequence[ArrayLike],
    levels: ArrayLike,
    *,
    seed: int,
    groups: Groups | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[Numbers, Numbers, Numbers]:
    """Share of runs that score above each of the P levels, each task counted alike, with its interval: three (P,)."""
    strata = _checked(scores)
    above = [(values[:, None] > np.asarray(levels, np.float64)).astype(np.float64) for values in strata]  # (R_t, P)
    return aggregate_curve(above, mean, seed=seed, groups=groups, resamples=resamples, confidence=confidence)


def percentile_interval(value: float, draws: ArrayLike, confidence: float = 0.95) -> Interval:
    """``value`` with the middle ``confidence`` of the bootstrap draws. Draws may be infinite: those are never reached.

    Nothing can be interpolated between a number and infinity: with such draws the ends are draws themselves.
    """
    tail, drawn = (1 - confidence) / 2, np.asarray(draws, np.float64)
    low, high = np.quantile(drawn, [tail, 1 - tail], method="linear" if np.isfinite(drawn).all() else "nearest")
    return Interval(value, float(low), float(high))


def _checked(scores: Sequence[ArrayLike]) -> list[Numbers]:
    strata = [np.asarray(values, np.float64) for values in scores]
    if not strata or any(values.ndim != 1 or len(values) == 0 for values in strata):
        raise ValueError(f"each task needs at least one run in one dimension, got {[v.shape for v in strata]}.")
    return strata


def _groups(strata: Strata, groups: Groups | None) -> Groups:
    """``groups``, by default one per stratum, held against the strata, whose first axis counts runs."""
    if groups is None:
        return range(len(strata))
    runs = [len(values) for values in strata]
    if len(groups) != len(runs) or len(set(zip(groups, runs, strict=True))) != len(set(groups)):
        raise ValueError(
            f"each task needs a group, and a group's tasks equally many runs, got {groups} for {runs} runs."
        )
    return groups


def _redraw(strata: Strata, groups: Groups, rng: np.random.Generator, *resamples: int) -> list[Numbers]:
    """Redrawn runs (..., N, R_t), without N one redrawing (..., R_t): the same ones wherever the group is the same."""
    drawn: dict[Hashable, NDArray[np.int64]] = {}
    for values, group in zip(strata, groups, strict=True):
        if group not in drawn:
            count = values.shape[-1]
            drawn[group] = rng.integers(count, size=(*resamples, count))
    return [values[..., drawn[group]] for values, group in zip(strata, groups, strict=True)]


def _task_means(scores: Strata) -> Numbers:
    return np.stack([values.mean(axis=-1) for values in scores])


def _improvements(ours: Strata, theirs: Strata) -> Numbers:
    """(resamples,) the mean over tasks of Mann-Whitney's U over the pairs of runs, ties counted half."""
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        sign = np.sign(a[:, :, None] - b[:, None, :])
        shares.append((sign.mean(axis=(1, 2)) + 1) / 2)
    return np.mean(shares, axis=0)
