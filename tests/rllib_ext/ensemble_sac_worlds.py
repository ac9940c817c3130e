"""Tiny configurations of EnsembleSAC on the toy worlds."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from toy_worlds import CountingWorld

from rllib_ext.ensemble_sac import EnsembleSACConfig


class MatchTheState(gym.Env[np.ndarray, Any]):
    """One-step episodes: the state is drawn from the environment's own seed, the reward is -(action - state)^2."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:  # noqa: ARG002
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.state, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.state, -float(np.square(action - self.state).sum()), True, False, {}


class MatchOneState(MatchTheState):
    """Where all episodes start alike: a deterministic policy earns the same in each."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed, options=options)
        self.state = np.full(1, 0.3, np.float32)
        return self.state, {}


def tiny(env: type[gym.Env] = CountingWorld, seed: int | None = 3, **training: Any) -> EnsembleSACConfig:
    """20 env steps per iteration, random for the first 20, then one update of 16 rows per step."""
    settings: dict[str, Any] = {"hidden_sizes": (16, 16), "batch_size": 16, "learning_starts": 20, **training}
    config = EnsembleSACConfig().environment(env).training(**settings).env_runners(rollout_fragment_length=20)
    return config.debugging(seed=seed)
