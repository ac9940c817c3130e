"""Offline rows in the batch: exact shares, the same rows from the same seed, told apart, named by checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.config import ServingConfig
from atradiff.data.trajectories import Trajectories
from atradiff.ports import ServiceOrder
from atradiff.replay.batch import Origin, ReplayBatch
from atradiff.replay.local import LocalReplay
from atradiff.replay.memory import ReplayMemory, require_memory
from atradiff.replay.metrics import replay_metrics
from atradiff.replay.mixed import MixedReplay, ReplayConfig
from atradiff.replay.offline import OfflineRows
from atradiff.types import Transitions
from tests.replay.replay_worlds import SPACES, answer, chunk, numbered

OFFLINE = 1000  # the reward, and the number, of the first offline row


def data(n: int = 50, first: int = OFFLINE) -> Trajectories:
    rows = numbered(first, n, terminated=[False] * (n - 1) + [True])
    return Trajectories(SPACES, rows, np.array([0, n]))


def halved(rows: Transitions) -> Transitions:
    return replace(rows, actions=rows.actions / 2)


def mixed(share: float, n: int = 50, seed: int = 0, **config: Any) -> MixedReplay:
    settings_ = ReplayConfig(**{"capacity": 500, "rho": 0.5, "expected_length": 1.0, "offline_share": share, **config})
    replay = MixedReplay(SPACES, settings_, seed, offline=OfflineRows.of(data(n), halved))
    replay.store(numbered(0, 40))
    return replay


def imagine(replay: MixedReplay) -> None:
    """One row for each request, with reward -1."""
    requests = replay.take_requests(1000)
    made = answer(len(requests), 1)
    rows = replace(made.rows, rewards=np.full(len(made.rows), -1, np.float32))
    replay.store_synthetic(requests, rows, made.lengths, 0)


def rewards(batch: ReplayBatch, origin: Origin) -> np.ndarray:
    return batch.transitions.rewards[batch.origins == origin]


@given(share=st.floats(0.01, 0.99), size=st.integers(1, 300), n=st.integers(1, 30))
@settings(max_examples=40)
def test_the_offline_share_of_a_batch_is_exact_and_its_rows_are_those_of_the_data(share: float, size: int, n: int):
    replay = mixed(share, n)
    imagine(replay)
    batch = replay.sample(size)
    assert np.count_nonzero(batch.offline) == round(share * size)
    assert np.all(np.diff(batch.origins) >= 0)  # real, synthetic, offline
    assert np.array_equal(rewards(batch, Origin.OFFLINE), OFFLINE + batch.row_ids[batch.offline])
    assert np.all(rewards(batch, Origin.REAL) < 40)
    assert np.all(rewards(batch, Origin.SYNTHETIC) == -1)
    offline_rows = batch.transitions[batch.offline]
    assert np.array_equal(offline_rows.actions[:, 0], offline_rows.rewards / 2)  # in the learner's scale
    assert np.array_equal(offline_rows.terminated, offline_rows.rewards == OFFLINE + n - 1)


def test_rho_divides_what_the_offline_share_leaves_and_every_row_is_as_likely_as_another() -> None:
    replay = mixed(0.25, n=10)
    imagine(replay)
    batch = replay.sample_many(2000, 64)
    drawn = np.bincount(batch.origins)
    assert drawn[Origin.OFFLINE] == 2000 * 16
    lived = 2000 * 48
    assert abs(drawn[Origin.SYNTHETIC] - lived / 2) < 5 * np.sqrt(lived / 4)
    of_each = np.bincount(batch.row_ids[batch.offline], minlength=10)
    assert np.all(np.abs(of_each - 3200) < 5 * np.sqrt(3200))
    assert replay.counters.sampled_offline == drawn[Origin.OFFLINE]
    assert replay_metrics(replay, None)["offline_share_sampled"] == 0.25
    assert replay_metrics(replay, None)["offline_rows"] == 10


def test_an_exact_split_holds_beside_offline_rows() -> None:
    replay = mixed(0.5, split="exact", rho=0.25)
    imagine(replay)
    assert np.bincount(replay.sample(64).origins).tolist() == [24, 8, 32]


def test_many_batches_at_once_are_the_same_rows_as_one_by_one() -> None:
    one, many = mixed(0.5), mixed(0.5)
    single, joined = [one.sample(32) for _ in range(5)], many.sample_many(5, 32)
    assert np.array_equal(np.concatenate([batch.row_ids for batch in single]), joined.row_ids)
    assert np.array_equal(np.concatenate([batch.transitions.rewards for batch in single]), joined.transitions.rewards)


def test_without_a_share_the_same_rows_are_drawn_as_without_offline_data() -> None:
    with_data, without = mixed(0.0), MixedReplay(SPACES, mixed(0.0).config, 0)
    without.store(numbered(0, 40))
    for replay in (with_data, without):
        imagine(replay)
    ours, theirs = with_data.sample_many(4, 32), without.sample_many(4, 32)
    assert np.array_equal(ours.row_ids, theirs.row_ids)
    assert np.array_equal(ours.origins, theirs.origins)
    assert with_data.offline is None


class _Ears:
    """A watcher that remembers what it heard."""

    def __init__(self) -> None:
        self.scores: list[tuple[int, float]] = []

    def stored(self, *_: Any) -> None: ...

    def scored(self, row_ids: np.ndarray, td_errors: np.ndarray) -> None:
        self.scores += zip(row_ids.tolist(), td_errors.tolist(), strict=True)


def test_the_watcher_hears_of_real_rows_only() -> None:
    replay = mixed(0.5)
    imagine(replay)
    replay.watcher = ears = _Ears()
    batch = replay.sample(32)
    replay.report_td_errors(batch.row_ids, batch.origins, batch.transitions.rewards)
    real = rewards(batch, Origin.REAL)  # a real row's reward is its id
    assert [row for row, _ in ears.scores] == real.tolist()
    assert len(ears.scores) < 32 - 16 + 1


def test_a_checkpoint_names_the_data_and_goes_on_with_them(tmp_path: Path) -> None:
    replay, resumed, other = mixed(0.5), mixed(0.5, seed=3), mixed(0.5, n=49)
    replay.save(tmp_path / "saved")
    resumed.load(tmp_path / "saved")
    assert np.array_equal(replay.sample(64).row_ids, resumed.sample(64).row_ids)
    assert not any("offline" in path.name for path in (tmp_path / "saved").rglob("*"))
    with pytest.raises(ValueError, match=r"made with offline data sha256:.* this run has offline data sha256:"):
        other.load(tmp_path / "saved")
    with pytest.raises(ValueError, match="this run has no offline data"):
        MixedReplay(SPACES, ReplayConfig(capacity=500), 0).load(tmp_path / "saved")


def test_a_checkpoint_without_offline_data_is_not_gone_on_with_some(tmp_path: Path) -> None:
    mixed(0.0).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="made with no offline data in its batches"):
        mixed(0.5).load(tmp_path / "saved")


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"offline_share must lie in \[0, 1\), got 1"):
        ReplayConfig(offline_share=1)
    with pytest.raises(ValueError, match=r"offline_share=0.5 asks for offline rows.*data.path"):
        MixedReplay(SPACES, ReplayConfig(offline_share=0.5), 0)
    wider = OfflineRows({**OfflineRows.of(data(), halved).columns, "observations": np.zeros((50, 3), np.float32)}, "")
    with pytest.raises(ValueError, match=r"observations of shape \(3,\).*\(2,\)"):
        MixedReplay(SPACES, ReplayConfig(offline_share=0.5), 0, offline=wider)


def test_memory_counts_offline_rows_but_does_not_ask_for_them_again() -> None:
    replay = mixed(0.5)
    needed = ReplayMemory.of(SPACES, replay.config, offline_rows=50)
    assert needed.total == replay.nbytes
    assert require_memory(SPACES, replay.config, available=needed.rings, offline_rows=50) == needed
    assert "beside 50 offline rows" in str(needed)


def test_a_local_service_brings_the_data_to_the_learners_scale() -> None:
    order = ServiceOrder(
        SPACES, ReplayConfig(offline_share=0.5), ServingConfig(), 0, None, halved, lambda rows: rows, offline=data()
    )
    service = LocalReplay(order)
    service.store(chunk(0, 20))
    (batch,) = service.sample(1, 16)
    rows = batch.transitions[batch.offline]
    assert len(rows) == 8
    assert np.array_equal(rows.actions[:, 0], rows.rewards / 2)
    service.report_td_errors([batch], np.ones((1, 16), np.float32))
