"""The driver's end of the adapter actor: the learner never waits for an update.

replay actor --picked windows--> adapter actor --report, weights--> driver --weights--> generator pool
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from atradiff.adaptation.adapt import Publish
from atradiff.adaptation.config import passed
from atradiff.adaptation.report import AdaptationReport
from cluster.adapter_actor import Attempt, StartedAdapter
from cluster.checkpoint_files import FileEntry, StoredPart
from cluster.ray_runtime import answer_of
from cluster.storage import Location


class AdapterClient:
    """Begins an update when one is due and publishes its weights when they are there.

    Satisfies :class:`atradiff.adaptation.local.Adaptation`, but for saving: the actor writes its own part.
    """

    def __init__(
        self,
        adapter: StartedAdapter,
        replay: ActorHandle,
        every: int,
        publish: Publish,
        served: Callable[[], dict[str, float]] = dict,
    ) -> None:
        """``served`` says what became of the versions: further metrics."""
        self.last_report: AdaptationReport | None = None
        self.updates, self.rollbacks, self.restarts = 0, 0, 0
        self.actor: Any = adapter.actor
        self.made_of = adapter.made_of
        self._replay, self._every, self._publish = replay, every, publish
        self._served = served
        self._last_begun = 0
        self._published: list[ray.ObjectRef] = []
        self._version = adapter.version
        self._process = int(answer_of(self.actor.ready.remote(self.made_of)))
        self._running: tuple[ray.ObjectRef, ray.ObjectRef] | None = None
        self._untold: list[AdaptationReport] = []

    def due(self, env_steps: int) -> bool:
        """Whether :meth:`step` has something to do."""
        return self._running is not None or passed(self._every, self._last_begun, env_steps)

    def step(self, env_steps: int) -> AdaptationReport | None:
        """Begin what is due, collect what is ready, wait for nothing; the report of an attempt that ended, each once.

        Raises what the attempt raised. One that died with its process is repeated by Ray, not reported.
        """
        if self._running is None and passed(self._every, self._last_begun, env_steps):
            self._last_begun = env_steps
            self._running = self.actor.update.remote(
                self._replay, env_steps, self._version, self._published, self.made_of
            )
        if self._running is None or not ray.wait([self._running[0]], timeout=0)[0]:
            return None
        attempt_ref, weights_ref = self._running
        self._running = None
        attempt: Attempt = answer_of(attempt_ref)
        self._note(attempt)
        if attempt.report.accepted:
            self._pass_on(attempt.report.version, weights_ref)
        return attempt.report

    def take_reports(self) -> list[AdaptationReport]:
        """Of the attempts that ended since this was asked last."""
        told, self._untold = self._untold, []
        return told

    def restore(self, part: StoredPart, newest: int = 0) -> None:
        """Have the actor go back to a checkpoint, and publish its version, if that is not the one that is served.

        An update that is under way is forgotten. Where other weights were served before, those of the checkpoint
        get a new version: a generator that has seen a version does not ask for it again, and rows name their generator
        by it. ``newest`` is the highest version of the replay's rows, which may have outlived a driver.
        """
        self._running = None
        served = max(self._version, newest)
        answer_of(self.actor.read.remote(part, served, not self._published, self.made_of))
        told, weights = self.actor.current.remote(self.made_of)
        (version, self._last_begun), (self.updates, self.rollbacks) = ray.get(told)
        if version > self._version:
            self._pass_on(version, weights)

    def write(self, target: Location) -> list[FileEntry]:
        """Have the actor write its part of a checkpoint: not of an update under way, nor waiting for that."""
        entries: list[FileEntry] = answer_of(self.actor.write.remote(target, self.made_of))
        return entries

    def metrics(self) -> dict[str, float]:
        """Counters, and the figures of the last attempt."""
        counters = {"updates": self.updates, "rollbacks": self.rollbacks, "restarts": self.restarts}
        last = self.last_report.metrics() if self.last_report else {}
        return {name: float(value) for name, value in counters.items()} | last | self._served()

    def _note(self, attempt: Attempt) -> None:
        self.restarts += attempt.process != self._process
        self._process = attempt.process
        self.updates += attempt.report.accepted
        self.rollbacks += attempt.report.outcome == "rolled_back"
        self.last_report = attempt.report
        self._untold.append(attempt.report)

    def _pass_on(self, version: int, weights: ray.ObjectRef) -> None:
        self._publish(version, ray.get(weights))
        self._version, self._published = version, [weights]
