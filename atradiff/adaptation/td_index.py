"""The TD-error pick-up: a dynamic index of the rows that the learner is most wrong about (ATraDiff, appendix A.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.adaptation.config import PickUpConfig
from atradiff.adaptation.pickup import Picked, RingView, read_state, write_state
from atradiff.types import BoolArray, FloatArray, IntArray, Transitions

_NOBODY = -1
_LOW_SHARE = 0.05
"""Share of the index that is sorted out at once as the next to be evicted."""


class TdErrorPickUp:
    """The paper's buffer of 50,000 samples with their current importance; the most important are picked.

    A row enters when the learner first reports its TD error and leaves when the ring overwrites it. Into a full index a
    batch of new rows enters all the same: for each, the lowest of the present entries is evicted with probability
    ``evict_lowest``, else any one, so that rows of low importance have a chance to matter later. Where the paper keeps
    a heap, this keeps flat arrays and a short list of the lowest entries: same evictions, whole batches at once.
    """

    def __init__(self, config: PickUpConfig, capacity: int, seed: int) -> None:
        self._made_of = (config, capacity, seed)
        self.ring = RingView(capacity)
        self.size = min(config.index_entries, capacity)
        self._evict_lowest = config.evict_lowest
        self._rng = np.random.default_rng(seed)
        self._row = np.full(self.size, _NOBODY, np.int64)
        self._importance = np.zeros(self.size, np.float32)
        self._entry_of_slot = np.full(capacity, _NOBODY, np.int32)
        self._free = np.arange(self.size)[::-1].copy()
        self._lowest = _Lowest(self._importance)

    def __reduce__(self) -> tuple[Any, ...]:
        """A new index travels as its settings: Ray keeps only small arguments of an actor for its restart."""
        return (TdErrorPickUp, self._made_of) if self.ring.total == 0 else super().__reduce__()  # type: ignore[return-value]

    def __len__(self) -> int:
        return self.size - len(self._free)

    @property
    def row_ids(self) -> IntArray:
        """(n,) rows in the index, in no particular order."""
        return self._row[self._row != _NOBODY]

    @property
    def nbytes(self) -> int:
        """Bytes of the index; nearly all there from the start."""
        arrays = (self._row, self._importance, self._entry_of_slot, self._free)
        return sum(array.nbytes for array in arrays) + self._lowest.nbytes

    def stored(self, row_ids: IntArray, rows: Transitions, episodes: IntArray | None) -> None:  # noqa: ARG002
        """Entries whose rows the new ones overwrote fall out."""
        self.ring.advance(row_ids)
        slots = row_ids[-self.ring.capacity :] % self.ring.capacity
        entries = self._entry_of_slot[slots]
        gone = entries[entries != _NOBODY]
        self._entry_of_slot[slots] = _NOBODY
        self._row[gone] = _NOBODY
        self._free = np.concatenate([self._free, gone])

    def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
        """Of a row named twice the last value counts; overwritten rows and errors that are not finite are ignored."""
        here = (row_ids >= self.ring.oldest) & (row_ids < self.ring.total) & np.isfinite(td_errors)
        row_ids, td_errors = row_ids[here], td_errors[here].astype(np.float32)
        entries = self._entry_of_slot[row_ids % self.ring.capacity]
        known = entries != _NOBODY
        self._set(entries[known], td_errors[known])
        if not known.all():
            self._enter(row_ids[~known], td_errors[~known])

    def rescore(self, score: Callable[[IntArray], FloatArray]) -> None:
        """Renew all importances in one pass: ``score`` maps row ids (n,) to TD errors (n,) by the current networks."""
        entries = np.flatnonzero(self._row != _NOBODY)
        if len(entries):
            self._importance[entries] = score(self._row[entries])
            self._lowest.forget()

    def pick(self, count: int) -> Picked:
        """The ``count`` rows of the highest importance."""
        entries = np.flatnonzero(self._row != _NOBODY)
        if len(entries) > count:
            entries = entries[np.argpartition(-self._importance[entries], count - 1)[:count]]
        entries = entries[np.argsort(-self._importance[entries], kind="stable")]
        return self.ring.picked(self._row[entries], self._importance[entries])

    def save(self, folder: Path) -> None:
        """See :class:`atradiff.adaptation.pickup.PickUp`: the index as npy, counters and random state as JSON."""
        state = {"total": self.ring.total, "rng": self._rng.bit_generator.state}
        arrays: dict[str, NDArray[Any]] = {"row": self._row, "importance": self._importance, "free": self._free}
        write_state(folder, "td", self._sizes, state, arrays)

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote; ``ValueError``, changing nothing, for another strategy or size."""
        state, arrays = read_state(folder, "td", self._sizes, ("row", "importance", "free"))
        self.ring.total = state["total"]
        self._rng.bit_generator.state = state["rng"]
        self._row[:], self._importance[:], self._free = arrays["row"], arrays["importance"], arrays["free"]
        entries = np.flatnonzero(self._row != _NOBODY)
        self._entry_of_slot[:] = _NOBODY
        self._entry_of_slot[self._row[entries] % self.ring.capacity] = entries
        self._lowest.forget()

    @property
    def _sizes(self) -> dict[str, int]:
        return {"capacity": self.ring.capacity, "entries": self.size}

    def _enter(self, row_ids: IntArray, importance: FloatArray) -> None:
        """Into free entries first, then, in batches no larger than the index, into evicted ones."""
        _, last = np.unique(row_ids[::-1], return_index=True)
        last_reports = len(row_ids) - 1 - last  # of each row, by row id
        row_ids, importance = row_ids[last_reports], importance[last_reports]
        room = min(len(self._free), len(row_ids))
        places, self._free = self._free[len(self._free) - room :], self._free[: len(self._free) - room]
        self._put(places, row_ids[:room], importance[:room])
        for start in range(room, len(row_ids), self.size):
            batch = slice(start, start + self.size)
            self._put(self._evict(len(row_ids[batch])), row_ids[batch], importance[batch])

    def _put(self, entries: IntArray, row_ids: IntArray, importance: FloatArray) -> None:
        self._row[entries] = row_ids
        self._entry_of_slot[row_ids % self.ring.capacity] = entries
        self._set(entries, importance)

    def _set(self, entries: IntArray, importance: FloatArray) -> None:
        self._importance[entries] = importance
        self._lowest.changed(entries)

    def _evict(self, count: int) -> IntArray:
        """``count`` entries of a full index: any for some, the lowest of the rest for the others."""
        any_ones = self._rng.choice(
            self.size, self._rng.binomial(count, 1 - self._evict_lowest), replace=False, shuffle=False
        )
        lowest = self._lowest.first(count)
        entries = np.concatenate([any_ones, lowest[~np.isin(lowest, any_ones)]])[:count]
        self._entry_of_slot[self._row[entries] % self.ring.capacity] = _NOBODY
        return entries


