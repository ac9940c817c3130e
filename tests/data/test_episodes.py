"""Where episodes end and what their last next observation is, against a loop that walks the rows."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import d4rl_arrays

from atradiff.data.episodes import cut_episodes, ended_at_reward
from atradiff.data.errors import DataError
from atradiff.data.npz import raw_from_arrays


def cut(arrays: dict, horizon: int | None = None):
    raw = raw_from_arrays(arrays, Path("rows"))
    return cut_episodes(raw, raw.actions, horizon)


def walk(arrays: dict, horizon: int | None) -> list[tuple[int, int, bool, bool]]:
    """(first row, kept rows, terminated, truncated) of each episode, one row at a time."""
    found, start = [], 0
    n, timeouts = len(arrays["rewards"]), arrays.get("timeouts")
    for row in range(n):
        terminated = bool(arrays["terminals"][row])
        if timeouts is not None:
            truncated = bool(timeouts[row])
        else:
            truncated = not terminated and horizon is not None and row - start + 1 == horizon
        truncated = truncated or (row == n - 1 and not terminated)
        if terminated or truncated:
            last = row + 1 if "next_observations" in arrays or terminated else row
            if last > start:
                found.append((start, last - start, terminated, truncated))
            start = row + 1
    return found


@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=6), seed=st.integers(0, 99), reward=st.floats(-1, 1))
def test_episodes_that_end_at_a_reward_equal_a_walk(lengths: list[int], seed: int, reward: float) -> None:
    whole = cut(d4rl_arrays(tuple(lengths), seed=seed))
    rows, ends, last = [], [], False
    paid = whole.columns.rewards >= np.float32(reward)
    for start, stop in itertools.pairwise(whole.offsets.tolist()):
        if start > 0 and stop - start == 1 and paid[start] and paid[start - 1] and whole.columns.terminated[start - 1]:
            continue  # still at the goal
        for row in range(start, stop):
            rows.append(row)
            last = bool(whole.columns.rewards[row] >= np.float32(reward))
            if last:
                ends.append(len(rows) - 1)
                break
    if not ends:
        with pytest.raises(ValueError, match="end_at_reward must be a reward that some row is paid"):
            ended_at_reward(whole, reward)
        return
    ended = ended_at_reward(whole, reward)
    assert ended.rows.tolist() == whole.rows[rows].tolist()
    np.testing.assert_array_equal(ended.columns.observations, whole.columns.observations[rows])
    last_rows = ended.offsets[1:] - 1
    assert ended.offsets[0] == 0
    assert (ended.columns.terminated | ended.columns.truncated).nonzero()[0].tolist() == last_rows.tolist()
    terminated = whole.columns.terminated[rows]
    terminated[ends] = True
    np.testing.assert_array_equal(ended.columns.terminated, terminated)
    assert not (ended.columns.terminated & ended.columns.truncated).any()
    assert f"{len(ends)} episodes end with a reward of" in ended.notes[-1]


def test_an_agent_that_stays_at_the_goal_begins_no_episodes_there() -> None:
    rewards = np.float32([0, 0, 1, 1, 1, 0, 0, 0])
    arrays = d4rl_arrays((8,), rewards=rewards, terminals=rewards == 1, timeouts=np.arange(8) == 7)
    whole = cut(arrays)
    assert whole.offsets.tolist() == [0, 3, 4, 5, 8]
    ended = ended_at_reward(whole, 1)
    assert ended.offsets.tolist() == [0, 3, 6]
    assert ended.rows.tolist() == [0, 1, 2, 5, 6, 7]
    assert ended.columns.terminated.tolist() == [False, False, True, False, False, False]
    assert ended.notes[-1] == "1 episodes end with a reward of 1 or more; 2 rows after it were left out"
    recorded = ended_at_reward(whole, 1, np.array([0, 4]))
    assert recorded.offsets.tolist() == [0, 3, 4, 7]
    assert recorded.rows.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert recorded.notes[-1] == "2 episodes end with a reward of 1 or more; 1 rows after it were left out"


def test_the_horizon_serves_where_the_column_of_time_outs_marks_nothing() -> None:
    nothing = np.zeros(9, bool)
    episodes = cut(d4rl_arrays((9,), terminals=nothing, timeouts=nothing), horizon=4)
    assert episodes.offsets.tolist() == [0, 4, 8, 9]
    assert "marks no time-outs" in episodes.notes[0]
    ends = np.arange(9) == 5
    episodes = cut(d4rl_arrays((9,), terminals=ends, timeouts=nothing), horizon=4)
    assert episodes.offsets.tolist() == [0, 4, 6, 9]
    assert "cut after 4 steps" in episodes.notes[0]
    assert not any("cut after" in note for note in cut(d4rl_arrays((9,), terminals=ends, timeouts=nothing), 7).notes)


@given(
    data=st.data(),
    n=st.integers(1, 40),
    with_next=st.booleans(),
    horizon=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.integers(0, 99),
)
def test_episodes_equal_a_walk_over_the_rows(data, n: int, with_next: bool, horizon: int | None, seed: int) -> None:
    arrays = d4rl_arrays((n,), seed=seed)
    arrays["terminals"] = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    arrays["timeouts"] = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if horizon is not None:
        del arrays["timeouts"]
    if not with_next:
        del arrays["next_observations"]
    expected = walk(arrays, horizon)
    marked = arrays["terminals"].any() or (arrays["timeouts"].any() if horizon is None else n >= horizon)
    if not marked or not expected:
        with pytest.raises(DataError, match=r"no episode is finished|no transition is left"):
            cut(arrays, horizon)
        return
    episodes = cut(arrays, horizon)
    assert len(episodes.offsets) - 1 == len(expected)
    for index, (start, length, terminated, truncated) in enumerate(expected):
        first, last = episodes.offsets[index], episodes.offsets[index + 1] - 1
        np.testing.assert_array_equal(episodes.rows[first : last + 1], np.arange(start, start + length))
        assert episodes.columns.terminated[last] == terminated
        assert episodes.columns.truncated[last] == truncated
        assert not episodes.columns.terminated[first:last].any()
        assert not episodes.columns.truncated[first:last].any()


def test_next_observations_of_the_file_are_kept() -> None:
    arrays = d4rl_arrays()
    np.testing.assert_array_equal(cut(arrays).columns.next_observations, arrays["next_observations"])


def test_without_next_observations_the_following_row_is_next() -> None:
    """Episodes of 5 (timed out), 3 (terminated) and 4 (timed out) rows."""
    arrays = d4rl_arrays((5, 3, 4), next_observations=None)
    episodes = cut(arrays)
    observations, following = arrays["observations"], episodes.columns.next_observations
    np.testing.assert_array_equal(episodes.rows, [0, 1, 2, 3, 5, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(following, observations[[1, 2, 3, 4, 6, 7, 7, 9, 10, 11]])
    np.testing.assert_array_equal(np.flatnonzero(episodes.columns.truncated), [3, 9])
    np.testing.assert_array_equal(np.flatnonzero(episodes.columns.terminated), [6])
    assert any("2 last rows of truncated episodes" in note for note in episodes.notes)
    assert any("1 terminal rows" in note for note in episodes.notes)


def test_an_unfinished_tail_is_kept_and_told() -> None:
    arrays = d4rl_arrays((5, 3, 4))
    arrays["timeouts"][-1] = False
    episodes = cut(arrays)
    assert len(episodes.offsets) == 4
    assert episodes.columns.truncated[-1]
    assert any("its 4 rows are kept as a truncated episode" in note for note in episodes.notes)


def test_a_horizon_counts_from_the_last_end() -> None:
    terminals = np.zeros(12, bool)
    terminals[4] = True
    episodes = cut(d4rl_arrays((12,), terminals=terminals, timeouts=None), horizon=3)
    np.testing.assert_array_equal(episodes.offsets, [0, 3, 5, 8, 11, 12])
    assert any("cut after 3 steps" in note for note in episodes.notes)
