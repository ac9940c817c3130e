"""What tests of :class:`cluster.services.ActorServices` need in other processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import ray

from atradiff.ports import EpisodeRows, ServiceOrder
from atradiff.types import ActionArray, FloatArray, Spaces, SyntheticTrajectories
from cluster.checkpoint_files import FileEntry, StoredPart
from cluster.owned_replay import OwnedReplay
from cluster.services import ActorServices
from cluster.storage import Location

ENV = "Pendulum-v1"
REWARD = -50.0
"""None of Pendulum's own."""


class Still:
    """Trajectories of four rows that stay where they began; their action is 1 in Pendulum's scale, -2..2."""

    version = 7
    starts_at_states = True

    def __init__(self) -> None:
        env = gym.make(ENV)
        self.spaces = Spaces.from_gymnasium(env.observation_space, env.action_space)

    def generate(self, states: FloatArray, task: None = None, *, generator_seed: int) -> SyntheticTrajectories:  # noqa: ARG002
        b = len(states)
        return SyntheticTrajectories(
            np.repeat(states[:, None], 5, axis=1),
            np.ones((b, 4, 1), np.float32),
            np.full((b, 4), REWARD, np.float32),
            np.zeros((b, 4), bool),
            np.full(b, 4),
            self.version,
        )


class Rolling(Still):
    """With a one-step model in which everything stands still."""

    def roll(
        self, states: FloatArray, act: Callable[[FloatArray, int], ActionArray], rows: int
    ) -> SyntheticTrajectories:
        b = len(states)
        return SyntheticTrajectories(
            np.repeat(states[:, None], rows + 1, axis=1),
            np.stack([act(states, j) for j in range(rows)], axis=1),
            np.full((b, rows), REWARD, np.float32),
            np.zeros((b, rows), bool),
            np.full(b, rows),
            self.version,
        )


class Failing(Still):
    def generate(self, states: FloatArray, task: None = None, *, generator_seed: int) -> SyntheticTrajectories:  # noqa: ARG002
        raise ZeroDivisionError("this generator cannot divide")


class SinkOnly(OwnedReplay):
    """Rows must not come by way of the algorithm."""

    def store(self, chunk: EpisodeRows) -> None:
        raise AssertionError(f"{len(chunk.rows)} rows were brought by the algorithm")


@dataclass(frozen=True)
class Bringing:
    """Services with a generator of their own: an object would have stayed in the process of the test."""

    services: ActorServices

    def start(self, order: ServiceOrder) -> SinkOnly:
        rows = replace(order.replay, rho=0.5)
        service = self.services.start(replace(order, generator=Rolling(), replay=rows))
        service.__class__ = SinkOnly
        return service  # type: ignore[return-value]


class Elsewhere:
    """The handle of an owner whose files go to a machine that nobody else sees."""

    def __init__(self) -> None:
        self.write, self.read = SimpleNamespace(remote=_write), SimpleNamespace(remote=_read)


def _write(target: Location) -> ray.ObjectRef:  # noqa: ARG001
    return ray.put([FileEntry("real/rewards.npy", 8, "")])


def _read(part: StoredPart) -> None:
    away = replace(part, location=Location.of(str(part.location) + "-which-is-not-here"))
    with away.open():
        raise AssertionError("there are no such files")
