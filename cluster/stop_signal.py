"""Signals that ask a loop to end, as an event that it looks at."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did, with a checkpoint where it had begun."""


@contextmanager
def stop_signal(*numbers: signal.Signals) -> Iterator[threading.Event]:
    """An event that ``numbers`` (Ctrl-C and SIGTERM) set, for a loop to look at: it ends at its next iteration.

    An exception from a signal's handler may come in the middle of anything, and is lost where Python ignores those (in
    a ``__del__``). A second signal does what it always did: it ends an iteration that hangs.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only; whoever runs us elsewhere stops us otherwise
        return
    before = {number: signal.getsignal(number) for number in numbers or (signal.SIGINT, signal.SIGTERM)}

    def hear(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, hear)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
