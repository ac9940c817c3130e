"""Generators that tests send to other processes, which load nothing but them."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from atradiff.types import ActionArray, FloatArray, Spaces, SyntheticTrajectories

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
