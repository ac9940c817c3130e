"""Remote env runners: rows go where they should, acting overlaps learning, and a killed runner comes back."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
from ray.tune.registry import register_env

from atradiff.ports import EpisodeRows, ServiceOrder
from atradiff.replay.local import LocalReplay
from rllib_ext import EnsembleSACConfig
from rllib_ext.ensemble_sac import EnsembleSAC

_PATIENCE_SECONDS = 120


@pytest.fixture(autouse=True)
def _travelling(local_ray: None) -> Iterator[None]:  # noqa: ARG001
    """Other processes cannot import a test's helpers."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@ray.remote(num_cpus=0)
class Mailbox:
    def __init__(self) -> None:
        self.chunks: list[EpisodeRows] = []

    def put(self, chunk: EpisodeRows) -> None:
        self.chunks.append(chunk)

    def after(self, n: int) -> list[EpisodeRows]:
        return self.chunks[n:]


class MailboxSink:
    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox

    def push(self, chunk: EpisodeRows) -> None:
        ray.get(self.mailbox.put.remote(chunk))


class MailboxReplay(LocalReplay):
    """What the runners put into the mailbox is in the replay from the moment somebody looks."""

    def __init__(self, order: ServiceOrder) -> None:
        super().__init__(order)
        self.mailbox = Mailbox.remote()
        self.sink = MailboxSink(self.mailbox)
        self.chunks: list[EpisodeRows] = []

    @property
    def env_steps(self) -> int:
        new = ray.get(self.mailbox.after.remote(len(self.chunks)))
        for chunk in new:
            super().store(chunk)
        self.chunks += new
        return super().env_steps

    def store(self, chunk: EpisodeRows) -> None:  # noqa: ARG002
        raise AssertionError("rows came by way of the algorithm")


class MailboxServices:
    def start(self, order: ServiceOrder) -> MailboxReplay:
        return MailboxReplay(order)


def _seeds(algorithm: EnsembleSAC) -> list[int]:
    """What environments and noise of each runner began with."""
    group = algorithm.env_runner_group
    return list(group.foreach_env_runner(lambda runner: runner._seed, local_env_runner=False))


class SlowPendulum(gym.Wrapper):
    """A fragment of 20 steps takes a second: whoever kills its runner meets it at work."""

    def step(self, action: Any) -> Any:
        time.sleep(0.05)
        return super().step(action)


def build(env: str = "Pendulum-v1", runners: int = 2, envs: int = 1, **options: Any) -> EnsembleSAC:
    config = EnsembleSACConfig().environment(env).debugging(seed=3).augmentation(**options)
    config.training(hidden_sizes=(16, 16), batch_size=16, learning_starts=20)
    config.env_runners(
        num_env_runners=runners, num_envs_per_env_runner=envs, rollout_fragment_length=20, num_cpus_per_env_runner=0.5
    )
    return config.build_algo()


def test_rows_go_straight_to_the_sink_and_come_while_the_learner_learns() -> None:
    register_env("slow-pendulum", lambda _: SlowPendulum(gym.make("Pendulum-v1")))  # none has arrived unasked
    algorithm = build("slow-pendulum", envs=2, services=MailboxServices())
    service = algorithm.service
    assert isinstance(service, MailboxReplay)
    sample, arrived = service.sample, []

    def sample_late(count: int, batch_size: int) -> Any:
        """The learner is about to learn: runners that wait for it would never send another row."""
        before, deadline = service.env_steps, time.monotonic() + _PATIENCE_SECONDS
        while service.env_steps == before and time.monotonic() < deadline:
            time.sleep(0.01)
        arrived.append(service.env_steps - before)
        return sample(count, batch_size)

    service.sample = sample_late  # type: ignore[method-assign]
    try:
        for _ in range(4):
            result = algorithm.train()
        assert arrived
        assert min(arrived) > 0
        algorithm.env_runner_group.foreach_env_runner(lambda _: None)  # nobody is in the middle of a chunk any more
        steps = service.env_steps
        assert len(service.replay.real) == steps == sum(len(chunk.rows) for chunk in service.chunks)
        assert result["sampling"] == {"env_runner_restarts": 0, "fragments_lost": 0}
        assert 0 < result["learner"]["updates"] <= steps - 20
    finally:
        algorithm.stop()
    sequences = defaultdict(list)
    for chunk in service.chunks:
        sequences[chunk.source].append(chunk.sequence)
    assert len(sequences) == 2
    assert all(numbers == list(range(len(numbers))) for numbers in sequences.values())
    _assert_episodes_are_whole(service.chunks)


def _assert_episodes_are_whole(chunks: list[EpisodeRows]) -> None:
    """The rows of one key, in the order of their chunks, are one walk without a gap: two runners of two worlds each."""
    walks = defaultdict(list)
    for chunk in chunks:
        for i, key in enumerate(chunk.episodes.tolist()):
            walks[key].append((chunk.rows.observations[i], chunk.rows.next_observations[i]))
    assert len(walks) == 4
    for steps in walks.values():
        assert len(steps) > 20
        for (_, reached), (left, _) in pairwise(steps):
            np.testing.assert_array_equal(reached, left)


@pytest.mark.faults
def test_a_killed_runner_comes_back_and_training_goes_on_meanwhile(tmp_path: Path) -> None:
    register_env("slow-pendulum", lambda _: SlowPendulum(gym.make("Pendulum-v1")))
    algorithm = build("slow-pendulum")
    try:
        algorithm.train()
        seeds = set(_seeds(algorithm))
        pids = algorithm.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
        algorithm.train()
        os.kill(pids[0], signal.SIGKILL)
        result, before = algorithm.train(), algorithm.env_steps
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while result["sampling"]["env_runner_restarts"] == 0 and time.monotonic() < deadline:
            result = algorithm.train()
        assert result["sampling"] == {"env_runner_restarts": 1, "fragments_lost": 1}
        assert algorithm.env_steps > before
        now = set(algorithm.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False))
        assert len(now) == 2
        assert now - {pids[1]} != {pids[0]}
        assert len(seeds & set(_seeds(algorithm))) == 1  # who comes back does not live the same steps again
        result = algorithm.train()
        assert result["learner"]["updates"] == algorithm.env_steps - 20
        assert result["sampling"]["fragments_lost"] == 1

        algorithm.save_state(tmp_path)
        saved = algorithm.env_steps
        algorithm.train()
        algorithm.load_state(tmp_path)
        assert algorithm.env_steps == saved
        algorithm.train()
        assert algorithm.env_steps > saved
    finally:
        algorithm.stop()
