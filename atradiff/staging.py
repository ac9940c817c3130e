"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atradiff.data.errors import DataError


def refuse_existing(out: Path, *, overwrite: bool, ours: str) -> None:
    """Raise :class:`DataError` unless ``out`` is free, or is a folder of our own that may be overwritten.

    ``ours`` is a file inside ``out`` that only this project writes there: no other folder is ever replaced.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise DataError("already exists.", "Choose another folder, or ask for it to be overwritten.", file=out)
    if not (out / ours).is_file():
        raise DataError(
            f"exists and was not written by this command (it holds no {ours}).",
            "It is not overwritten: choose another folder or remove it by hand.",
            file=out,
        )


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its name at the end; what stood there is removed only after that."""
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    stage.mkdir()
    try:
        yield stage
        _take_place(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def staged_file(out: Path) -> Iterator[Path]:
    """A temporary file beside ``out`` that takes its name at the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield stage
        os.replace(stage, out)
    finally:
        stage.unlink(missing_ok=True)


def write_text(out: Path, text: str) -> None:
    """Write ``text`` to ``out`` whole or not at all, making its folder where needed."""
    with staged_file(out) as stage:
        stage.write_text(text, encoding="utf-8")


def sync_file(file: Path) -> None:
    """Have the disk hold ``file``, not only the operating system's memory."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in ``folder``: a new or renamed file survives a power failure only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Have the disk hold everything in ``folder``."""
    for path in (folder, *folder.rglob("*")):
        sync_folder(path) if path.is_dir() else sync_file(path)


def _take_place(stage: Path, out: Path) -> None:
    if not out.exists():
        stage.rename(out)
        return
    old = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.replaced")
    out.rename(old)
    try:
        stage.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)
