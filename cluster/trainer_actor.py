"""The session of a run in an actor of its own: RLlib's algorithm, its evaluations and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import ray

from atradiff.adaptation.report import AdaptationReport
from atradiff.branches import OwnActions
from atradiff.ports import ReplayServices
from cluster.algorithm import build_algorithm
from cluster.checkpoint import Checkpoint
from cluster.checkpoint_files import Part
from cluster.config import RunConfig
from cluster.crew import AttachedReplay
from cluster.logging import RunLog
from cluster.progress import Progress
from cluster.run_store import RunStore
from cluster.session import Session


@dataclass(frozen=True)
class StartingPoint:
    """Where a trainer begins: at ``checkpoint``, or at the first step where that is None.

    ``replay_lives``: the replay actor has everything already, only the learner is taken from the checkpoint.
    """

    checkpoint: Checkpoint | None
    replay_lives: bool = False


class Trainer:
    """Thin shell round :class:`cluster.session.Session`, turned over by the driver.

    Its actor is made in the trainer's bundle with its children captured, so that RLlib's env runners and learners find
    their places in the run's placement group. It is not restarted by Ray: the driver chooses where to go on.
    """

    def __init__(
        self, run: RunConfig, store: RunStore, services: ReplayServices, other_parts: Mapping[str, Part]
    ) -> None:
        self._run = run
        self._store = store
        self._services = services
        self._other_parts = other_parts
        self._cleanup = ExitStack()
        self._session: Session | None = None
        self._take_own: Callable[[], OwnActions | None] = lambda: None

    def start(self, start: StartingPoint) -> Progress:
        """Build the algorithm and bring it to where it shall begin."""
        self._store.ensure_here()
        algorithm = build_algorithm(self._run, None, self._services)
        self._cleanup.callback(algorithm.stop)
        if isinstance(algorithm.service, AttachedReplay):
            self._take_own = algorithm.service.take_own
        env_steps = algorithm.env_steps if start.replay_lives else _env_steps(start.checkpoint)
        log = self._cleanup.enter_context(RunLog(self._store.folder, env_steps))
        self._session = Session(self._run, self._store, algorithm, log, self._other_parts)
        if start.replay_lives:
            self._session.rejoin(start.checkpoint)
        elif start.checkpoint is not None:
            self._session.restore(start.checkpoint)
        return self._session.progress

    def advance(
        self, seconds: float, gauges: Mapping[str, Mapping[str, float]], reports: Sequence[AdaptationReport]
    ) -> Progress:
        """Iterations for about ``seconds``, or to the end of the run. The rest is the driver's news, to be logged."""
        session = self._started
        session.note(reports)
        deadline = time.monotonic() + seconds
        while not session.finished:
            session.advance(gauges)
            if time.monotonic() >= deadline:
                break
        return replace(session.progress, own=self._take_own())

    def conclude(self) -> None:
        """Write a checkpoint, and the summary where the run is finished; end env runners and learners."""
        session = self._started
        session.checkpoint()
        if session.finished:
            session.finish()
        self._cleanup.close()

    @property
    def _started(self) -> Session:
        if self._session is None:
            raise RuntimeError("the trainer was not started: call start first.")
        return self._session


TrainerActor: Any = ray.remote(max_restarts=0)(Trainer)


def _env_steps(checkpoint: Checkpoint | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.state["env_steps"])
