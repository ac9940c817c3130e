"""Chunks of real rows as bytes: records of one append-only file, each of which is whole or is not there.

A record is a fixed head (magic, checksum, two lengths), the chunk's name and the kinds of its columns as JSON, then the
columns' bytes one after the other. The checksum covers all but the magic and itself.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.ports import EpisodeRows
from atradiff.types import Transitions

_MAGIC = b"ATR1"
_START = struct.Struct("<4sI")  # magic, checksum of what follows
_LENGTHS = struct.Struct("<QQ")  # bytes of the JSON and of the columns
_HEAD_BYTES = _START.size + _LENGTHS.size
_KINDS = "fiub"
_EPISODES = "episodes"


def record(chunk: EpisodeRows) -> list[memoryview]:
    """The record of ``chunk`` in parts, so that its columns need not be copied."""
    columns = {name: np.ascontiguousarray(column) for name, column in _columns(chunk)}
    strange = sorted(name for name, column in columns.items() if column.dtype.kind not in _KINDS)
    if strange:
        raise ValueError(f"columns {strange} are not made of numbers: a journal cannot hold them.")
    kinds = {name: [column.dtype.str, column.shape] for name, column in columns.items()}
    name = json.dumps({"source": chunk.source, "sequence": chunk.sequence, "columns": kinds}).encode()
    data: list[memoryview] = [column.reshape(-1).view(np.uint8).data for column in columns.values()]
    lengths = _LENGTHS.pack(len(name), sum(len(part) for part in data))
    checksum = zlib.crc32(name, zlib.crc32(lengths))
    for part in data:
        checksum = zlib.crc32(part, checksum)
    return [memoryview(_START.pack(_MAGIC, checksum) + lengths + name), *data]


def write_parts(file: int, parts: list[memoryview]) -> int:
    """Write all of ``parts`` to an open file; returns the number of bytes."""
    total = 0
    while parts:
        written = os.writev(file, parts)
        total += written
        while parts and written >= len(parts[0]):
            written -= len(parts[0])
            parts = parts[1:]
        if written:
            parts = [parts[0][written:], *parts[1:]]
    return total


def read_records(file: Path) -> Iterator[tuple[EpisodeRows, int]]:
    """The whole records of ``file`` in order, each with the offset at which it ends; stops at the first that is not."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        end = 0
        while (body := _next_body(stream, size - end)) is not None:
            end = stream.tell()
            yield _chunk(*body), end


def ends_in_one_piece(file: Path, start: int) -> bool:
    """Whether what ``file`` holds from ``start`` on is at most one record that was cut off, and no other follows it."""
    with file.open("rb") as stream:
        stream.seek(start)
        return _MAGIC not in stream.read()[1:]


def _next_body(stream: Any, left: int) -> tuple[bytes, bytes] | None:
    """JSON and columns of the next record; None where what is ``left`` of the file is no whole record."""
    head = stream.read(_HEAD_BYTES)
    if len(head) < _HEAD_BYTES:
        return None
    magic, checksum = _START.unpack_from(head)
    name_bytes, column_bytes = _LENGTHS.unpack_from(head, _START.size)
    if magic != _MAGIC or name_bytes + column_bytes > left - _HEAD_BYTES:
        return None
    name, columns = stream.read(name_bytes), stream.read(column_bytes)
    found = zlib.crc32(columns, zlib.crc32(name, zlib.crc32(head[_START.size :])))
    return (name, columns) if found == checksum else None


def _chunk(name: bytes, data: bytes) -> EpisodeRows:
    described = json.loads(name)
    columns: dict[str, NDArray[Any]] = {}
    start = 0
    for column, (kind, shape) in described["columns"].items():
        count = int(np.prod(shape, dtype=np.int64))
        columns[column] = np.frombuffer(data, np.dtype(kind), count, start).reshape(shape)
        start += columns[column].nbytes
    episodes = columns.pop(_EPISODES)
    return EpisodeRows(Transitions(**columns), episodes, described["source"], described["sequence"])


def _columns(chunk: EpisodeRows) -> Iterator[tuple[str, NDArray[Any]]]:
    yield from chunk.rows.items()
    yield _EPISODES, chunk.episodes
