"""The learners of an algorithm, in its own process or remote, as one."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from ray.exceptions import RayActorError
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from atradiff.types import FloatArray, Transitions
from rllib_ext.ensemble_sac.learner import EnsembleSACLearner, LearnerLost, to_rllib_batch

_ANSWER_SECONDS = 10.0
"""A learner that has nothing to do answers at once; one whose peer is gone may wait for it without end."""

_POLL_SECONDS = 0.2
"""All answers are taken as soon as they are there; one failure among them is heard of this late."""

_Answer = TypeVar("_Answer")


class Learners:
    """Every method raises :class:`LearnerLost` when the process of a remote learner is gone."""

    def __init__(self, group: LearnerGroup) -> None:
        self.updates = 0
        self._group = group

    def update(self, batches: list[Transitions]) -> list[dict[str, Any]]:
        """One update for each batch; returns each learner's metrics. Every learner gets its part of every batch."""
        if self._group.is_local:
            results = self._group.update(batch=to_rllib_batch(batches))
        else:
            results = self._ask("update", [{"batch": part} for part in self._parts(batches)])
        self.updates += len(batches)
        return list(results)

    def score(self, rows: Transitions, draws: int) -> FloatArray:
        """Absolute TD errors (N,) of ``rows`` by the networks of this moment: see :class:`scoring.Scorer`."""
        if self._group.is_local:
            answer: FloatArray = self._group._learner.score(rows, draws)
            return answer
        n, learners = len(rows), len(self._group)
        parts = [rows[slice(n * i // learners, n * (i + 1) // learners)] for i in range(learners)]
        return np.concatenate(self._ask("score", [{"rows": part, "draws": draws} for part in parts]))

    def each(self, function: Callable[[EnsembleSACLearner], _Answer]) -> list[_Answer]:
        """What ``function`` returns for each learner, in its process, in their order."""
        if self._group.is_local:
            return [function(self._group._learner)]
        return self._ask(function)

    def first(self, function: Callable[[EnsembleSACLearner], _Answer]) -> _Answer:
        """As :meth:`each`, of the first learner: all have the same weights."""
        return self.each(function)[0]

    def sync(self, runners: EnvRunnerGroup) -> None:
        """Send the actor's weights to the env runners."""
        with _deaths_named():
            runners.sync_weights(from_worker_or_learner_group=self._group, inference_only=True)

    def _parts(self, batches: list[Transitions]) -> Iterator[Any]:
        n = len(self._group)
        for i in range(n):
            yield to_rllib_batch([b[slice(len(b) * i // n, len(b) * (i + 1) // n)] for b in batches])

    def _ask(self, question: Any, arguments: list[dict[str, Any]] | None = None) -> list[Any]:
        """All answers; the first failure ends the wait, since the others may wait for the one that failed."""
        answers, failures = self._answers(question, arguments, math.inf)
        for failure in failures:
            if isinstance(failure, RayActorError):
                raise _lost(failure) from failure
            self._require_all_alive(failure)  # what breaks an exchange is often that the other side died
            raise failure
        return answers

    def _require_all_alive(self, cause: Exception) -> None:
        answers, failures = self._answers(_nothing, None, _ANSWER_SECONDS)
        if failures:
            raise _lost(failures[0]) from failures[0]
        if len(answers) < len(self._group):
            raise LearnerLost(f"{len(self._group) - len(answers)} learners do not answer any more: {cause}") from cause

    def _answers(
        self, question: Any, arguments: list[dict[str, Any]] | None, seconds: float
    ) -> tuple[list[Any], list[Exception]]:
        """Answers in the learners' order, and failures: all of the first, or some of the second, or time is over."""
        manager, tag = self._group._worker_manager, uuid.uuid4().hex
        manager.foreach_actor_async(question, tag=tag, kwargs=arguments, healthy_only=False)
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + seconds
        while len(answers) < len(self._group) and time.monotonic() < deadline:
            results = list(manager.fetch_ready_async_reqs(tags=tag, timeout_seconds=_POLL_SECONDS))
            answers |= {result.actor_id: result.get() for result in results if result.ok}
            failures = [result.get() for result in results if not result.ok]
            if failures:
                return [], sorted(failures, key=lambda failure: not isinstance(failure, RayActorError))
        return [answers[learner] for learner in sorted(answers)], []


@contextmanager
def _deaths_named() -> Iterator[None]:
    try:
        yield
    except RayActorError as error:
        raise _lost(error) from error


def _lost(error: Exception) -> LearnerLost:
    return LearnerLost(f"a learner died: {error} Go on from the last checkpoint.")


def _nothing(learner: EnsembleSACLearner) -> None:
    """Asked only to see whether there is an answer."""
