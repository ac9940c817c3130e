"""A signal is an event, wherever it finds the loop; the second one is what it always was."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from cluster.stop_signal import stop_signal


class Interrupted:
    """Meets Ctrl-C where Python ignores exceptions."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))  # handlers run between two instructions


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """What Python makes of Ctrl-C: what a shell starts in the background inherits that it is ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_in_the_middle_of_anything_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_signal(signal.SIGINT) as stop:
        assert not stop.is_set()
        Interrupted()
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_elsewhere_than_in_the_main_thread_nothing_is_set() -> None:
    before, found = signal.getsignal(signal.SIGINT), []

    def look() -> None:
        with stop_signal() as stop:
            found.append((stop.is_set(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(False, True)]
