"""The learner renews a TD-error index that lives in the replay's actor: in time for each pick, and told by nobody."""

from __future__ import annotations

from typing import Any

import ray
from ray.actor import ActorHandle

from atradiff.adaptation.config import AdaptationConfig, passed
from atradiff.adaptation.feed import ScoreAnswer, ScoreQuestion, scorer
from atradiff.ports import ServiceOrder


class Rescoring:
    """Held by the learner's end of the replay, and asked whenever that serves.

    The learner scores when its env steps pass a multiple of ``every``; whoever drives the adapter begins an update when
    it hears of the same steps, which is a moment later. Does nothing where there is no adaptation, or nothing to score.
    """

    def __init__(self, replay: ActorHandle, adaptation: AdaptationConfig | None, order: ServiceOrder) -> None:
        self._replay: Any = replay
        self._every = 0 if adaptation is None else adaptation.every
        self._score = None if adaptation is None else scorer(order.score, adaptation.pick_up)
        self._seen: int | None = None

    def step(self, env_steps: int) -> None:
        """Score every row of the index, where that is due."""
        before, self._seen = self._seen, env_steps
        if self._score is None or before is None or not passed(self._every, before, env_steps):
            return
        row_ids, rows = ray.get(self._replay.consult.remote(ScoreQuestion()))
        if len(row_ids):
            ray.get(self._replay.consult.remote(ScoreAnswer(row_ids, self._score(rows))))
