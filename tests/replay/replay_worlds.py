"""Rows that know their number, for tests of everything round the replay."""

from __future__ import annotations

import numpy as np

from atradiff.ports import EpisodeRows
from atradiff.types import Spaces, SyntheticRows, Transitions

SPACES = Spaces(2, "continuous", (-1.0,), (1.0,))


def numbered(
    first: int, n: int, terminated: list[bool] | None = None, truncated: list[bool] | None = None
) -> Transitions:
    """Row i goes from state (i, -i) to (i + 0.5, 0) by action i with reward i."""
    i = np.arange(first, first + n, dtype=np.float32)
    return Transitions(
        np.stack([i, -i], axis=1),
        i[:, None],
        i,
        np.stack([i + np.float32(0.5), np.zeros(n, np.float32)], axis=1),
        np.array(terminated or [False] * n, np.bool_),
        np.array(truncated or [False] * n, np.bool_),
    )


def chunk(first: int, n: int, source: str = "runner", sequence: int = 0, episode: int = 0) -> EpisodeRows:
    return EpisodeRows(numbered(first, n), np.full(n, episode, np.int64), source, sequence)


def answer(n_requests: int, length: int, version: int = 0) -> SyntheticRows:
    return SyntheticRows(numbered(0, n_requests * length), np.full(n_requests, length, np.int64), version)
