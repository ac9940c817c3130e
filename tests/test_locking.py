"""A file is held by one process at a time, and let go of with it, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from atradiff.locking import locked
from tests.second_process import holding, process, wait_for

_COUNT = """
import sys, time
from pathlib import Path
from atradiff.locking import locked
counter = Path(sys.argv[1])
for _ in range(40):
    with locked(counter.parent / "new" / ".lock", lambda holder: None):
        value = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(value + 1))
"""


class Refused(Exception):
    pass


def refuse(holder: str) -> None:
    raise Refused(holder)


def test_another_process_is_named_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run" / ".lock"
    with holding(file, tmp_path / "go") as holder:
        with pytest.raises(Refused, match=f"pid {holder.pid} on {socket.gethostname()}"), locked(file, refuse):
            pytest.fail("two hold it")
        assert file.exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(file, refuse):
            assert file.read_text() == f"pid {os.getpid()} on {socket.gethostname()}"


def test_who_waits_is_told_once_and_comes_next(tmp_path: Path) -> None:
    file, go = tmp_path / ".lock", tmp_path / "go"
    told: list[str] = []

    def release_soon(holder: str) -> None:
        told.append(holder)
        threading.Timer(0.5, go.touch).start()

    with holding(file, go) as holder, locked(file, release_soon):
        wait_for(lambda: holder.poll() is not None)
    assert told == [f"pid {holder.pid} on {socket.gethostname()}"]


def test_the_same_process_does_not_hold_it_twice(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    with locked(file, refuse), pytest.raises(Refused), locked(file, refuse):
        pytest.fail("two hold it")


def test_nothing_is_left_but_what_was_put_there(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / ".lock"
    with pytest.raises(ZeroDivisionError), locked(file, refuse):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with locked(file, refuse):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "kept"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = r"file/.lock, which keeps other processes out, cannot be made"
    with pytest.raises(OSError, match=said), locked(tmp_path / "file" / ".lock", refuse):
        pytest.fail("held")


def test_processes_that_make_and_remove_it_all_the_time_exclude_each_other(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    with process(_COUNT, counter) as one, process(_COUNT, counter) as other, process(_COUNT, counter) as third:
        assert [one.wait(), other.wait(), third.wait()] == [0, 0, 0]
    assert counter.read_text() == "120"
