"""Keeps a trainer going: starts it, turns it over second by second, and starts it anew when it or a learner dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayActorError

from atradiff.adaptation.report import AdaptationReport
from atradiff.errors import RunFailed
from cluster.placement import to_stderr
from cluster.progress import Progress
from cluster.replay_actor import RowsLostError
from rllib_ext.ensemble_sac.learner import LearnerLost

_TURN_SECONDS = 1.0
"""Between two looks of the driver: at the stop signal, at its actors, at the bar."""
_FRUITLESS_DEATHS = 3
"""So many deaths in a row without a step in between are not bad luck."""


class TrainerLost(RunFailed):
    """The trainer died again and again without a step in between; the message holds its last words."""


class Tended(Protocol):
    """What goes on beside the trainer, in the driver's hands."""

    def tend(self, progress: Progress) -> None:
        """Called every second: raise what went wrong, start what is due."""
        ...

    def gauges(self) -> Mapping[str, Mapping[str, float]]:
        """What the log shall say of it, by group and name."""
        ...

    def take_reports(self) -> list[AdaptationReport]:
        """Attempts at an update of the diffuser that ended; each once."""
        ...


class Supervisor:
    """Runs trainers, one after the other, until the run is finished or asked to stop.

    ``start`` makes a trainer; it is given what ended the one before, None for the first.
    ``get`` waits for the trainer's answers, see :class:`cluster.waiting.Waiting`; ``kill`` ends a trainer.
    """

    def __init__(
        self,
        start: Callable[[Exception | None], ActorHandle],
        crew: Tended,
        get: Callable[[ObjectRef[Any]], Any] = ray.get,
        kill: Callable[[ActorHandle], None] = ray.kill,
    ) -> None:
        self._start = start
        self._crew = crew
        self._get, self._kill = get, kill
        self._trainer: Any = None
        self.restarts = 0

    def run(self, watch: Callable[[Progress], None], stop: threading.Event) -> Progress:
        """Go on until the run is finished or ``stop`` is set; the trainer's checkpoint is written then.

        Raises :class:`TrainerLost`, what the crew raises, and what the run itself raised.
        """
        deaths, cause = 0, None
        first: int | None = None  # steps that this trainer told of first: what it adds to them is progress
        while True:
            try:
                progress = self._turn(cause)
                watch(progress)
                if progress.finished or stop.is_set():
                    self._get(self._trainer.conclude.remote())
                    return progress
            except (RayActorError, OutOfMemoryError, LearnerLost, RowsLostError) as error:
                deaths, cause, first = deaths + 1, error, None
                if deaths > _FRUITLESS_DEATHS:
                    raise TrainerLost(
                        f"the trainer died {deaths} times without a step in between: {error} Its log (`ray logs`, or "
                        "Ray's dashboard) may say more; once the cause is mended, go on with --resume."
                    ) from error
                self._bury()
                continue
            first = progress.env_steps if first is None else first
            if progress.env_steps > first:
                deaths = 0
            self._tend(progress)

    def _tend(self, progress: Progress) -> None:
        """What is wrong with the crew ends the run, but not without a checkpoint, where there can be one."""
        try:
            self._crew.tend(progress)
        except Exception:
            try:
                self._get(self._trainer.conclude.remote())
            except Exception as error:
                to_stderr(f"no checkpoint could be written before the end: {error}")
            raise

    def _turn(self, cause: Exception | None) -> Progress:
        if self._trainer is None:
            self._trainer = self._start(cause)
        gauges = {**self._crew.gauges(), "trainer": {"restarts": float(self.restarts)}}
        turn = self._trainer.advance.remote(_TURN_SECONDS, gauges, self._crew.take_reports())
        progress: Progress = self._get(turn)
        return progress

    def _bury(self) -> None:
        """A trainer that lost its learner lives on, and would hold its places."""
        if self._trainer is not None:
            self._kill(self._trainer)
        self._trainer = None
        self.restarts += 1
