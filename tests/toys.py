"""Small data sets with known rules, for tests that need something to learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from atradiff.config import DiffuserConfig, FitConfig
from atradiff.data.trajectories import Trajectories
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.types import Spaces, Transitions

GOAL = 1.0
CHAIN = Spaces(2, "continuous", action_low=(-1.0,), action_high=(1.0,))


def chain_step(states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """v' = 0.8 v + 0.05 a, x' = x + v'; reward -0.1 a^2, and 100 more where the episode ends: x' >= 1."""
    velocity = 0.8 * states[:, 1] + 0.05 * actions[:, 0]
    position = states[:, 0] + velocity
    done = position >= GOAL
    rewards = np.where(done, 100.0, 0.0) - 0.1 * actions[:, 0] ** 2
    return np.stack([position, velocity], axis=1).astype(np.float32), rewards.astype(np.float32), done


def chain_episode(rng: np.random.Generator, limit: int = 60) -> Transitions:
    """Mostly pushes to the right; truncated after ``limit`` rows."""
    state = np.array([[rng.uniform(-1, 0), rng.uniform(-0.05, 0.05)]], np.float32)
    rows: list[tuple[np.ndarray, ...]] = []
    while True:
        action = np.clip(rng.normal(0.6, 0.4, size=(1, 1)), -1, 1).astype(np.float32)
        following, reward, done = chain_step(state, action)
        cut = np.array([len(rows) + 1 == limit and not done[0]])
        rows.append((state, action, reward, following, done, cut))
        if done[0] or cut[0]:
            return Transitions(*(np.concatenate(column) for column in zip(*rows, strict=True)))
        state = following


def chain_data(episodes: int = 40, seed: int = 0, limit: int = 60) -> Trajectories:
    rng = np.random.default_rng(seed)
    return lay_out(CHAIN, [chain_episode(rng, limit) for _ in range(episodes)])


def random_data(lengths: list[int], terminated: list[bool], *, spaces: Spaces = CHAIN, seed: int = 0) -> Trajectories:
    """Episodes of random numbers; every row's ``next_observations`` is the following row's ``observations``."""
    rng = np.random.default_rng(seed)
    return lay_out(spaces, [_noise(n, end, spaces, rng) for n, end in zip(lengths, terminated, strict=True)])


def lay_out(spaces: Spaces, episodes: list[Transitions]) -> Trajectories:
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in episodes])]).astype(np.int64)
    return Trajectories(spaces, Transitions.concatenate(episodes), offsets)


def _noise(n: int, ends: bool, spaces: Spaces, rng: np.random.Generator) -> Transitions:
    states = rng.normal(size=(n + 1, spaces.observation_size)).astype(np.float32)
    last = np.arange(n) == n - 1
    actions = (
        rng.integers(spaces.n_actions, size=n)
        if spaces.discrete
        else rng.uniform(-1, 1, size=(n, spaces.action_size)).astype(np.float32)
    )
    rewards = rng.normal(size=n).astype(np.float32)
    return Transitions(states[:-1], actions, rewards, states[1:], last & ends, last & (not ends))


TINY = DiffuserConfig(lengths=(3, 6), width=16, depth=1, heads=2, dynamics_models=2, dynamics_width=16)


def tiny_fit(steps: int = 12, **changes: Any) -> FitConfig:
    return FitConfig(steps=steps, **({"tokens_per_step": 48, "dynamics_batch": 16, "checkpoint_every": 4} | changes))


def tiny_diffuser(data: Trajectories | None = None, config: DiffuserConfig = TINY) -> TrajectoryDiffuser:
    """A diffuser that has learned next to nothing, in a second."""
    return fit(data or chain_data(10), config=config, settings=tiny_fit(), device="cpu", quiet=True)
