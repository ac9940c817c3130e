"""Named NumPy columns in one Arrow IPC file, read back as memory-mapped views without a copy.

A column of shape (N, ...) becomes a fixed-size list of its flattened trailing axes. Flags are kept as bytes, for
Arrow packs booleans into bits, which NumPy cannot view. The field's metadata says what to turn back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atradiff.data.errors import DataError

NUMERIC_KINDS = "biuf"
"""NumPy dtype kinds that a column may have: bool, signed, unsigned, float."""


def write_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns of one length N as a single record batch; raises ``ValueError`` for a dtype that is no number."""
    arrays, fields = zip(*(_to_arrow(name, column) for name, column in columns.items()), strict=True)
    schema = pa.schema(list(fields))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(arrays), schema=schema))


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """Read-only views of a file that :func:`write_columns` wrote; raises :class:`DataError` for any other."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"is missing, truncated or not an Arrow file ({error}).", "Import or collect the data again.", file=path
        ) from error
    return {field.name: _to_numpy(batch.column(i), field) for i, field in enumerate(batch.schema)}


def _to_arrow(name: str, column: NDArray[Any]) -> tuple[pa.Array, pa.Field]:
    if column.dtype.kind not in NUMERIC_KINDS:
        raise ValueError(f"column '{name}' must hold numbers or flags, got dtype {column.dtype}.")
    metadata = {"dtype": column.dtype.str, "shape": json.dumps(column.shape[1:])}
    contiguous = np.ascontiguousarray(column)
    flat = contiguous.view(np.uint8) if column.dtype == np.bool_ else contiguous
    array: pa.Array = pa.array(flat.reshape(-1))
    if column.ndim > 1:
        array = pa.FixedSizeListArray.from_arrays(array, int(np.prod(column.shape[1:])))
    return array, pa.field(name, array.type, nullable=False, metadata=metadata)


def _to_numpy(array: pa.Array, field: pa.Field) -> NDArray[Any]:
    dtype = np.dtype(field.metadata[b"dtype"].decode())
    shape = json.loads(field.metadata[b"shape"])
    values = array.values if shape else array
    return values.to_numpy(zero_copy_only=True).view(dtype).reshape(len(array), *shape)
