"""Which row of a ring follows which in their episode, though chunks of many episodes arrive interleaved."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.types import BoolArray, IntArray

UNKNOWN = -1
"""The successor of a row whose next row has not arrived, or never will."""

_FEW = 1024
"""Open episodes that are kept without asking whether their rows still exist."""


class EpisodeLinks:
    """For each row of a ring of ``capacity`` rows the id of its episode's next row.

    An episode is named by its sender and a key, so that two senders may count their episodes alike. It is open until
    one of its rows ends it, or until its last row has left the ring.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._successor = np.full(capacity, UNKNOWN, np.int64)
        self._open: dict[tuple[str, int], int] = {}
        self._many = _FEW

    @property
    def nbytes(self) -> int:
        return self._successor.nbytes

    def add(self, row_ids: IntArray, episodes: IntArray, ended: BoolArray, source: str = "") -> None:
        """Take in n new rows (ids rising by one) with their episodes' keys; ``ended`` marks their last rows."""
        # Of more rows than the ring holds only the newest stay.
        newest = slice(-self.capacity, None)
        row_ids, episodes, ended = row_ids[newest], episodes[newest], ended[newest]
        if len(row_ids) == 0:
            return
        self.add_unlinked(row_ids)
        order = np.argsort(episodes, kind="stable")
        ids, keys, over = row_ids[order], episodes[order], ended[order]
        same = keys[1:] == keys[:-1]
        linked = same & ~over[:-1]
        self._successor[ids[:-1][linked] % self.capacity] = ids[1:][linked]
        firsts = np.flatnonzero(np.concatenate([[True], ~same]))
        lasts = np.append(firsts[1:], len(ids)) - 1
        oldest_alive = int(row_ids[-1]) + 1 - self.capacity
        for first, last in zip(firsts, lasts, strict=True):
            episode = (source, int(keys[first]))
            self._continue(episode, int(ids[first]), oldest_alive)
            if not over[last]:
                self._open[episode] = int(ids[last])
        self._forget(oldest_alive)

    def add_unlinked(self, row_ids: IntArray) -> None:
        """Take in rows of which nobody says what follows them."""
        self._successor[row_ids[-self.capacity :] % self.capacity] = UNKNOWN

    def following(self, row_ids: IntArray) -> IntArray:
        """The id of the next row of each row's episode, or :data:`UNKNOWN`; the rows must still be in the ring."""
        return self._successor[row_ids % self.capacity]

    def state(self) -> tuple[NDArray[np.int64], list[Any]]:
        """The successors in slot order, and the open episodes as plain lists: what :meth:`restore` takes."""
        return self._successor, [[source, key, row_id] for (source, key), row_id in self._open.items()]

    def restore(self, successors: NDArray[np.int64], open_episodes: list[Any]) -> None:
        """Become what :meth:`state` gave; fewer successors than rows leave the rest unknown."""
        self._successor[: len(successors)] = successors
        self._successor[len(successors) :] = UNKNOWN
        self._open = {(str(source), int(key)): int(row_id) for source, key, row_id in open_episodes}

    def _continue(self, episode: tuple[str, int], row_id: int, oldest_alive: int) -> None:
        previous = self._open.pop(episode, UNKNOWN)
        if previous >= max(oldest_alive, 0):
            self._successor[previous % self.capacity] = row_id

    def _forget(self, oldest_alive: int) -> None:
        """Drop episodes that nobody continued while the whole ring was written anew."""
        if len(self._open) <= self._many:
            return
        self._open = {episode: last for episode, last in self._open.items() if last >= oldest_alive}
        self._many = max(_FEW, 2 * len(self._open))
