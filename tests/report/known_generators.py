"""Generators whose figures are known beforehand, and data from the environments' own random rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from atradiff.data.store import write_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.imagine import GenerationReport
from atradiff.report.fidelity_windows import as_trajectories
from atradiff.report.simulator import simulator_for
from atradiff.types import FloatArray, Spaces, SyntheticTrajectories, Transitions


def collect(env_id: str, episodes: int, steps: int = 200, seed: int = 0) -> Trajectories:
    """Episodes of at most ``steps`` uniformly random actions."""
    env = gym.make(env_id, max_episode_steps=steps)
    env.action_space.seed(seed)
    rows, offsets = [], [0]
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        done = False
        while not done:
            action = env.action_space.sample()
            answer, reward, terminated, truncated, _ = env.step(action)
            rows.append((observation, action, reward, answer, terminated, truncated and not terminated))
            observation, done = answer, terminated or truncated
        offsets.append(len(rows))
    columns = [np.array(c) for c in zip(*rows, strict=True)]
    floats = [c if c.dtype == bool or c.dtype == np.int64 else c.astype(np.float32) for c in columns]
    spaces = Spaces.from_gymnasium(env.observation_space, env.action_space)
    return Trajectories(spaces, Transitions(*floats), np.array(offsets), env_id, content_hash="abc")


def account(**shares: float) -> GenerationReport:
    nothing = dict.fromkeys(GenerationReport.__dataclass_fields__, 0)
    return GenerationReport(**(nothing | shares))


@dataclass
class Fake:
    """A model that answers with :meth:`imagine`, whatever refinement or pruning is asked for."""

    data: Trajectories

    def generate_with_report(
        self, states: FloatArray, *_: Any, generator_seed: int, length: int, horizon: int | None = None, **__: Any
    ) -> tuple[SyntheticTrajectories, GenerationReport]:
        rng = np.random.default_rng(generator_seed)
        return self.imagine(states, horizon or length, rng), account(pruned=0.25, cut=0.5)

    def imagine(self, states: FloatArray, length: int, rng: np.random.Generator) -> SyntheticTrajectories:
        raise NotImplementedError


class Perfect(Fake):
    """The behaviour that made the data, in the environment itself."""

    def imagine(self, states: FloatArray, length: int, rng: np.random.Generator) -> SyntheticTrajectories:
        simulator = simulator_for(str(self.data.env_id))
        path, terminated = [states], []
        actions = rng.uniform(-1, 1, (length, len(states), self.data.spaces.action_size)).astype(np.float32)
        actions *= np.float32(self.data.spaces.action_high)
        rewards = np.zeros((len(states), length), np.float32)
        for row in range(length):
            steps = simulator.step(path[-1], actions[row])
            path.append(np.where(steps.valid[:, None], steps.next_observations, path[-1]))
            rewards[:, row] = np.where(steps.valid, steps.rewards, 0)
            terminated.append(steps.terminated)
        ends = np.stack(terminated, axis=1)
        lengths = np.full(len(states), length)
        return SyntheticTrajectories(np.stack(path, 1), actions.swapaxes(0, 1), rewards, ends, lengths, 0)


class Still(Fake):
    """Believes that nothing ever moves, ends, or pays more than the mean."""

    def imagine(self, states: FloatArray, length: int, rng: np.random.Generator) -> SyntheticTrajectories:
        shape = (len(states), length)
        high = np.float32(self.data.spaces.action_high)
        return SyntheticTrajectories(
            observations=np.repeat(states[:, None], length + 1, axis=1),
            actions=(rng.uniform(-1, 1, (*shape, len(high))) * high).astype(np.float32),
            rewards=np.full(shape, self.data.columns.rewards.mean()),
            terminated=np.zeros(shape, bool),
            lengths=np.full(len(states), length),
            generator_version=0,
        )


class Copy(Fake):
    """Recites windows of its training data behind whatever state it was asked for."""

    def imagine(self, states: FloatArray, length: int, rng: np.random.Generator) -> SyntheticTrajectories:
        sampler = WindowSampler(self.data, (length,))
        starts = rng.choice(sampler.starts(length), len(states))
        recited = as_trajectories(sampler.at(starts, length))
        recited.observations[:, 0] = states
        return recited


class Retrace(Fake):
    """Moves as its training data did from the nearest state: what memory of differences amounts to."""

    def imagine(self, states: FloatArray, length: int, rng: np.random.Generator) -> SyntheticTrajectories:  # noqa: ARG002
        sampler = WindowSampler(self.data, (length,))
        starts = sampler.starts(length)
        known = self.data.columns.observations[starts]
        nearest = [int(np.square(known - state).sum(1).argmin()) for state in states]
        moves = as_trajectories(sampler.at(starts[nearest], length))
        moves.observations[:] += (states - moves.observations[:, 0])[:, None]
        return moves


def stored(folder: Path, data: Trajectories) -> Path:
    """``data`` written as a trajectory store."""
    write_trajectories(folder, data, source="random actions", licence="none")
    return folder
