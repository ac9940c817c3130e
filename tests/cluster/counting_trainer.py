"""A trainer that counts."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.exceptions import OutOfMemoryError

from cluster.progress import Progress
from cluster.replay_actor import RowsLostError

ENV_STEPS = 100


class CountingTrainer:
    """Ten steps a turn; what is to happen at which step is written in ``accidents``, and happens once."""

    def __init__(self, begin: int, accidents: dict[int, str], log: Path) -> None:
        self.steps, self.accidents, self.log = begin, accidents, log

    def advance(
        self,
        seconds: float,  # noqa: ARG002
        gauges: Mapping[str, Mapping[str, float]],
        reports: list[Any],  # noqa: ARG002
    ) -> Progress:
        accident = self.accidents.get(self.steps)
        if accident == "killed":
            self.die()
        if accident == "learner lost":
            from rllib_ext.ensemble_sac.learner import LearnerLost  # with RLlib, which the others do without

            raise LearnerLost("learner 1 is gone")
        if accident == "replay lost":
            raise RowsLostError("nothing there")
        if accident == "out of memory":
            raise OutOfMemoryError("the node's memory monitor killed it")
        if accident == "diverged":
            raise FloatingPointError("the critic loss is nan")
        self.steps += 10
        return Progress(self.steps, gauges["trainer"]["restarts"], finished=self.steps >= ENV_STEPS)

    def conclude(self) -> None:
        self.log.write_text(f"concluded at {self.steps}")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
