"""Facts about RLlib that remote env runners and remote learners lean on; each names what broke."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.actor_manager import FaultAwareApply, FaultTolerantActorManager

from rllib_ext import EnsembleSACConfig

_PATIENCE_SECONDS = 120


def test_a_batch_is_cut_into_equal_parts_in_row_order() -> None:
    """So that TD errors of several learners, end to end, are those of the batch."""
    rows = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch({"rewards": np.arange(12)})}, env_steps=12)
    parts = TrainingData(batch=rows).shard(num_shards=3)
    cut = [data.batch[DEFAULT_MODULE_ID]["rewards"].tolist() for data, _ in parts]
    assert cut == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_what_a_learner_raises_is_passed_on_and_it_lives() -> None:
    """Env runners end their process instead; a message of a learner would be lost by that."""

    def fail(_: Any) -> None:
        raise FloatingPointError("infinite rewards")

    with pytest.raises(FloatingPointError, match="infinite rewards"):
        Learner.apply(SimpleNamespace(), fail)


def test_a_killed_actor_loses_its_request_is_told_apart_and_comes_back(local_ray: None) -> None:  # noqa: ARG001
    remote = ray.remote(num_cpus=0, max_restarts=1)(FaultAwareApply)
    actors = [remote.remote() for _ in range(2)]
    ray.get([actor.ping.remote() for actor in actors])  # a start takes its time
    manager = FaultTolerantActorManager(actors, max_remote_requests_in_flight_per_actor=1, init_id=1)
    assert manager.foreach_actor_async(lambda _: time.sleep(2) or "done", tag="a") == 2
    assert manager.foreach_actor_async(lambda _: "too many", tag="a") == 0
    ray.kill(actors[1], no_restart=False)
    answers, deadline = {}, time.monotonic() + _PATIENCE_SECONDS
    while len(answers) < 2 and time.monotonic() < deadline:
        answers |= {r.actor_id: r.ok for r in manager.fetch_ready_async_reqs(tags="a", timeout_seconds=0.1)}
    assert answers == {1: True, 2: False}
    assert manager.healthy_actor_ids() == [1]
    assert manager.num_outstanding_async_reqs("a") == 0
    restored: list[int] = []
    while not restored and time.monotonic() < deadline:
        restored = manager.probe_unhealthy_actors(timeout_seconds=0.5, mark_healthy=True)
    assert restored == [2]
    assert manager.total_num_restarts() == 1
    assert manager.healthy_actor_ids() == [1, 2]


def test_without_merging_and_broadcasting_no_runner_is_asked_for_its_connectors() -> None:
    """Asking waits for the end of every runner's fragment: acting would not overlap learning."""
    group = SimpleNamespace(local_env_runner=None, num_healthy_remote_workers=lambda: 2)
    config = EnsembleSACConfig()
    assert EnvRunnerGroup.sync_env_runner_states(group, config=config) is None
    config.env_runners(merge_env_runner_states=True)
    with pytest.raises(AttributeError):  # the group is asked for what it has not got
        EnvRunnerGroup.sync_env_runner_states(group, config=config)
