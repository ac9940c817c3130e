"""NumPy ``.npz`` files with the columns of a data set."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.arrow_columns import NUMERIC_KINDS
from atradiff.data.errors import DataError
from atradiff.data.raw import RawColumns, Source, require_file

ALIASES = {"terminated": ("terminated", "terminals"), "truncated": ("truncated", "timeouts")}


def read_npz(path: Path) -> Source:
    """Read ``observations, actions, rewards, terminated|terminals`` and, where there, ``truncated|timeouts`` and
    ``next_observations``; every other array of N rows becomes an extra. Nothing is unpickled.
    """
    require_file(path, "file")
    return Source(raw_from_arrays(_arrays(path), path), source=f"NumPy file {path.name}", licence="unknown")


def raw_from_arrays(arrays: dict[str, NDArray[Any]], path: Path) -> RawColumns:
    """Sort named arrays into core columns and extras; raises :class:`DataError` for a missing column, and for
    observations that are a single value.
    """
    arrays = dict(arrays)
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for column in ("observations", "actions", "rewards", "terminated", "truncated", "next_observations"):
        name = next((n for n in ALIASES.get(column, (column,)) if n in arrays), None)
        if name is not None:
            found[column], names[column] = arrays.pop(name), name
    _require(found, sorted(names.values()) + sorted(arrays), path)
    if found["observations"].ndim == 0:
        raise DataError(
            "is a single value; it must have 2 axes.",
            "Write one row per transition.",
            file=path,
            field=names["observations"],
        )
    n = len(found["observations"])
    extras = {name: _native(column) for name, column in arrays.items() if column.ndim > 0 and len(column) == n}
    extras = {name: column for name, column in extras.items() if _can_be_stored(column)}
    return RawColumns(file=str(path), **found, extras=extras, names=names)


def _native(column: NDArray[Any]) -> NDArray[Any]:
    return column.astype(column.dtype.newbyteorder("="), copy=False)


def _can_be_stored(column: NDArray[Any]) -> bool:
    # Text, long doubles and rows of no numbers have no place in the store: they are no reason to refuse the rest.
    return column.dtype.kind in NUMERIC_KINDS and column.dtype.itemsize <= 8 and column.size > 0


def _require(found: dict[str, Any], names: list[str], path: Path) -> None:
    for column in ("observations", "actions", "rewards", "terminated"):
        if column not in found:
            wanted = " or ".join(f"'{name}'" for name in ALIASES.get(column, (column,)))
            raise DataError(
                f"is missing; the file holds {names}.", f"Write a column {wanted}.", file=path, field=column
            )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):  # numpy.load would take it for an array or a pickle
        raise DataError("is truncated or no .npz file.", "Write it with numpy.savez, or copy it again.", file=path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: _array(file, name, path) for name in file.files}
    except DataError:
        raise
    except Exception as error:  # damage shows in the archive, its compression or NumPy's headers, in the way of each
        raise DataError(
            f"is truncated or no .npz file ({type(error).__name__}: {error}).",
            "Write it with numpy.savez, or copy it again.",
            file=path,
        ) from error


def _array(file: Any, name: str, path: Path) -> NDArray[Any]:
    try:
        array = file[name]
    except ValueError as error:
        raise DataError(
            f"cannot be read as plain numbers ({error}).",
            "Write it with a numeric dtype: objects are refused.",
            file=path,
            field=name,
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError("is no array.", "Write the file with numpy.savez.", file=path, field=name)
    return array
