"""Checkpoints of stock algorithms keep what RLlib would lose, and a restored run goes on as the first would have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from toy_configs import CONFIGS, generator, tiny_config

from atradiff.replay.mixed import MixedReplay
from rllib_ext import ATraDiffCallback

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trained(name: str) -> Iterator[Algorithm]:
    algorithm = _build(name)
    for _ in range(2):
        algorithm.train()
    yield algorithm
    algorithm.stop()


def test_restored_as_it_was_and_goes_on_as_if_never_stopped(name: str, trained: Algorithm, tmp_path: Path) -> None:
    """RLlib keeps no environments in a checkpoint: the run that was not stopped begins new episodes here, too."""
    folder = trained.save_to_path(tmp_path / "checkpoint")
    again = Algorithm.from_checkpoint(folder)
    _assert_same(_replay(trained), _replay(again))
    assert _log_alpha(again) == _log_alpha(trained)
    if name != "DQN":
        assert _log_alpha(trained) != 0.0  # what RLlib would have come back with
    assert _learner(again).last_update_ts_by_mid == _learner(trained).last_update_ts_by_mid

    trained.env_runner._needs_initial_reset = True
    trained.train()
    again.restore_from_path(folder)  # once more: both draw from torch's one generator
    again.train()
    _assert_same(_replay(trained), _replay(again))
    ours, theirs = (_learner(a).module[DEFAULT_MODULE_ID].state_dict() for a in (trained, again))
    for key, value in ours.items():
        np.testing.assert_array_equal(value.detach(), theirs[key].detach(), err_msg=key)
    assert again.training_iteration == trained.training_iteration == 3
    assert len(_replay(again).real) == 150
    again.stop()


def test_tune_style_checkpoints_other_filesystems_and_saving_over_an_older_one(tmp_path: Path) -> None:
    algorithm, again = _build("SAC"), _build("SAC")
    algorithm.train()
    again.restore(algorithm.save(str(tmp_path / "tune")))
    _assert_same(_replay(algorithm), _replay(again))

    elsewhere = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    algorithm.train()
    algorithm.save_to_path("bucket/run", filesystem=elsewhere)
    again.get_checkpointable_components()[-1][1].restore_from_path("bucket/run/atradiff_replay", filesystem=elsewhere)
    _assert_same(_replay(algorithm), _replay(again))
    assert len(_replay(again).real) == 100

    algorithm.save_to_path(tmp_path / "over")
    algorithm.train()
    algorithm.save_to_path(tmp_path / "over")
    saved = np.load(tmp_path / "over" / "atradiff_replay" / "real" / "rewards.npy", allow_pickle=False)
    assert len(saved) == 150
    assert not list((tmp_path / "over").glob(".*partial"))
    algorithm.stop()
    again.stop()


def test_another_capacity_is_refused(tmp_path: Path) -> None:
    algorithm = _build("DQN")
    algorithm.train()
    folder = algorithm.save_to_path(tmp_path)
    other = _build("DQN", capacity=400)
    with pytest.raises(ValueError, match="ring of 500 rows, this one has 400"):
        other.restore_from_path(folder)
    algorithm.stop()
    other.stop()


def test_one_part_of_a_checkpoint_leaves_the_others_alone(tmp_path: Path) -> None:
    algorithm, again = _build("SAC"), _build("SAC")
    algorithm.train()
    folder = Path(algorithm.save_to_path(tmp_path))
    again.restore_from_path(
        folder / "learner_group" / "learner" / "rl_module", component="learner_group/learner/rl_module"
    )
    assert len(_replay(again).real) == 0
    algorithm.stop()
    again.stop()


def _build(name: str, **options: Any) -> Algorithm:
    made = ATraDiffCallback.using(generator(name), requests_per_batch=4, expected_length=4, **options)
    return tiny_config(name).callbacks(made).build_algo()


def _replay(algorithm: Algorithm) -> MixedReplay:
    replay: MixedReplay = algorithm.local_replay_buffer.service.replay
    return replay


def _learner(algorithm: Algorithm) -> Any:
    return algorithm.learner_group._learner


def _log_alpha(algorithm: Algorithm) -> float:
    alphas = getattr(_learner(algorithm), "curr_log_alpha", {})
    return float(alphas[DEFAULT_MODULE_ID].detach()) if DEFAULT_MODULE_ID in alphas else 0.0


def _assert_same(ours: MixedReplay, theirs: MixedReplay) -> None:
    assert ours.counters == theirs.counters
    assert ours.expected_length == theirs.expected_length
    assert [(r.request_id, r.requested_at, *r.state) for r in ours._queue] == [
        (r.request_id, r.requested_at, *r.state) for r in theirs._queue
    ]
    assert ours.pending > 0 or ours.counters.requests > 0
    for mine, yours in ((ours.real, theirs.real), (ours.synthetic, theirs.synthetic)):
        assert mine.total_added == yours.total_added > 0
        for column in mine.columns:
            np.testing.assert_array_equal(mine[column][: len(mine)], yours[column][: len(yours)], err_msg=column)
