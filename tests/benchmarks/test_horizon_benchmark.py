"""The study of long horizons: its measures where the answer is known, and its tiny form."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from atradiff.data.normalize import Normalizer
from atradiff.data.row_codecs import row_codec
from atradiff.types import SyntheticTrajectories
from benchmarks import horizon
from benchmarks.horizon_figures import ChainStudy, persistence
from benchmarks.horizon_keys import way_to
from benchmarks.horizon_probes import every_nth, unexplained_actions
from tests.test_history import CLOCK, clock_episode
from tests.toys import chain_data, lay_out, random_data


def chains_of(rewards: np.ndarray, lengths: np.ndarray, terminated: np.ndarray | None = None) -> SyntheticTrajectories:
    batch, width = rewards.shape
    ends = np.zeros((batch, width), np.bool_)
    if terminated is not None:
        ends[np.arange(batch), lengths - 1] = terminated
    states = np.random.default_rng(0).normal(size=(batch, width + 1, 2)).astype(np.float32)
    actions = np.zeros((batch, width, 1), np.float32)
    return SyntheticTrajectories(states, actions, rewards.astype(np.float32), ends, lengths, 0)


def test_persistence_is_one_for_chains_that_keep_their_pace_and_none_for_those_that_forget() -> None:
    rng, lengths = np.random.default_rng(0), np.full(400, 40)
    pace = rng.normal(size=(400, 1))
    assert persistence(chains_of(np.tile(pace, 40), lengths), 40) == pytest.approx(1)
    assert persistence(chains_of(pace * np.where(np.arange(40) < 20, 1, -1), lengths), 40) == pytest.approx(-1)
    assert abs(persistence(chains_of(rng.normal(size=(400, 40)), lengths), 40)) < 0.15
    assert persistence(chains_of(np.ones((400, 40)), lengths), 40) is None
    assert persistence(chains_of(np.tile(pace, 40), np.where(np.arange(400) < 5, 40, 30)), 40) is None


def test_survivors_cuts_and_similarity() -> None:
    study = ChainStudy.over(chain_data(12), None, (5, 10), 30, 0)
    real = study.real()
    assert real.return_similarity == real.late_similarity == 1
    assert real.cut == (0, 0)
    lengths = np.array([4, 4, 10, 7])
    made = chains_of(np.full((4, 10), 1e6), lengths, np.array([True, False, False, False]))
    figures = study.figures("made", made, made, None)
    assert figures.running == (0.5, 0.25)
    assert figures.cut == (0.25, 0.5)
    assert figures.mean_length == 6.25
    assert figures.reward_per_row == pytest.approx(1e6)
    assert figures.return_similarity == 0
    assert figures.spread == 0  # twins that never part
    assert figures.errors == (None, None)  # nobody named an environment


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_every_nth_state_is_the_definition_row_by_row(rows: int) -> None:
    data = random_data([7, 10, 2], [True, False, False])
    columns, expected = data.columns, []
    for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        for phase in range(rows):
            for row in range(start + phase, end, rows):
                if row + rows <= end or columns.terminated[end - 1]:
                    expected.append((row, min(row + rows, end)))
    sparse = every_nth(data, rows)
    assert sparse.n_transitions == len(expected)
    for i, (first, stop) in enumerate(expected):
        np.testing.assert_array_equal(sparse.columns.observations[i], columns.observations[first])
        np.testing.assert_array_equal(sparse.columns.next_observations[i], columns.next_observations[stop - 1])
        assert sparse.columns.rewards[i] == pytest.approx(columns.rewards[first:stop].sum(), abs=1e-5)
        assert sparse.columns.terminated[i] == columns.terminated[stop - 1]
    ends = sparse.offsets[1:] - 1
    assert (sparse.columns.terminated | sparse.columns.truncated)[ends].all()


def test_a_window_is_told_its_way_to_the_next_key_state_or_nothing() -> None:
    data = chain_data(6)
    codec = row_codec("differences", data.spaces, Normalizer.fit(data))
    states, goals = data.columns.observations[[3, 3]], data.columns.observations[[7, 7]]
    way = way_to(states, goals, np.array([4, 4]), np.array([True, False]), data.columns.actions[[3, 3]][:, None])
    told = codec.encode_history(way)
    gap = (goals[0] - states[0]) / 2  # the square root of the rows between
    expected = np.divide(gap, codec.normalizer.delta_scale, out=np.zeros_like(gap), where=gap != 0)
    np.testing.assert_allclose(told[0, 0, codec.state_columns], expected, rtol=1e-4, atol=1e-6)
    assert (told[1] == 0).all()
    assert told[0, 0, -1] == -1


def test_history_explains_actions_where_it_tells_the_mode_that_the_state_hides() -> None:
    rng = np.random.default_rng(0)
    episodes = [clock_episode(mode, rng) for mode in (-0.6, 0.6) * 20]
    train, held_out = lay_out(CLOCK, episodes[:30]), lay_out(CLOCK, episodes[30:])
    found = unexplained_actions(train, held_out, (0, 2), updates=60)
    assert found[0] == pytest.approx(1, abs=0.1)
    first_rows = 1 / 12  # of each episode, whose past nobody knows
    assert found[2] < first_rows + 0.05


def test_writes_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "horizon.json"
    arguments = ["--tiny", "--models", "history", "keys", "keyed", "probe", "--temperatures", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["horizon", *arguments])
    horizon.main()
    written = json.loads(out.read_text())
    names = [figures["name"] for figures in written["chains"]]
    assert names[0] == "real"
    assert "history K=5 T=1.0 dynamics" in names
    assert "keys, every 10th: K=20 raw" in names
    assert "keyed K=2 T=1.0 dynamics" in names
    table = capsys.readouterr().out
    assert all(name in table for name in names)
    assert set(written["unexplained"]) == {"0", "1", "2", "8", "16"}
