"""Online adaptation in the run's own process: deterministic, between two updates of the learner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from atradiff.adaptation.adapt import Adapter, Publish
from atradiff.adaptation.config import passed
from atradiff.adaptation.feed import LocalFeed
from atradiff.adaptation.report import AdaptationReport
from atradiff.replay.mixed import MixedReplay
from atradiff.types import FloatArray, Transitions


class Adaptation(Protocol):
    """What a replay service calls when it serves; in process, or the client of an actor."""

    def due(self, env_steps: int) -> bool:
        """Whether :meth:`step` has something to do."""
        ...

    def step(self, env_steps: int) -> AdaptationReport | None:
        """Begin, or finish, what is due; the report of an attempt that ended, each once."""
        ...

    def take_reports(self) -> list[AdaptationReport]:
        """Of the attempts that ended since this was asked last."""
        ...

    def metrics(self) -> dict[str, float]: ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


class LocalAdaptation:
    """Updates when due, and hands accepted weights to ``publish`` at once. The replay saves its own pick-up strategy.

    ``score`` is that of :class:`LocalFeed`.
    """

    def __init__(
        self,
        adapter: Adapter,
        replay: MixedReplay,
        to_environment: Callable[[Transitions], Transitions],
        publish: Publish,
        score: Callable[[Transitions], FloatArray] | None = None,
    ) -> None:
        self.adapter = adapter
        self.last_report: AdaptationReport | None = None
        self._publish = publish
        self._untold: list[AdaptationReport] = []
        self._feed = LocalFeed(replay, to_environment, score)

    def due(self, env_steps: int) -> bool:
        """Whether a multiple of ``every`` env steps was passed since the last attempt."""
        return passed(self.adapter.config.every, self.adapter.env_steps, env_steps)

    def step(self, env_steps: int) -> AdaptationReport | None:
        """One whole attempt, here and now; None where none is due."""
        if not self.due(env_steps):
            return None
        report = self.adapter.update(self._feed, env_steps)
        if report.accepted:
            self._publish(report.version, self.adapter.weights())
        self.last_report = report
        self._untold.append(report)
        return report

    def take_reports(self) -> list[AdaptationReport]:
        """See :class:`Adaptation`."""
        told, self._untold = self._untold, []
        return told

    def metrics(self) -> dict[str, float]:
        """Counters, and the figures of the last attempt."""
        counters = {"updates": float(self.adapter.updates), "rollbacks": float(self.adapter.rollbacks)}
        return counters | (self.last_report.metrics() if self.last_report else {})

    def save(self, folder: Path) -> None:
        """Write the adapter into ``folder`` (made if absent)."""
        self.adapter.save(folder)

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote, and publish its weights; ``ValueError`` where that does not fit."""
        self.adapter.load(folder)
        self._publish(self.adapter.version, self.adapter.weights())
