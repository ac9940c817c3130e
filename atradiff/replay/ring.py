"""A replay ring: fixed columns, allocated once, whose rows keep an id for life."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.types import BoolArray, IntArray, Spaces

_STATE_FILE = "ring.json"


@dataclass(frozen=True)
class Column:
    """One value per row: a numpy dtype name and the shape of that value (``()`` for a number)."""

    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


def transition_columns(spaces: Spaces) -> dict[str, Column]:
    """The columns of :class:`atradiff.types.Transitions` for these spaces."""
    return {
        "observations": Column("float32", (spaces.observation_size,)),
        "actions": Column("int64") if spaces.discrete else Column("float32", (spaces.action_size,)),
        "rewards": Column("float32"),
        "next_observations": Column("float32", (spaces.observation_size,)),
        "terminated": Column("bool"),
        "truncated": Column("bool"),
    }


def synthetic_columns(spaces: Spaces) -> dict[str, Column]:
    """Those of synthetic rows: they know besides which version of the generator made them, and at which env step."""
    return {**transition_columns(spaces), "generator_version": Column("int32"), "created_at": Column("int64")}


def row_bytes(columns: Mapping[str, Column]) -> int:
    """Bytes of one row with these columns."""
    return sum(column.row_bytes for column in columns.values())


@dataclass(frozen=True)
class SavedRing:
    """A saved ring's rows, in slot order and of the right shapes, still on the disk."""

    columns: dict[str, NDArray[Any]]
    total_added: int


class ColumnRing:
    """The last ``capacity`` rows that were added, each column one contiguous array.

    A row's id is the number of rows added before it, so ids never repeat and ``id % capacity`` is its slot: that is
    all the bookkeeping that priorities and adaptation need to find a row, or to learn that it was overwritten.
    """

    def __init__(self, columns: Mapping[str, Column], capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a ring needs a capacity of at least one row, got {capacity}.")
        self.columns = dict(columns)
        self.capacity = capacity
        self.total_added = 0
        self._data = {name: np.empty((capacity, *c.shape), c.dtype) for name, c in self.columns.items()}

    def __len__(self) -> int:
        return min(self.total_added, self.capacity)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The column as stored (capacity, ...): in slot order, and only the first ``len(self)`` slots are valid."""
        return self._data[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all columns at full capacity; they are there from the start."""
        return sum(column.nbytes for column in self._data.values())

    def add(self, rows: Mapping[str, NDArray[Any]]) -> IntArray:
        """Append n rows (every column, n values each) and return their ids (n,); the oldest rows give way."""
        n = self.require_fitting(rows)
        first = self.total_added
        kept = min(n, self.capacity)  # of more rows than fit only the newest stay
        start = (first + n - kept) % self.capacity
        head = min(kept, self.capacity - start)
        for name, column in self._data.items():
            newest = rows[name][n - kept :]
            column[start : start + head] = newest[:head]
            column[: kept - head] = newest[head:]
        self.total_added = first + n
        return np.arange(first, first + n)

    def take(self, slots: IntArray, out: Mapping[str, NDArray[Any]]) -> None:
        """Copy the rows in ``slots`` (n,) into ``out``'s arrays (n, ...) of the column's own dtypes."""
        for name, target in out.items():
            # mode="clip" lets numpy write straight into `out`; the slots are valid by construction.
            np.take(self._data[name], slots, axis=0, out=target, mode="clip")

    def count_since(self, name: str, least: float) -> int:
        """How many of the newest rows have at least ``least`` in column ``name``, whose values rise with the id."""
        oldest, column = self.total_added - len(self), self._data[name]
        older = bisect_left(range(len(self)), least, key=lambda i: column[(oldest + i) % self.capacity])
        return len(self) - older

    def holds(self, row_ids: IntArray) -> BoolArray:
        """Which of these rows are still here."""
        return (row_ids >= self.total_added - len(self)) & (row_ids < self.total_added)

    def save(self, folder: Path) -> None:
        """Write the valid rows as one ``.npy`` per column into ``folder`` (made if absent)."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, column in self._data.items():
            np.save(folder / f"{name}.npy", column[: len(self)])
        state = {"capacity": self.capacity, "total_added": self.total_added}
        (folder / _STATE_FILE).write_text(json.dumps(state))

    def read(self, folder: Path) -> SavedRing:
        """What :meth:`save` wrote, for :meth:`become`. Raises ``ValueError`` where capacity or columns differ."""
        state = json.loads((folder / _STATE_FILE).read_text())
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"{folder} holds a ring of {state['capacity']} rows, this one has {self.capacity}: resume with the "
                "same replay.capacity and replay.rho."
            )
        size = min(state["total_added"], self.capacity)
        loaded = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in self._data}
        for name, column in self._data.items():
            if loaded[name].shape != (size, *column.shape[1:]) or loaded[name].dtype != column.dtype:
                raise ValueError(
                    f"{folder / name}.npy is {loaded[name].dtype}{loaded[name].shape}, expected "
                    f"{column.dtype}{(size, *column.shape[1:])}: the checkpoint is of another task, or damaged."
                )
        return SavedRing(loaded, int(state["total_added"]))

    def become(self, saved: SavedRing) -> None:
        """Take over what :meth:`read` found."""
        for name, column in self._data.items():
            rows = saved.columns[name]
            column[: len(rows)] = rows
        self.total_added = saved.total_added

    def require_fitting(self, rows: Mapping[str, NDArray[Any]]) -> int:
        """The number of ``rows``; raises ``ValueError`` where their columns are not those of the ring."""
        if rows.keys() != self.columns.keys():
            raise ValueError(f"rows have columns {sorted(rows)}, the ring has {sorted(self.columns)}.")
        lengths = {name: len(values) for name, values in rows.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all columns need the same number of rows, got {lengths}.")
        for name, column in self.columns.items():
            if rows[name].shape[1:] != column.shape:
                raise ValueError(f"column {name} has values of shape {rows[name].shape[1:]}, expected {column.shape}.")
        return next(iter(lengths.values()))
