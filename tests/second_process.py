"""A second process that does what a test wants, such as holding a lock, until it is told to go on or is killed."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 300.0
ROOT = Path(__file__).parents[1]
_HOLD = """
import sys, time
from pathlib import Path
from atradiff.locking import locked
file, begun, go = map(Path, sys.argv[1:])
with locked(file, lambda holder: None):
    begun.touch()
    while not go.exists():
        time.sleep(0.02)
"""


class Telling(io.StringIO):
    """Text that calls ``told`` with what is written to it."""

    def __init__(self, told: Callable[[str], object]) -> None:
        super().__init__()
        self._told = told

    def write(self, text: str) -> int:
        self._told(text)
        return super().write(text)


def wait_for(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@contextmanager
def process(code: str, *words: object, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """``python -c code words`` in the checkout, killed at the end where it has not ended."""
    started = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], cwd=ROOT, env=env)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@contextmanager
def holding(file: Path, go: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock ``file``; it lets go, and ends, once there is a file ``go``."""
    begun = go.with_name(f"{go.name}.begun")
    with process(_HOLD, file, begun, go) as holder:
        wait_for(lambda: begun.exists() or holder.poll() is not None)
        assert holder.poll() is None
        yield holder
