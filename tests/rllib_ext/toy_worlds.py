"""Small environments whose every number is known, and generators that answer without a model."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from atradiff.types import FloatArray, Spaces, SyntheticTrajectories

LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)


class CountingWorld(gym.Env[np.ndarray, Any]):
    """Observation (t, sum of actions so far, 1); reward t + 1; terminates after ``length`` steps, or is truncated.

    No randomness at all: two runs that act alike see the same.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        config = config or {}
        self.length, self.truncate = config.get("length", 10), config.get("truncate", False)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        discrete = config.get("discrete", False)
        self.action_space = gym.spaces.Discrete(3) if discrete else gym.spaces.Box(LOW, HIGH)
        self.t, self.total = 0, 0.0
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:  # noqa: ARG002
        super().reset(seed=seed)
        self.t, self.total = 0, 0.0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        self.total += float(np.sum(action))
        self.taken.append(action)
        over = self.t >= self.length
        return self._observe(), float(self.t), over and not self.truncate, over and self.truncate, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.t, self.total, 1.0], np.float32)


def spaces_of(env: gym.Env[Any, Any]) -> Spaces:
    return Spaces.from_gymnasium(env.observation_space, env.action_space)


class ConstantGenerator:
    """Trajectories of ``length`` rows that stay in their start state, with one action in the environment's scale."""

    version = 7

    def __init__(self, spaces: Spaces, action: Any, length: int = 4) -> None:
        self.spaces = spaces
        self.action = np.asarray(action)
        self.length = length
        self.calls: list[tuple[FloatArray, int]] = []

    def generate(self, states: FloatArray, task: None = None, *, generator_seed: int) -> SyntheticTrajectories:  # noqa: ARG002
        self.calls.append((states.copy(), generator_seed))
        batch, k = len(states), self.length
        dtype = np.int64 if self.spaces.discrete else np.float32
        return SyntheticTrajectories(
            observations=np.repeat(states[:, None], k + 1, axis=1),
            actions=np.broadcast_to(self.action.astype(dtype), (batch, k, *self.action.shape)).copy(),
            rewards=np.full((batch, k), -5.0, np.float32),
            terminated=np.zeros((batch, k), bool),
            lengths=np.full(batch, k, np.int64),
            generator_version=self.version,
        )