class _Lowest:
    """The lowest of an array of values that change a few at a time.

    Holds a list of candidates and a bar, such that every place below the bar is among the candidates.
    """

    def __init__(self, values: FloatArray) -> None:
        self._values = values
        self._candidates = np.empty(0, np.int64)
        self._is_candidate: BoolArray = np.zeros(len(values), np.bool_)
        self._bar = -np.inf

    @property
    def nbytes(self) -> int:
        return self._candidates.nbytes + self._is_candidate.nbytes

    def changed(self, places: IntArray) -> None:
        """The values at ``places`` are new."""
        low = places[(self._values[places] < self._bar) & ~self._is_candidate[places]]
        if len(low):
            low = np.unique(low)
            self._candidates = np.concatenate([self._candidates, low])
            self._is_candidate[low] = True

    def forget(self) -> None:
        """All values may be new."""
        self._is_candidate[self._candidates] = False
        self._candidates, self._bar = np.empty(0, np.int64), -np.inf

    def first(self, count: int) -> IntArray:
        """The ``count`` places of the lowest values, lowest first."""
        values = self._values[self._candidates]
        if np.count_nonzero(values <= self._bar) < count:
            self._gather(count)
            values = self._values[self._candidates]
        lowest = np.argpartition(values, count - 1)[:count] if count < len(values) else np.arange(len(values))
        return self._candidates[lowest[np.argsort(values[lowest], kind="stable")]]

    def _gather(self, count: int) -> None:
        self._is_candidate[self._candidates] = False
        wanted = min(max(4 * count, round(_LOW_SHARE * len(self._values))), len(self._values))
        self._candidates = np.argpartition(self._values, wanted - 1)[:wanted]
        self._bar = float(self._values[self._candidates].max())
        self._is_candidate[self._candidates] = True
