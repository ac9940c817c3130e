from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.data.windows import WindowSampler
from tests.toys import random_data

episodes = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=5)


def naive_window(data, start, length):
    """Row by row, straight from the definition."""
    episode = int(np.searchsorted(data.offsets, start, side="right")) - 1
    last, columns = data.offsets[episode + 1] - 1, data.columns
    states, actions, rewards, ends = [columns.observations[start]], [], [], []
    for row in range(start, start + length):
        if row <= last:
            states.append(columns.next_observations[row])
            actions.append(columns.actions[row])
            rewards.append(columns.rewards[row])
            ends.append(bool(columns.terminated[row]))
        else:
            states.append(states[-1])
            actions.append(np.zeros_like(columns.actions[0]))
            rewards.append(0.0)
            ends.append(True)
    return np.array(states), np.array(actions), np.array(rewards), np.array(ends)


@settings(max_examples=60)
@given(episodes, st.integers(1, 9), st.integers(0, 2**31))
def test_every_window_is_the_definition_row_by_row(shape, length, seed):
    data = random_data([n for n, _ in shape], [end for _, end in shape], seed=seed)
    fits = [end or n >= length for n, end in shape]
    if not any(fits):
        with pytest.raises(ValueError, match="no window"):
            WindowSampler(data, (length,))
        return
    sampler = WindowSampler(data, (length,))
    windows = sampler.at(sampler.starts(length), length)
    for i, start in enumerate(sampler.starts(length)):
        states, actions, rewards, ends = naive_window(data, start, length)
        np.testing.assert_array_equal(windows.states[i], states)
        np.testing.assert_array_equal(windows.actions[i], actions)
        np.testing.assert_allclose(windows.rewards[i], rewards)
        np.testing.assert_array_equal(windows.terminated[i], ends)


@settings(max_examples=60)
@given(episodes, st.integers(1, 9))
def test_starts_are_all_rows_of_terminated_episodes_and_inner_rows_of_truncated_ones(shape, length):
    data = random_data([n for n, _ in shape], [end for _, end in shape])
    expected = [
        offset + i
        for (n, end), offset in zip(shape, data.offsets, strict=False)
        for i in range(n if end else n - length + 1)
    ]
    if expected:
        assert WindowSampler(data, (length,)).starts(length).tolist() == expected


def test_a_time_limit_is_never_padded_into_an_end():
    data = random_data([30, 30], [False, False])
    windows = WindowSampler(data, (10,)).sample(10, 200, np.random.default_rng(0))
    assert not windows.terminated.any()
    assert not windows.padding.any()


def test_lengths_that_fit_nowhere_are_left_out():
    assert WindowSampler(random_data([8], [False]), (5, 10)).lengths == (5,)


def test_same_generator_state_same_windows():
    sampler = WindowSampler(random_data([30, 7], [True, True]), (5,))
    first, second = (sampler.sample(5, 16, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first.states, second.states)


def test_starts_are_drawn_uniformly():
    data = random_data([10, 10], [True, True])
    windows = WindowSampler(data, (5,)).sample(5, 20_000, np.random.default_rng(0))
    _, counts = np.unique(windows.states[:, 0, 0], return_counts=True)
    assert len(counts) == 20
    assert np.abs(counts / 1000 - 1).max() < 0.15


def test_unknown_length_is_refused():
    with pytest.raises(ValueError, match="must be one of"):
        WindowSampler(random_data([10], [True]), (5,)).sample(6, 1, np.random.default_rng(0))


def test_a_window_past_a_truncated_end_is_refused():
    sampler = WindowSampler(random_data([10], [False]), (5,))
    with pytest.raises(ValueError, match="past the end of a truncated episode"):
        sampler.at(np.array([8]), 5)
