"""NumPy ``.npz`` files with the columns of a data set."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Sort named arrays into core columns and extras; raises :class:`DataError` for a missing column."""
    arrays = dict(arrays)
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for column in ("observations", "actions", "rewards", "terminated", "truncated", "next_observations"):
        name = next((n for n in ALIASES.get(column, (column,)) if n in arrays), None)
        if name is not None:
            found[column], names[column] = arrays.pop(name), name
    _require(found, sorted(names.values()) + sorted(arrays), path)
    n = len(np.atleast_1d(found["observations"]))
    extras = {k: v for k, v in arrays.items() if v.ndim > 0 and len(v) == n and v.dtype.kind in "biuf"}
    return RawColumns(file=str(path), **found, extras=extras, names=names)


def _require(found: dict[str, Any], names: list[str], path: Path) -> None:
    for column in ("observations", "actions", "rewards", "terminated"):
        if column not in found:
            wanted = " or ".join(f"'{name}'" for name in ALIASES.get(column, (column,)))
            raise DataError(
                f"is missing; the file holds {names}.", f"Write a column {wanted}.", file=path, field=column
            )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: _array(file, name, path) for name in file.files}
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(
            f"is truncated or no .npz file ({error}).", "Write or copy the file again.", file=path
        ) from error


def _array(file: Any, name: str, path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = file[name]
    except ValueError as error:
        raise DataError(
            f"cannot be read as plain numbers ({error}).",
            "Write it with a numeric dtype: objects are refused.",
            file=path,
            field=name,
        ) from error
    return array
