"""The folder of a journal: one writer at a time, whose generation it is, and whether what it holds is whole."""

from __future__ import annotations

import json
import os
import time
import uuid
import zlib
from pathlib import Path

from atradiff.locking import LOCK_FILE, lock_open_file
from atradiff.staging import sync_file, sync_folder, write_text

_GENERATION_FILE = "generation"
_SUMS_FILE = "checksums.json"
_TICK_SECONDS = 0.1
_READ_BYTES = 1 << 22


class JournalDamaged(Exception):
    """What a journal holds is not what was written."""


def generation_of(folder: Path) -> str | None:
    """The generation of the journal in ``folder``, None where there is none.

    It is drawn anew whenever a replay begins anew or goes back to a checkpoint: two copies of a journal, on two nodes,
    are told apart by it.
    """
    file = folder / _GENERATION_FILE
    return file.read_text(encoding="utf-8") if file.is_file() else None


def renew_generation(folder: Path) -> str:
    """Draw another generation for the journal in ``folder``; it is on the disk when this returns."""
    generation = uuid.uuid4().hex
    write_text(folder / _GENERATION_FILE, generation)
    sync_file(folder / _GENERATION_FILE)
    sync_folder(folder)
    return generation


def lock(folder: Path, patience: float) -> int:
    """An open file that keeps other processes out of ``folder`` until it is closed, by whatever ends the process.

    Raises ``OSError`` where another one holds it for ``patience`` seconds.
    """
    file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + patience
    while not lock_open_file(file, folder):
        if time.monotonic() > deadline:
            os.close(file)
            raise OSError(
                f"another process has written to the journal {folder} for the last {patience:.0f} s: end the run that "
                "it belongs to, or set cluster.journal to another folder."
            )
        time.sleep(_TICK_SECONDS)
    return file


def set_aside(folder: Path) -> Path:
    """Give ``folder`` a name under which nobody looks for a journal; returns that."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def write_checksums(folder: Path) -> None:
    """Note sizes and checksums of all files in ``folder``, for :func:`require_whole`."""
    (folder / _SUMS_FILE).write_text(json.dumps(_checksums(folder)), encoding="utf-8")


def require_whole(folder: Path) -> None:
    """Raise :class:`JournalDamaged` unless ``folder`` holds what it held when its checksums were written."""
    try:
        written = json.loads((folder / _SUMS_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise JournalDamaged(f"{folder / _SUMS_FILE} is missing or damaged ({error})") from error
    found = _checksums(folder)
    wrong = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
    if wrong:
        raise JournalDamaged(f"{wrong} in {folder} are not as they were written")


def _checksums(folder: Path) -> dict[str, list[int]]:
    """[bytes, CRC-32] of each file, by its name relative to ``folder``."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / _SUMS_FILE)
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, _crc(path)] for path in files}


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while part := stream.read(_READ_BYTES):
            crc = zlib.crc32(part, crc)
    return crc
