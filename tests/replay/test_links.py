"""Rows followed through the ring against the plainest model of it: a list of all rows that ever came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_worlds import SPACES, numbered

from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.replay.chunks import ChunkName
from atradiff.replay.links import EpisodeLinks
from atradiff.replay.mixed import MixedReplay, ReplayConfig

ROW = st.tuples(st.integers(0, 2), st.sampled_from(["goes on", "goes on", "terminates", "truncates"]))
CHUNKS = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.lists(ROW, max_size=8)), max_size=12)


@settings(max_examples=150)
@given(chunks=CHUNKS, capacity=st.integers(1, 30), length=st.integers(1, 5))
def test_follows_episodes_over_interleaved_chunks(
    chunks: list[tuple[str, list[tuple[int, str]]]], capacity: int, length: int
) -> None:
    replay = MixedReplay(SPACES, ReplayConfig(capacity=capacity, rho=0.0), seed=0)
    came: list[tuple[str, int, str]] = []
    for sequence, (source, rows) in enumerate(chunks):
        ends = [how for _, how in rows]
        stored = numbered(len(came), len(rows), [e == "terminates" for e in ends], [e == "truncates" for e in ends])
        replay.store(stored, np.array([key for key, _ in rows], np.int64), ChunkName(source, sequence))
        came += [(source, key, how) for key, how in rows]

    asked = np.arange(-2, len(came) + 2)
    windows, whole, path = replay.windows(asked, length)
    expected = [_naive_window(came, int(row), length, capacity) for row in asked]
    assert whole.tolist() == [window is not None for window in expected]
    found = [window for window in expected if window is not None]
    assert len(windows) == len(found)
    assert path.tolist() == [rows_of_window for rows_of_window, _ in found]
    for k, (rows_of_window, n_real) in enumerate(found):
        real = rows_of_window[:n_real]
        assert windows.rewards[k].tolist() == [*real, *[0] * (length - n_real)]
        assert windows.actions[k, :, 0].tolist() == [*real, *[0] * (length - n_real)]
        assert windows.states[k, 0].tolist() == [real[0], -real[0]]
        assert windows.states[k, 1:, 0].tolist() == [row + 0.5 for row in rows_of_window]
        assert windows.padding[k].tolist() == [j >= n_real for j in range(length)]
        assert windows.terminated[k].tolist() == [came[row][2] == "terminates" for row in rows_of_window]


def _naive_window(
    came: list[tuple[str, int, str]], row: int, length: int, capacity: int
) -> tuple[list[int], int] | None:
    """The rows of the window (a terminal one repeated as padding) and how many are real; None where it is not whole."""
    if not max(len(came) - capacity, 0) <= row < len(came):
        return None
    rows = [row]
    while len(rows) < length:
        source, key, how = came[rows[-1]]
        if how == "terminates":
            return rows + [rows[-1]] * (length - len(rows)), len(rows)
        later = (r for r in range(rows[-1] + 1, len(came)) if came[r][:2] == (source, key))
        after = None if how == "truncates" else next(later, None)
        if after is None:
            return None
        rows.append(after)
    return rows, length


@pytest.mark.parametrize("length", [1, 3, 6, 9])
def test_windows_are_those_of_the_offline_sampler(length: int) -> None:
    ends = [i == 5 for i in range(13)]  # 0..5 terminates, 6..12 is truncated
    columns = numbered(0, 13, ends, [i == 12 for i in range(13)])
    offline = WindowSampler(Trajectories(SPACES, columns, np.array([0, 6, 13])), (length,))
    replay = MixedReplay(SPACES, ReplayConfig(capacity=100, rho=0.0), seed=0)
    episodes = np.repeat([7, 8], [6, 7])
    for part in (slice(0, 4), slice(4, 9), slice(9, 13)):
        replay.store(columns[part], episodes[part])
    windows, whole, _ = replay.windows(np.arange(13), length)
    starts = offline.starts(length)
    assert np.flatnonzero(whole).tolist() == starts.tolist()
    expected = offline.at(starts, length)
    for name in ("states", "actions", "rewards", "terminated", "padding"):
        np.testing.assert_array_equal(getattr(windows, name), getattr(expected, name), err_msg=name)


def test_rows_without_episodes_give_no_long_windows() -> None:
    replay = MixedReplay(SPACES, ReplayConfig(capacity=10, rho=0.0), seed=0)
    replay.store(numbered(0, 3, [False, False, True]))
    assert replay.windows(np.arange(3), 1)[1].tolist() == [True, True, True]
    assert replay.windows(np.arange(3), 2)[1].tolist() == [False, False, True]


def test_episodes_that_nobody_ends_are_forgotten_with_their_rows() -> None:
    links = EpisodeLinks(capacity=100)
    for i in range(0, 50_000, 10):
        links.add(np.arange(i, i + 10), np.arange(i, i + 10), np.zeros(10, np.bool_))
    assert len(links.state()[1]) < 3_000


def test_bad_input_is_named() -> None:
    replay = MixedReplay(SPACES, ReplayConfig(capacity=10), seed=0)
    with pytest.raises(ValueError, match=r"3 rows need 3 episode keys, got an array of shape \(2,\)"):
        replay.store(numbered(0, 3), np.zeros(2, np.int64))
    assert len(replay) == replay.counters.env_steps == 0
    with pytest.raises(ValueError, match="at least 1 row, got length 0"):
        replay.windows(np.arange(3), 0)
