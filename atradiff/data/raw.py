"""What a reader found in a file, before anything is believed about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.errors import DataError
from atradiff.types import IntArray, Spaces

CORE = ("observations", "actions", "rewards", "terminated", "truncated", "next_observations")


@dataclass(frozen=True)
class RawColumns:
    """Flat columns of N rows in their file's own dtypes. ``truncated`` and ``next_observations`` may be missing."""

    file: str
    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminated: NDArray[Any]
    truncated: NDArray[Any] | None = None
    next_observations: NDArray[Any] | None = None
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """What the file calls a column, where that differs from our name: errors speak the file's language."""
    starts: IntArray | None = None
    """First row of each recorded episode, where the file keeps episodes apart."""
    episode_columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.observations)

    def present(self) -> dict[str, NDArray[Any]]:
        """The core columns that are there, by our names."""
        columns = {name: getattr(self, name) for name in CORE}
        return {name: column for name, column in columns.items() if column is not None}

    def error(self, problem: str, remedy: str, column: str | None = None, row: int | None = None) -> DataError:
        """A ``DataError`` that names the file, the ``column`` by the file's own name for it and the place of ``row`` in
        it.
        """
        name = None if column is None else self.names.get(column, column)
        return DataError(problem, remedy, file=self.file, field=name, row=None if row is None else self.place(row))

    def place(self, row: int) -> str:
        """A row's number, and its episode and step where the file keeps episodes apart."""
        if self.starts is None:
            return str(row)
        episode = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{row} (episode {episode}, step {row - int(self.starts[episode])})"


@dataclass(frozen=True)
class Source:
    """A file read whole: its columns and what it says about itself."""

    raw: RawColumns
    source: str
    licence: str
    spaces: Spaces | None = None
    env_id: str | None = None
    dataset_name: str | None = None
    horizon: int | None = None
    notes: tuple[str, ...] = ()
    source_dtypes: Mapping[str, str] | None = None
    """Dtypes further back than ``raw``'s own, where the file was exported from a store."""


def require_file(path: Path, what: str) -> None:
    """Raise :class:`DataError` where there is no file at ``path``."""
    if not path.is_file():
        raise DataError(
            f"there is no such {what}.",
            "Check the path; `atradiff data import --help` lists what can be read.",
            file=path,
        )
