"""Waits for answers of a run's actors, and says what is missing where none comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef

from atradiff.errors import RunFailed
from cluster.placement import to_stderr
from cluster.ray_runtime import answer_of

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Patience:
    """Seconds: until it is first said what is missing, between two such messages, and how long a run that was asked
    to stop waits for what is missing."""

    first: float = 30.0
    between: float = 300.0
    stopping: float = 120.0


class Waiting:
    """In place of ``ray.get``, which waits in silence for an actor that finds no new place.

    ``missing`` says what the run has lost, None while it has all of its places: an answer that merely takes long, as an
    evaluation may, is waited for without a word.
    """

    def __init__(
        self,
        missing: Callable[[], str | None],
        stop: threading.Event,
        patience: Patience | None = None,
        tell: Callable[[str], None] = to_stderr,
    ) -> None:
        self._missing, self._stop, self._tell = missing, stop, tell
        self._patience = patience or Patience()

    def get(self, call: ObjectRef[Any]) -> Any:
        """The answer; raises what the actor raised, and :class:`RunFailed` where a stop cannot be carried out."""
        began = time.monotonic()
        tell_at, stopped_at = began + self._patience.first, None
        while not ray.wait([call], timeout=_POLL_SECONDS)[0]:
            now = time.monotonic()
            if self._stop.is_set() and stopped_at is None:
                stopped_at = now
            given_up = stopped_at is not None and now >= stopped_at + self._patience.stopping
            if (now < tell_at and not given_up) or (missing := self._missing()) is None:
                continue
            if given_up:
                raise RunFailed(
                    f"stopped without a new checkpoint, which needs what is missing. {missing} The run goes on from "
                    "its newest checkpoint with --resume."
                )
            self._tell(f"no answer for {now - began:.0f} s. {missing}")
            tell_at = now + self._patience.between
        return answer_of(call)
