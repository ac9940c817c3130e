"""Where a window really ends: what follows an episode's end is padding that stands still (ATraDiff, section 4.2)."""

from __future__ import annotations

import numpy as np

from atradiff.config import Prune
from atradiff.types import BoolArray, FloatArray, IntArray

STILL = 0.1
"""Steps below this share of a usual one stand still, the generator's own noise aside. At 0.25, calm stretches of real
motion are pruned (``benchmarks.pruning``)."""


def kept_rows(method: Prune, states: FloatArray, lengths: IntArray, scale: FloatArray, noise: float) -> IntArray:
    """(B,) rows to keep of windows with ``states`` (B, K + 1, S) and ``lengths`` (B,) real rows.

    ``scale`` (S,) is the spread of real differences, ``noise`` the generator's own, in units of ``scale``.
    """
    if method == "none":
        return lengths
    similarity = step_similarity(states, scale)
    if method == "paper":
        return paper_rows(similarity, lengths)
    return gated_rows(similarity, lengths, tolerance=STILL + 1.1 * noise)


def step_similarity(states: FloatArray, scale: FloatArray) -> FloatArray:
    """(B, K) minus the size of each step: the root mean square over the columns that move, in units of ``scale``."""
    moving = scale > 0
    steps = np.diff(states[..., moving], axis=1) / scale[moving]
    return -np.sqrt(np.square(steps).sum(-1) / max(moving.sum(), 1)).astype(np.float32)


def paper_rows(similarity: FloatArray, lengths: IntArray) -> IntArray:
    """The paper's rule as printed: end at the state i, 1 < i < n, where |pre_i - suf_i| is largest (section 4.2).

    Of the n - 1 similarities c of n states, pre_i is the mean of c_1..c_i and suf_i that of c_{i-1}..c_{n-1}. The
    overlap puts even a clean end off by one, and windows with nothing to prune are cut too; kept for the ablation.
    """
    end = np.arange(1, similarity.shape[1] + 1)  # i, as a one-based state index
    real = np.where(end <= lengths[:, None], similarity, np.float32(0))
    total = np.concatenate([np.zeros((len(real), 2)), np.cumsum(real, axis=1)], axis=1)
    before = total[:, 2:] / end
    after = (total[:, -1:] - total[:, :-2]) / np.maximum(lengths[:, None] + 2 - end, 1)
    valid = (end > 1) & (end <= lengths[:, None]) & (lengths[:, None] >= 3)
    best = np.where(valid, np.abs(before - after), -np.inf)
    return np.where(lengths >= 3, best.argmax(1), lengths)  # column i - 1: state i is the last of i - 1 rows


def gated_rows(similarity: FloatArray, lengths: IntArray, tolerance: float) -> IntArray:
    """The cut of largest explained variance, taken only where what follows stands still within ``tolerance``.

    Where the paper's rule always cuts, this one keeps a window whose tail moves. For e rows kept of K, the score is
    (after - before)^2 e (K - e) / K: the drop in squared error of fitting two means instead of one.
    """
    difference, valid = _mean_after_minus_before(similarity, lengths)
    kept = np.arange(1, similarity.shape[1] + 1)
    score = difference**2 * kept * (lengths[:, None] - kept) / lengths[:, None]
    cut = _cut(np.where(valid & (difference > 0), score, -np.inf).astype(np.float32), lengths)
    after = _suffix_means(similarity, lengths)[np.arange(len(cut)), np.minimum(cut, lengths - 1) - 1]
    return np.where((cut < lengths) & (after >= -tolerance), cut, lengths)


def _cut(score: FloatArray, lengths: IntArray) -> IntArray:
    """(B,) rows before the best cut, all of them where none is allowed."""
    return np.where(np.isfinite(score).any(axis=1), score.argmax(1) + 1, lengths)


def _mean_after_minus_before(similarity: FloatArray, lengths: IntArray) -> tuple[FloatArray, BoolArray]:
    """(B, K) for a cut after each row, and where such a cut is allowed: inside windows of 3 rows or more."""
    kept = np.arange(1, similarity.shape[1] + 1)
    before = np.cumsum(similarity, axis=1) / kept.astype(np.float32)
    valid = (kept < lengths[:, None]) & (lengths[:, None] >= 3)
    return np.asarray(_suffix_means(similarity, lengths) - before, np.float32), valid


def _suffix_means(similarity: FloatArray, lengths: IntArray) -> FloatArray:
    kept = np.arange(1, similarity.shape[1] + 1)
    real = np.where(kept <= lengths[:, None], similarity, np.float32(0))
    total = real.sum(1, keepdims=True)
    after = (total - np.cumsum(real, axis=1)) / np.maximum(lengths[:, None] - kept, 1)
    return np.asarray(after, np.float32)
