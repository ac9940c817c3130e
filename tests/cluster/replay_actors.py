"""Rows for tests of the replay actor, and its end."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import ray

from atradiff.ports import EpisodeRows
from atradiff.types import Spaces, Transitions

SPACES = Spaces(2, "continuous", (-1.0,), (1.0,))
PATIENCE = 300.0


def chunk(first: int, n: int, source: str, sequence: int) -> EpisodeRows:
    """Rows whose reward is their number: row i goes from state (i, 0) to (i + 1, 0)."""
    i = np.arange(first, first + n, dtype=np.float32)
    zeros, flags = np.zeros(n, np.float32), np.zeros(n, np.bool_)
    rows = Transitions(np.stack([i, zeros], 1), zeros[:, None], i, np.stack([i + 1, zeros], 1), flags, flags)
    return EpisodeRows(rows, np.zeros(n, np.int64), source, sequence)


class Stuck:
    """A replay that answers no question."""

    def consult(self, _: Any) -> None:
        time.sleep(100 * PATIENCE)


def pid_of(actor: Any) -> int:
    return int(ray.get(actor.consult.remote(_own_pid), timeout=PATIENCE))


def kill(actor: Any) -> int:
    """SIGKILL the process of ``actor``; returns the id that it had."""
    pid = pid_of(actor)
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_for_another_process(actor: Any, old: int) -> int:
    """Wait until Ray has restarted ``actor`` after the end of process ``old``; returns the id of the new one."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (pid := pid_of(actor)) != old:
            return pid
    raise TimeoutError(f"process {old} still answers for {actor}.")


def _own_pid(_: Any) -> int:
    return os.getpid()
