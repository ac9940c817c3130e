"""Ranks in place of values: what counts is which are higher, not by how much."""

from __future__ import annotations

import numpy as np

from atradiff.types import FloatArray


def quantiles(values: FloatArray) -> FloatArray:
    """(N,) each value's rank among the finite ones, from 0 (the lowest) to 1 (the highest); equals share the middle of
    their ranks, and 0.5 where all are equal. What is not finite is NaN.
    """
    known = np.isfinite(values)
    some = np.sort(values[known])
    ranks = np.full(len(values), np.nan)
    ranks[known] = np.searchsorted(some, values[known], "left") + np.searchsorted(some, values[known], "right")
    if len(some) == 0 or some[0] == some[-1]:
        return np.where(known, 0.5, np.nan).astype(np.float32)
    low, high = np.nanmin(ranks), np.nanmax(ranks)
    return ((ranks - low) / (high - low)).astype(np.float32)
