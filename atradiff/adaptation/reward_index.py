"""The reward pick-up: a static index of rows of the best episodes, with rotation (ATraDiff, appendix A.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.adaptation.config import PickUpConfig
from atradiff.adaptation.pickup import Picked, RingView, read_state, write_state
from atradiff.types import FloatArray, IntArray, Transitions

_ARRAYS = ("row", "importance", "uses", "open_row", "open_episode", "open_keys", "open_returns")


@dataclass
class _OpenEpisode:
    """What is known of an episode that has not ended."""

    total_reward: float = 0.0
    row_ids: list[IntArray] = field(default_factory=list)


class RewardPickUp:
    """Keeps the rows whose full episodes collected most; their importance never changes again.

    The rows of an episode become candidates together, when it ends. Since the same rows would be picked for ever, each
    pick is followed by a rotation: the oldest ``drop_oldest`` of the entries, a random ``drop_random`` and all that
    served ``max_uses`` picks are dropped for good.
    """

    def __init__(self, config: PickUpConfig, capacity: int, seed: int) -> None:
        self.ring = RingView(capacity)
        self.size = config.index_entries
        self._config = config
        self._rng = np.random.default_rng(seed)
        self._open: dict[int, _OpenEpisode] = {}
        self._row = np.empty(0, np.int64)
        self._importance = np.empty(0, np.float32)
        self._uses = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._row)

    @property
    def nbytes(self) -> int:
        """Bytes of the index, and of the row ids of the episodes that have not ended yet."""
        waiting = sum(ids.nbytes for episode in self._open.values() for ids in episode.row_ids)
        return self._row.nbytes + self._importance.nbytes + self._uses.nbytes + waiting

    def stored(self, row_ids: IntArray, rows: Transitions, episodes: IntArray | None) -> None:
        """Adds to the episodes' total rewards; those that end become candidates."""
        if episodes is None:
            raise ValueError("the reward indicator needs the episode of each row, and rows came without: use td.")
        self.ring.advance(row_ids)
        ends = rows.terminated | rows.truncated
        for key in dict.fromkeys(episodes.tolist()):
            mine = episodes == key
            episode = self._open.setdefault(key, _OpenEpisode())
            episode.total_reward += float(rows.rewards[mine].sum(dtype=np.float64))
            episode.row_ids.append(row_ids[mine])
            if ends[mine].any():
                self._close(key)
        self._drop_overwritten()

    def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
        """Of no use here: total rewards do not change."""

    def pick(self, count: int) -> Picked:
        """The ``count`` rows of the best episodes; of one episode the newest first. Then the index is rotated."""
        order = self._best_first()[:count]
        picked = self.ring.picked(self._row[order], self._importance[order])
        self._uses[order] += 1
        self._rotate()
        return picked

    def save(self, folder: Path) -> None:
        """See :class:`atradiff.adaptation.pickup.PickUp`: the index as npy, counters and random state as JSON."""
        state = {"total": self.ring.total, "rng": self._rng.bit_generator.state}
        rows = [np.concatenate(episode.row_ids) for episode in self._open.values()]
        arrays: dict[str, NDArray[Any]] = {
            "row": self._row,
            "importance": self._importance,
            "uses": self._uses,
            "open_row": np.concatenate([np.empty(0, np.int64), *rows]),
            "open_episode": np.repeat(np.arange(len(rows)), [len(ids) for ids in rows]),
            "open_keys": np.array(list(self._open), np.int64),
            "open_returns": np.array([episode.total_reward for episode in self._open.values()], np.float64),
        }
        write_state(folder, "reward", self._sizes, state, arrays)

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote; ``ValueError``, changing nothing, for another strategy or size."""
        state, arrays = read_state(folder, "reward", self._sizes, _ARRAYS)
        self.ring.total = state["total"]
        self._rng.bit_generator.state = state["rng"]
        self._row, self._importance, self._uses = arrays["row"], arrays["importance"], arrays["uses"]
        self._open = {
            int(key): _OpenEpisode(float(total), [arrays["open_row"][arrays["open_episode"] == i]])
            for i, (key, total) in enumerate(zip(arrays["open_keys"], arrays["open_returns"], strict=True))
        }

    @property
    def _sizes(self) -> dict[str, int]:
        return {"capacity": self.ring.capacity, "entries": self.size}

    def _close(self, key: int) -> None:
        episode = self._open.pop(key)
        row_ids = np.concatenate(episode.row_ids)
        self._row = np.concatenate([self._row, row_ids])
        self._importance = np.concatenate([self._importance, np.full(len(row_ids), episode.total_reward, np.float32)])
        self._uses = np.concatenate([self._uses, np.zeros(len(row_ids), np.int64)])
        self._keep(self._best_first()[: self.size])

    def _drop_overwritten(self) -> None:
        """Forget rows that left the ring, and episodes of which none is left: their sender died."""
        oldest = self.ring.oldest
        if len(self._row) and self._row.min() < oldest:
            self._keep(np.flatnonzero(self._row >= oldest))
        for key in [key for key, episode in self._open.items() if episode.row_ids[-1][-1] < oldest]:
            del self._open[key]

    def _rotate(self) -> None:
        by_age = np.argsort(self._row, kind="stable")
        kept = by_age[round(self._config.drop_oldest * len(by_age)) :]
        unlucky = min(round(self._config.drop_random * len(by_age)), len(kept))
        dropped = self._rng.choice(len(kept), unlucky, replace=False) if unlucky else np.empty(0, np.int64)
        kept = np.delete(kept, dropped)
        self._keep(kept[self._uses[kept] < self._config.max_uses])

    def _best_first(self) -> IntArray:
        return np.lexsort((-self._row, -self._importance))

    def _keep(self, entries: IntArray) -> None:
        self._row, self._importance, self._uses = self._row[entries], self._importance[entries], self._uses[entries]
