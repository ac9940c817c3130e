"""Algorithm 1 of ATraDiff: its rates, shares and bookkeeping, against closed forms and a naive model."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.adaptation.config import PickUpConfig
from atradiff.adaptation.pickup import make_pick_up
from atradiff.replay.mixed import MixedReplay, ReplayConfig
from atradiff.types import Spaces, Transitions

SPACES = Spaces(1, "continuous", (-1.0,), (1.0,))
SYNTHETIC_REWARD = -1.0


def _real(first: int, n: int, terminated: list[bool] | None = None) -> Transitions:
    """Rows that know their number: row i goes from state i to i + 0.5 with reward i."""
    i = np.arange(first, first + n, dtype=np.float32)
    ends = np.zeros(n, bool) if terminated is None else np.array(terminated, bool)
    return Transitions(i[:, None], i[:, None], i, i[:, None] + np.float32(0.5), ends, np.zeros(n, bool))


def _imagined(states: list[float], length: int) -> Transitions:
    n = len(states) * length
    s = np.repeat(np.array(states, np.float32), length)[:, None]
    return Transitions(
        s,
        np.zeros((n, 1), np.float32),
        np.full(n, SYNTHETIC_REWARD, np.float32),
        s,
        np.zeros(n, bool),
        np.zeros(n, bool),
    )


def _replay(seed: int = 0, **config: Any) -> MixedReplay:
    return MixedReplay(SPACES, ReplayConfig(**{"capacity": 1000, **config}), seed)


def _answer_all(replay: MixedReplay, length: int, version: int = 0) -> None:
    requests = replay.take_requests(replay.pending)
    if requests:
        states = [float(r.state[0]) for r in requests]
        replay.store_synthetic(requests, _imagined(states, length), np.full(len(requests), length), version)


@pytest.mark.parametrize(("rho", "length"), [(0.5, 10.0), (0.5, 1.0), (0.3, 4.0), (0.8, 2.0), (0.9, 1.5), (0.0, 5.0)])
def test_request_rate(rho: float, length: float) -> None:
    """p = rho / ((1 - rho) L) requests per row; the mean of n floor-plus-Bernoulli draws is within 5 sigma."""
    replay, n = _replay(rho=rho, expected_length=length), 20_000
    replay.store(_real(0, n))
    rate = rho / ((1 - rho) * length)
    part = rate - int(rate)
    sigma = np.sqrt(n * part * (1 - part))
    assert abs(replay.counters.requests - n * rate) <= 5 * sigma + 1e-9
    assert replay.counters.requests == replay.pending


def test_a_rate_above_one_asks_several_times_from_one_state() -> None:
    replay = _replay(rho=0.8, expected_length=2.0)  # p = 2 exactly
    replay.store(_real(0, 5))
    asked = [float(r.state[0]) for r in replay.take_requests(100)]
    assert asked == [0.5, 0.5, 1.5, 1.5, 2.5, 2.5, 3.5, 3.5, 4.5, 4.5]


def test_what_a_terminal_state_was_due_goes_to_the_next_row() -> None:
    replay = _replay(rho=0.5, expected_length=1.0)  # p = 1 exactly
    replay.store(_real(0, 3, [False, True, True]))
    replay.store(_real(3, 2, [False, False]))
    requests = replay.take_requests(100)
    assert [float(r.state[0]) for r in requests] == [0.5, 3.5, 3.5, 3.5, 4.5]
    assert [r.requested_at for r in requests] == [1, 4, 4, 4, 5]
    assert [r.request_id for r in requests] == [0, 1, 2, 3, 4]


@settings(max_examples=50)
@given(ends=st.lists(st.booleans(), min_size=1, max_size=60), whole=st.integers(0, 3), chunk=st.integers(1, 7))
def test_no_request_is_lost_over_terminal_states_and_chunk_borders(ends: list[bool], whole: int, chunk: int) -> None:
    rho = whole / (1 + whole)  # p = whole exactly, for L = 1
    replay = _replay(rho=rho, expected_length=1.0)
    for start in range(0, len(ends), chunk):
        part = ends[start : start + chunk]
        replay.store(_real(start, len(part), part))
    owed, expected = 0, []
    for i, end in enumerate(ends):
        owed += whole
        if not end:
            expected += [i + 0.5] * owed
            owed = 0
    assert [float(r.state[0]) for r in replay.take_requests(10_000)] == expected


@pytest.mark.parametrize("rho", [0.25, 0.5, 0.75])
def test_size_ratio_converges_to_that_of_rho(rho: float) -> None:
    """|D_s| / |D_o| -> rho / (1 - rho) while filling, with L learned from the lengths, and exactly when full."""
    replay = _replay(rho=rho, capacity=40_000, seed=3)
    for start in range(0, 30_000, 100):
        replay.store(_real(start, 100))
        _answer_all(replay, length=7)
    assert replay.expected_length == pytest.approx(7, abs=0.01)
    assert len(replay.synthetic) / len(replay.real) == pytest.approx(rho / (1 - rho), rel=0.06)
    for start in range(30_000, 60_000, 100):
        replay.store(_real(start, 100))
        _answer_all(replay, length=7)
    assert len(replay.real) == 40_000
    assert len(replay.synthetic) == round(40_000 * rho / (1 - rho))


def test_binomial_split() -> None:
    replay = _replay(rho=0.3, expected_length=1.0)
    replay.store(_real(0, 200))
    _answer_all(replay, 1)
    shares = np.array([replay.sample(100).synthetic.sum() for _ in range(500)])
    assert shares.mean() == pytest.approx(30, abs=5 * np.sqrt(21 / 500))
    assert shares.var() == pytest.approx(21, rel=0.35)  # the variance of Binomial(100, 0.3)


def test_exact_split() -> None:
    replay = _replay(rho=0.3, expected_length=1.0, split="exact")
    replay.store(_real(0, 200))
    _answer_all(replay, 1)
    assert {int(replay.sample(10).synthetic.sum()) for _ in range(50)} == {3}
    assert replay.counters.sampled_synthetic == 150
    assert replay.counters.sampled_real == 350


def test_rows_are_drawn_uniformly() -> None:
    replay = _replay(rho=0.0, capacity=20)
    replay.store(_real(0, 50))  # 30..49 remain
    counts = np.bincount(replay.sample(40_000).row_ids, minlength=50)
    assert not counts[:30].any()
    chi_squared = float(((counts[30:] - 2000) ** 2 / 2000).sum())
    assert chi_squared < 50  # 19 degrees of freedom: 99.99 % lie below 50


@pytest.mark.parametrize("split", ["exact", "binomial"])
def test_no_synthetic_rows_yet_means_all_real(split: str) -> None:
    replay = _replay(rho=0.9, split=split)
    replay.store(_real(0, 5))
    batch = replay.sample(64)
    assert not batch.synthetic.any()
    assert replay.counters.sampled_real == 64


def test_old_synthetic_rows_are_drawn_no_more() -> None:
    replay = _replay(rho=0.5, expected_length=1.0, capacity=1000, max_synthetic_age=30, split="exact")
    stored_at = {}
    for start in range(0, 200, 10):
        replay.store(_real(start, 10))
        before = replay.synthetic.total_added
        _answer_all(replay, 1)
        stored_at |= dict.fromkeys(range(before, replay.synthetic.total_added), start + 10)
    drawn = {stored_at[i] for i in replay.sample(2000).row_ids[1000:]}
    assert drawn == {170, 180, 190, 200}
    assert replay.drawable_synthetic == sum(at >= 170 for at in stored_at.values())
    replay.store(_real(200, 40))  # answered by nobody
    assert not replay.sample(64).synthetic.any()
    assert replay.drawable_synthetic == 0
    assert len(replay.synthetic) == len(stored_at)


def test_batches_are_the_rows_that_their_ids_name() -> None:
    replay = _replay(rho=0.5, expected_length=1.0, capacity=64, seed=1)
    replay.store(_real(0, 100))
    _answer_all(replay, 1)
    batch = replay.sample(256)
    t = batch.transitions
    real = ~batch.synthetic
    np.testing.assert_array_equal(t.rewards[real], batch.row_ids[real])
    np.testing.assert_array_equal(t.next_observations[real, 0], batch.row_ids[real] + 0.5)
    assert (t.rewards[~real] == SYNTHETIC_REWARD).all()
    assert replay.real.holds(batch.row_ids[real]).all()
    assert replay.synthetic.holds(batch.row_ids[~real]).all()
    assert t.observations.dtype == t.rewards.dtype == np.float32
    assert t.terminated.dtype == bool


def test_late_answers_are_dropped_and_counted() -> None:
    replay = _replay(rho=0.5, expected_length=1.0, max_request_age=10)  # p = 1
    replay.store(_real(0, 4))
    requests = replay.take_requests(4)  # made at steps 1, 2, 3, 4
    replay.store(_real(4, 8))  # now it is step 12: those of step 1 are older than ten
    stored = replay.store_synthetic(requests, _imagined([0, 1, 2, 3], 2), np.full(4, 2), generator_version=9)
    assert stored == len(replay.synthetic) == 6
    assert replay.counters.requests_dropped == 1
    assert replay.counters.trajectories == 3
    assert replay.synthetic["observations"][:6, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert set(replay.synthetic["generator_version"][:6]) == {9}
    assert set(replay.synthetic["created_at"][:6]) == {12}


def test_put_back_requests_are_the_next_to_be_taken() -> None:
    replay = _replay(rho=0.5, expected_length=1.0)
    replay.store(_real(0, 5))
    taken = replay.take_requests(3)
    replay.put_back(taken)
    assert [r.request_id for r in replay.take_requests(5)] == [0, 1, 2, 3, 4]
    assert replay.oldest_request_age == 0


def test_age_of_the_oldest_request() -> None:
    replay = _replay(rho=0.5, expected_length=1.0)
    replay.store(_real(0, 1))
    replay.store(_real(1, 6))
    assert replay.oldest_request_age == 6


def test_rho_schedule() -> None:
    config = ReplayConfig(rho=0.5, rho_end=0.1, rho_decay_steps=100, capacity=1000)
    assert [config.rho_at(step) for step in (0, 50, 100, 500)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert config.synthetic_capacity == 1000
    assert ReplayConfig(rho=0.75, capacity=1000).synthetic_capacity == 3000
    assert ReplayConfig(rho=0.0, capacity=1000).synthetic_capacity == 1


def test_same_seed_same_rows() -> None:
    def run(seed: int) -> list[Any]:
        replay = _replay(seed=seed, rho=0.4)
        out: list[Any] = []
        for start in range(0, 300, 10):
            replay.store(_real(start, 10))
            _answer_all(replay, 3)
            out.append(replay.sample(16).row_ids.tolist())
        return out

    assert run(5) == run(5)
    assert run(5) != run(6)


@settings(max_examples=25)
@given(steps=st.integers(1, 120), taken=st.integers(0, 5), seed=st.integers(0, 1000))
def test_a_restored_replay_goes_on_as_the_first(steps: int, taken: int, seed: int) -> None:
    first, second = (_replay(seed=s, rho=0.6, capacity=50) for s in (seed, seed + 1))
    ends = [i % 7 == 6 for i in range(steps)]
    first.store(_real(0, steps, ends))
    requests = first.take_requests(taken)
    if requests:
        states = [float(r.state[0]) for r in requests]
        first.store_synthetic(requests, _imagined(states, 4), np.full(len(requests), 4), 1)
    with tempfile.TemporaryDirectory() as folder:
        first.save(Path(folder))
        second.load(Path(folder))
    for replay in (first, second):
        replay.store(_real(steps, 20))
    ours, theirs = first.sample(32), second.sample(32)
    assert ours.row_ids.tolist() == theirs.row_ids.tolist()
    for (name, mine), (_, yours) in zip(ours.transitions.items(), theirs.transitions.items(), strict=True):
        np.testing.assert_array_equal(mine, yours, err_msg=name)
    assert first.counters == second.counters
    assert first.expected_length == second.expected_length
    while first.pending:
        (a,), (b,) = first.take_requests(1), second.take_requests(1)
        assert (a.request_id, a.requested_at, *a.state) == (b.request_id, b.requested_at, *b.state)
    assert second.pending == 0


def test_a_refused_load_changes_nothing(tmp_path: Path) -> None:
    def watched(rho: float) -> MixedReplay:
        watcher = make_pick_up(PickUpConfig("td", entries=10, picked=5), 100, 0)
        return MixedReplay(SPACES, ReplayConfig(capacity=100, rho=rho), 0, watcher=watcher)

    watched(0.5).save(tmp_path / "other")
    stored, replay = watched(0.3), watched(0.3)
    stored.store(_real(0, 60))
    replay.store(_real(100, 5))
    with pytest.raises(ValueError, match=r"same replay\.capacity and replay\.rho"):
        replay.load(tmp_path / "other")
    parts = (
        "replay.json",
        "queue.npz",
        "successors.npy",
        "real/rewards.npy",
        "synthetic/ring.json",
        "watcher/pick_up.json",
    )
    for file in parts:
        stored.save(tmp_path / "own")
        (tmp_path / "own" / file).unlink()
        with pytest.raises(ValueError, match="damaged"):
            replay.load(tmp_path / "own")
    assert (len(replay.real), replay.counters.env_steps) == (5, 5)
    assert set(replay.sample(64).transitions.rewards) <= {100, 101, 102, 103, 104}


def test_a_replaced_checkpoint_is_none_until_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ReplayConfig(capacity=100)
    replay = MixedReplay(SPACES, config, 0, watcher=make_pick_up(PickUpConfig("td", entries=10, picked=5), 100, 0))
    replay.store(_real(0, 10))
    replay.save(tmp_path)
    replay.store(_real(10, 10))
    replay.save(tmp_path)
    again = MixedReplay(SPACES, config, 0)
    again.load(tmp_path)
    assert again.counters.env_steps == 20

    def kill(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("atradiff.replay.mixed.np.savez", kill)
    with pytest.raises(MemoryError):
        replay.save(tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        again.load(tmp_path)


def test_states_of_requests_are_as_the_rings_have_them() -> None:
    replay = _replay(rho=0.9, expected_length=1)
    rows = _real(0, 5)
    replay.store(replace(rows, next_observations=rows.next_observations.astype(np.float64)))
    (request,) = pickle.loads(pickle.dumps(replay.take_requests(1)))
    assert request.state.tolist() == [0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 1.0}, r"rho must lie in \[0, 1\), got 1.0"),
        ({"rho_end": -0.1}, "rho_end must lie"),
        ({"rho_end": 0.1}, "needs rho_decay_steps >= 1, got 0"),
        ({"expected_length": 0.5}, "expected_length must be at least 1 transition, got 0.5"),
        ({"capacity": 0}, "capacity must be at least 1 transition, got 0"),
        ({"split": "half"}, "split must be"),
        ({"max_request_age": -1}, "max_request_age must be at least 0"),
        ({"max_synthetic_age": 0}, "max_synthetic_age must be at least 1"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplayConfig(**options)


def test_misuse_is_named() -> None:
    replay = _replay()
    with pytest.raises(ValueError, match="store real transitions before sampling"):
        replay.sample(4)
    with pytest.raises(ValueError, match="do not belong together"):
        replay.store_synthetic([], _imagined([1.0], 2), np.array([], np.int64), 0)
