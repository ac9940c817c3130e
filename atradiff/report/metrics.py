"""How alike are imagined and real rows? Plain functions on arrays: ``N`` imagined, ``M`` real rows, ``C`` columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.normalize import Normalizer, inverse
from atradiff.report.simulator import SimulatedSteps
from atradiff.types import BoolArray, FloatArray, IntArray, Spaces, Transitions


def marginal_similarity(imagined: FloatArray, real: FloatArray) -> FloatArray:
    """(C,) one minus the two-sample Kolmogorov-Smirnov statistic per column: 1 is alike, 0 is disjoint."""
    from scipy.stats import ks_2samp

    columns = zip(imagined.T, real.T, strict=True)
    return np.array([1 - ks_2samp(ours, theirs, method="asymp").statistic for ours, theirs in columns], np.float32)


def correlation_distance(imagined: FloatArray, real: FloatArray) -> float | None:
    """Mean absolute difference of Pearson's correlations over all pairs of columns; 0 is alike, 2 the worst.

    Columns that are constant among the real rows have no correlation and are left out; a column that is constant only
    among the imagined rows counts as uncorrelated. None where fewer than two columns move.
    """
    moving = real.std(axis=0) > 1e-6
    if moving.sum() < 2:
        return None
    pairs = np.triu_indices(int(moving.sum()), k=1)
    difference = _correlations(imagined[:, moving])[pairs] - _correlations(real[:, moving])[pairs]
    return float(np.abs(difference).mean())


def _correlations(rows: FloatArray) -> FloatArray:
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    lengths = np.linalg.norm(centred, axis=0)
    unit = centred / np.where(lengths > 0, lengths, 1)
    return np.asarray(unit.T @ unit)


def step_sizes(rows: Transitions, scales: Normalizer) -> FloatArray:
    """(N,) Euclidean length of s' - s, each dimension divided by its spread in the data."""
    steps = (rows.next_observations - rows.observations) * inverse(scales.delta_scale)
    return np.asarray(np.linalg.norm(steps, axis=1))


def step_errors(rows: Transitions, truth: SimulatedSteps, scales: Normalizer) -> FloatArray:
    """(N,) distance of s' to the true one, each dimension in units of its differences' spread; NaN where not valid."""
    gap = (rows.next_observations - truth.next_observations) * inverse(scales.delta_scale)
    return np.asarray(np.linalg.norm(gap, axis=1))


def relative_dynamics_error(rows: Transitions, truth: SimulatedSteps, scales: Normalizer) -> float | None:
    """Root mean square of the one-step error over that of the guess "the next state is the state", on the same rows.

    Dimensions count in units of the spread of their differences in the data; those that never move there do not count.
    None where no valid row is left or nothing moves.
    """
    weight = inverse(scales.delta_scale)
    error = (rows.next_observations - truth.next_observations)[truth.valid] * weight
    moved = (rows.observations - truth.next_observations)[truth.valid] * weight
    return _ratio(_rms(error), _rms(moved))


def relative_reward_error(rows: Transitions, truth: SimulatedSteps) -> float | None:
    """Root mean square reward error over that of predicting the mean. None where the true reward does not vary."""
    real = truth.rewards[truth.valid].astype(np.float64)
    if len(real) == 0 or np.ptp(real) <= 1e-6 * np.abs(real).max():
        return None
    return _ratio(_rms(rows.rewards[truth.valid] - real), float(real.std()))


def terminal_agreement(rows: Transitions, truth: SimulatedSteps) -> tuple[float, float, float]:
    """(accuracy, precision, recall) of ``terminated``; NaN where there is nothing to divide by."""
    said, true = rows.terminated[truth.valid], truth.terminated[truth.valid]
    both = float(np.sum(said & true))
    return (
        float(np.mean(said == true)) if len(true) else np.nan,
        both / said.sum() if said.any() else np.nan,
        both / true.sum() if true.any() else np.nan,
    )


def share(flags: BoolArray, among: BoolArray) -> float | None:
    """Of ``among`` (N,), where the flag is set; None where there is nobody."""
    return float(np.mean(flags[among])) if among.any() else None


def share_among(values: FloatArray, levels: FloatArray) -> float | None:
    """Share of ``values`` that equal one of ``levels``; None where there are no levels."""
    return float(np.isin(values, levels).mean()) if len(levels) else None


def row_features(rows: Transitions, spaces: Spaces) -> FloatArray:
    """(N, S + A + 1) next state, action (one-hot where discrete) and reward: what is imagined in a row."""
    actions = np.eye(spaces.n_actions, dtype=np.float32)[rows.actions] if spaces.discrete else rows.actions
    return np.concatenate([rows.next_observations, actions, rows.rewards[:, None]], axis=1).astype(np.float32)


def nearest_distances(queries: FloatArray, references: FloatArray, chunk: int = 64) -> FloatArray:
    """(N,) Euclidean distance from each query (N, C) to its nearest reference (M, C), by exhaustive search.

    In the 15 to 50 columns of a transition a k-d tree visits nearly every leaf; one matrix product is cheaper. The
    distances themselves come from the differences, since the product's rounding would hide exact copies.
    """
    squares = np.einsum("mc,mc->m", references, references)
    known = np.concatenate([references, squares[:, None]], axis=1).T
    asked = np.concatenate([-2 * queries, np.ones((len(queries), 1), queries.dtype)], axis=1)
    # |r|^2 - 2 q r in one product, in pieces that stay in the cache.
    nearest = [np.argmin(asked[i : i + chunk] @ known, axis=1) for i in range(0, len(asked), chunk)]
    return np.asarray(np.linalg.norm(queries - references[np.concatenate(nearest)], axis=1))


def nearest_windows(
    queries: FloatArray,
    lengths: IntArray,
    rows: FloatArray,
    windows: IntArray,
    origins: FloatArray,
    chunk: int = 4096,
) -> FloatArray:
    """(B,) distance from each window (B, K, C), its first ``lengths`` (B,) rows, to the nearest of M others.

    Those are ``rows[windows]``, of (R, C) rows and (M, K) row numbers, less ``origins`` (M, C). The distance is the
    root mean square over the numbers that are compared, so that windows of all lengths have one unit.
    """
    batch, length, width = queries.shape
    mask = (np.arange(length) < lengths[:, None]).astype(np.float32)
    flat = (queries * mask[..., None]).reshape(batch, -1)
    best, nearest = np.full(batch, np.inf, np.float32), np.zeros(batch, np.int64)
    for start in range(0, len(windows), chunk):
        here = slice(start, start + chunk)
        others = rows[windows[here]] - origins[here, None]
        squares = np.einsum("mkc,mkc->km", others, others)
        distances = mask @ squares - 2 * (flat @ others.reshape(len(others), -1).T)
        closest = distances.argmin(axis=1)
        found = distances[np.arange(batch), closest]
        nearest = np.where(found < best, start + closest, nearest)
        best = np.minimum(best, found)
    # Anew from the differences: the product's rounding would hide exact copies.
    gaps = (queries - (rows[windows[nearest]] - origins[nearest, None])) * mask[..., None]
    return np.asarray(np.sqrt(np.square(gaps).sum(axis=(1, 2)) / (lengths * width)), np.float32)


def rank_correlation(a: FloatArray, b: FloatArray) -> float | None:
    """Spearman's; None where fewer than three values, or only equal ones, say nothing."""
    from scipy.stats import spearmanr

    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def _rms(values: NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else np.nan


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if np.isfinite(denominator) and denominator > 0 else None
