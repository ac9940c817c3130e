"""Offline data in the batches of EnsembleSAC and of stock RLlib: from a folder or an object, in the right scale."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ensemble_sac_worlds import tiny
from toy_configs import generator, tiny_config
from toy_worlds import CountingWorld, spaces_of

from atradiff.data.store import write_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.replay.batch import ReplayBatch
from atradiff.replay.mixed import ReplayConfig
from atradiff.types import Spaces, Transitions
from rllib_ext import ATraDiffCallback
from rllib_ext.offline_source import OfflineSource

pytestmark = pytest.mark.usefixtures("local_ray")

SPACES = spaces_of(CountingWorld())


def data(spaces: Spaces = SPACES, n: int = 30) -> Trajectories:
    """Every action is (1, 10), which is (0.5, 1) to the learner; rewards are from 100 on."""
    states = np.zeros((n, spaces.observation_size), np.float32)
    ends = np.arange(n) == n - 1
    actions = np.tile(np.array([1, 10], np.float32), (n, 1))
    rows = Transitions(states, actions, 100 + np.arange(n, dtype=np.float32), states, ends, np.zeros(n, bool))
    return Trajectories(spaces, rows, np.array([0, n]))


def watched(service: Any) -> list[ReplayBatch]:
    """All batches that the service gives from now on."""
    seen: list[ReplayBatch] = []
    sample = service.sample

    def sample_and_keep(count: int, batch_size: int) -> list[ReplayBatch]:
        batches = sample(count, batch_size)
        seen.extend(batches)
        return batches

    service.sample = sample_and_keep
    return seen


def require_half_offline(batches: list[ReplayBatch]) -> None:
    assert batches
    for batch in batches:
        rows = batch.transitions[batch.offline]
        assert len(rows) == len(batch.origins) // 2
        np.testing.assert_allclose(rows.actions, [[0.5, 1.0]] * len(rows))
        assert np.all(rows.rewards >= 100)
        assert np.all(batch.transitions[~batch.offline].rewards < 100)


def test_ensemble_sac_learns_from_half_offline_batches_of_a_store(build: Callable, tmp_path: Path) -> None:
    write_trajectories(tmp_path / "data", data(), source="test", licence="none")
    algorithm = build(tiny().augmentation(offline=tmp_path / "data", replay=ReplayConfig(offline_share=0.5)))
    seen = watched(algorithm.service)
    for _ in range(2):
        result = algorithm.train()
    require_half_offline(seen)
    assert (result["replay"]["offline_rows"], result["replay"]["offline_share_sampled"]) == (30, 0.5)


def test_a_stock_algorithm_mixes_them_with_imagined_rows(build: Callable) -> None:
    config = tiny_config("SAC")
    using = ATraDiffCallback.using(
        generator("SAC"), rho=0.5, offline=data(), offline_share=0.5, requests_per_batch=4, expected_length=4
    )
    algorithm = build(config.callbacks(using))
    seen = watched(algorithm.local_replay_buffer.service)
    for _ in range(2):
        result = algorithm.train()
    require_half_offline(seen)
    assert any(batch.synthetic.any() for batch in seen)
    assert 0 < result["atradiff"]["synthetic_share_sampled"] < 0.5


def test_a_share_without_data_and_data_of_another_task_are_refused(build: Callable) -> None:
    with pytest.raises(ValueError, match="there are no offline data"):
        build(tiny().augmentation(replay=ReplayConfig(offline_share=0.5)))
    other = Spaces(5, "continuous", SPACES.action_low, SPACES.action_high)
    with pytest.raises(ValueError, match="observation_size is 5 in the offline data"):
        build(tiny().augmentation(offline=data(other), replay=ReplayConfig(offline_share=0.5)))


def test_data_without_a_share_are_refused_and_not_left_out_silently(build: Callable) -> None:
    with pytest.raises(ValueError, match=r"offline data are given and offline_share is 0: .* Set it \(0.5 is RLPD's\)"):
        ATraDiffCallback.using(generator("SAC"), offline=data())
    with pytest.raises(ValueError, match="offline data are given and offline_share is 0"):
        build(tiny().augmentation(offline=data()))


def test_data_in_memory_stay_where_they_are_when_a_config_travels() -> None:
    held = data()
    source = OfflineSource(held)
    travelled = pickle.dumps(source)
    assert len(travelled) < 500
    assert pickle.loads(travelled).load() is held
    del source
    with pytest.raises(RuntimeError, match="stay in the process that made them"):
        pickle.loads(travelled).load()
