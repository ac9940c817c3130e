"""One process at a time: a file that is locked until its holder ends, however that ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_FILE = ".lock"
"""In a folder that one process at a time may work in."""

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
_ATTEMPTS = 20
_TICK_SECONDS = 0.2
_HOLDER_BYTES = 512

_logger = logging.getLogger(__name__)


@contextmanager
def locked(file: Path, busy: Callable[[str], object]) -> Iterator[None]:
    """Hold ``file`` during the block; nothing else than a lock may have that name.

    Where another process holds it, or another part of this one, ``busy`` is called once with what is known of the
    holder (``pid 123 on host``): what it raises is passed on, else the block begins when the holder has ended. The file
    is made, with its folder, and removed at the end, with the folders that were made for it and are still empty.
    Raises ``OSError`` where the file cannot be made.
    """
    made = [folder for folder in (file.parent, *file.parent.parents) if not folder.exists()]
    asked = False
    while (handle := _taken(file)) is None:
        if not asked:
            busy(_holder(file))
            asked = True
        time.sleep(_TICK_SECONDS)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before others are let in: they look whether theirs still has the name
        os.close(handle)
        _remove_empty(made)


@contextmanager
def making(target: Path) -> Iterator[None]:
    """Make ``target``, a file or folder that others look for, in the block, alone: look again first thing in it.

    Who finds another process at it waits, and says so. The lock is a hidden file beside ``target``.
    """

    def say(holder: str) -> None:
        print(f"waiting for another process ({holder}) that makes {target}", file=sys.stderr, flush=True)

    with locked(target.with_name(f".{target.name}{LOCK_FILE}"), say):
        yield


def lock_open_file(handle: int, what: Path) -> bool:
    """Lock ``handle`` until it is closed, by whatever ends the process; false where another one holds it.

    True, with a warning that names ``what``, on a file system without locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        _logger.warning("%s is on a file system without locks: see to it that one run at a time uses it.", what)
    return True


def _taken(file: Path) -> int | None:
    """The open and locked file, with our name in it; None where another process holds it."""
    for _ in range(_ATTEMPTS):
        handle = _opened(file)
        if handle is None:
            continue
        try:
            if not lock_open_file(handle, file.parent):
                os.close(handle)
                return None
            if _has_its_name(handle, file):
                _sign(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it before we had the lock: others find a new one by the name
    raise OSError(f"{file} disappears as often as it is made: is another program emptying its folder?")


def _opened(file: Path) -> int | None:
    """None where its folder went away again: whoever made that had no use for it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OSError(f"{file}, which keeps other processes out, cannot be made: {error}") from error


def _has_its_name(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    with suppress(OSError):  # only read by people: a full disk is told by what matters
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)


def _holder(file: Path) -> str:
    """What the holder wrote of itself; it may have locked the file this moment, or be gone."""
    with suppress(OSError), file.open(encoding="utf-8", errors="replace") as text:
        return text.read(_HOLDER_BYTES) or "unknown"
    return "unknown"


def _remove_empty(folders: list[Path]) -> None:
    """``folders``, innermost first, up to the first that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
