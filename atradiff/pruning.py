"""Where a window really ends: what follows an episode's end is padding that stands still (ATraDiff, section 4.2)."""

from __future__ import annotations

import numpy as np

from atradiff.config import Prune
from atradiff.types import BoolArray, FloatArray, IntArray


def kept_rows(method: Prune, states: FloatArray, lengths: IntArray, scale: FloatArray, noise: float) -> IntArray:
    """(B,) rows to keep of windows with ``states`` (B, K + 1, S) and ``lengths`` (B,) real rows.

    ``scale`` (S,) is the spread of real differences, ``noise`` the generator's own, in units of ``scale``.
    """
    if method == "none":
        return lengths
    similarity = step_similarity(states, scale)
    if method == "paper":
        return paper_rows(similarity, lengths)
    return gated_rows(similarity, lengths, tolerance=0.25 + 1.1 * noise)


def step_similarity(states: FloatArray, scale: FloatArray) -> FloatArray:
    """(B, K) minus the size of each step: the root mean square over the columns that move, in units of ``scale``."""
    moving = scale > 0
    steps = np.diff(states[..., moving], axis=1) / scale[moving]
    return -np.sqrt(np.square(steps).sum(-1) / max(moving.sum(), 1)).astype(np.float32)


def paper_rows(similarity: FloatArray, lengths: IntArray) -> IntArray:
    """The paper's rule as printed: the cut where the means before and after differ most.

    It is off by one on a clean step and cuts windows that have nothing to prune; kept for the ablation.
    """
    difference, valid = _mean_after_minus_before(similarity, lengths)
    score = np.where(valid, np.abs(difference), np.float32(-np.inf))
    return _cut(score, lengths)


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
