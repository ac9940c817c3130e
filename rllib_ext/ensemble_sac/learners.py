"""The learners of an algorithm, in its own process or remote, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError, RayTaskError
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from atradiff.types import Transitions
from rllib_ext.ensemble_sac.learner import EnsembleSACLearner, LearnerLost, to_rllib_batch

_ANSWER_SECONDS = 10.0
"""A learner that has nothing to do answers at once; one whose peer is gone may wait for it without end."""

_Answer = TypeVar("_Answer")


class Learners:
    """Every method raises :class:`LearnerLost` when the process of a remote learner is gone."""

    def __init__(self, group: LearnerGroup) -> None:
        self.updates = 0
        self._group = group

    @property
    def _actors(self) -> list[Any]:
        return self._group._workers or []

    def update(self, batches: list[Transitions]) -> list[dict[str, Any]]:
        """One update for each batch; returns each learner's metrics. Every learner gets its part of every batch."""
        if self._group.is_local:
            results = self._group.update(batch=to_rllib_batch(batches))
        else:
            refs = [
                actor.update.remote(batch=part) for actor, part in zip(self._actors, self._parts(batches), strict=True)
            ]
            results = self._answers(refs)
        self.updates += len(batches)
        return list(results)

    def each(self, function: Callable[[EnsembleSACLearner], _Answer]) -> list[_Answer]:
        """What ``function`` returns for each learner, in its process, in their order."""
        if self._group.is_local:
            return [function(self._group._learner)]
        return self._answers([actor.apply.remote(function) for actor in self._actors])

    def first(self, function: Callable[[EnsembleSACLearner], _Answer]) -> _Answer:
        """As :meth:`each`, for the first learner alone: all have the same weights."""
        if self._group.is_local:
            return function(self._group._learner)
        return self._answers([self._actors[0].apply.remote(function)])[0]

    def sync(self, runners: EnvRunnerGroup) -> None:
        """Send the actor's weights to the env runners."""
        with _deaths_named():
            runners.sync_weights(from_worker_or_learner_group=self._group, inference_only=True)

    def _parts(self, batches: list[Transitions]) -> Iterator[Any]:
        n = len(self._actors)
        for i in range(n):
            yield to_rllib_batch([b[slice(len(b) * i // n, len(b) * (i + 1) // n)] for b in batches])

    def _answers(self, refs: list[ObjectRef[Any]]) -> list[Any]:
        """All results; the first failure ends the wait, since the others may wait for the one that failed."""
        try:
            with _deaths_named():
                waiting = refs
                while waiting:
                    ready, waiting = ray.wait(waiting)
                    ray.get(ready)
                return ray.get(refs)
        except RayTaskError as error:
            self._require_all_alive(error)  # what breaks an exchange is often that the other side died
            raise

    def _require_all_alive(self, cause: Exception) -> None:
        pings = [actor.apply.remote(_nothing) for actor in self._actors]
        ready, silent = ray.wait(pings, num_returns=len(pings), timeout=_ANSWER_SECONDS)
        with _deaths_named():
            ray.get(ready)
        if silent:
            raise LearnerLost(f"{len(silent)} of {len(pings)} learners do not answer any more: {cause}") from cause


@contextmanager
def _deaths_named() -> Iterator[None]:
    try:
        yield
    except RayActorError as error:
        raise LearnerLost(f"a learner died: {error} Go on from the last checkpoint.") from error


def _nothing(learner: EnsembleSACLearner) -> None:
    """Asked only to see whether there is an answer."""
