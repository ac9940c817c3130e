"""Per-dimension statistics of a data set, kept beside it so that a reader need not pass over it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.types import Transitions

_BLOCK_ROWS = 262_144


@dataclass(frozen=True)
class ColumnStatistics:
    """Moments over all rows, one entry per dimension (population standard deviation)."""

    mean: list[float]
    std: list[float]
    min: list[float]
    max: list[float]


def column_statistics(columns: Transitions) -> dict[str, dict[str, list[float]]]:
    """Statistics of the observations, their one-step differences, the actions and the rewards, in float64."""
    every: dict[str, list[NDArray[Any]]] = {
        "observations": [columns.observations],
        "differences": [columns.next_observations, columns.observations],
        "actions": [columns.actions],
        "rewards": [columns.rewards],
    }
    return {name: asdict(_statistics(*arrays)) for name, arrays in every.items()}


def _statistics(column: NDArray[Any], minus: NDArray[Any] | None = None) -> ColumnStatistics:
    """Two passes in blocks (mean first, then squared deviations), so that memory stays small and nothing cancels."""
    n = len(column)
    mean = sum(block.sum(axis=0) for block in _blocks(column, minus)) / n
    variance = sum(((block - mean) ** 2).sum(axis=0) for block in _blocks(column, minus)) / n
    low = np.min([block.min(axis=0) for block in _blocks(column, minus)], axis=0)
    high = np.max([block.max(axis=0) for block in _blocks(column, minus)], axis=0)
    return ColumnStatistics(*(np.atleast_1d(x).tolist() for x in (mean, np.sqrt(variance), low, high)))


def _blocks(column: NDArray[Any], minus: NDArray[Any] | None) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(column), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        block = column[rows].astype(np.float64)
        yield block if minus is None else block - minus[rows]
