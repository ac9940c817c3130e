"""Windows of consecutive rows, read from the ring of real rows."""

from __future__ import annotations

import numpy as np

from atradiff.data.windows import Windows
from atradiff.replay.links import EpisodeLinks
from atradiff.replay.ring import ColumnRing
from atradiff.types import BoolArray, IntArray


def windows_from(
    ring: ColumnRing, links: EpisodeLinks, row_ids: IntArray, length: int
) -> tuple[Windows, BoolArray, IntArray]:
    """See :meth:`atradiff.replay.mixed.MixedReplay.windows`."""
    if length < 1:
        raise ValueError(f"a window has at least 1 row, got length {length}.")
    row_ids = np.asarray(row_ids, np.int64)
    whole = ring.holds(row_ids)
    path, padding, followed = _follow(ring, links, row_ids[whole], length)
    whole[whole] = followed
    return _gather(ring, path[followed] % ring.capacity, padding[followed]), whole, path[followed]


def _follow(
    ring: ColumnRing, links: EpisodeLinks, starts: IntArray, length: int
) -> tuple[IntArray, BoolArray, BoolArray]:
    """Row ids (M, K) from ``starts`` on, which of them are padding (M, K), and which windows are whole (M,).

    A terminal row is its own successor, as padding; where the successor is unknown the window is not whole.
    """
    path = np.empty((len(starts), length), np.int64)
    padding = np.zeros((len(starts), length), np.bool_)
    followed = np.ones(len(starts), np.bool_)
    path[:, 0] = starts
    for j in range(1, length):
        here = path[:, j - 1]
        padding[:, j] = ring["terminated"][here % ring.capacity]
        after = np.where(padding[:, j], here, links.following(here))
        followed &= after >= 0
        path[:, j] = np.where(after >= 0, after, here)
    return path, padding, followed


def _gather(ring: ColumnRing, slots: IntArray, padding: BoolArray) -> Windows:
    following = ring["next_observations"][slots]
    actions = ring["actions"][slots]
    actions[padding] = 0
    return Windows(
        states=np.concatenate([ring["observations"][slots[:, :1]], following], axis=1),
        actions=actions,
        rewards=np.where(padding, np.float32(0), ring["rewards"][slots]),
        terminated=ring["terminated"][slots],
        padding=padding,
    )
