from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.data.normalize import Normalizer
from atradiff.data.row_codecs import AbsoluteRows, DifferenceRows, ResidualRows, TwoHeadedRows
from atradiff.data.windows import WindowSampler
from atradiff.types import Spaces
from tests.toys import chain_data, random_data

DISCRETE = Spaces(3, "discrete", n_actions=4)


CODECS = [DifferenceRows, AbsoluteRows, TwoHeadedRows, ResidualRows]


def codec_and_windows(data, length=5, batch=64, rows=DifferenceRows):
    codec = rows(data.spaces, Normalizer.fit(data)).prepared(data, 20, 0)
    return codec, WindowSampler(data, (length,)).sample(length, batch, np.random.default_rng(0))


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("data", [chain_data(), random_data([20, 9], [True, False], spaces=DISCRETE)])
def test_decoding_undoes_encoding_up_to_float_rounding(data, kind):
    codec, windows = codec_and_windows(data, rows=kind)
    rows = codec.encode(windows)
    assert rows.shape == (64, 5, codec.row_size)
    back = codec.decode(windows.states[:, 0], rows)
    real = ~windows.padding
    np.testing.assert_allclose(back.states, windows.states, atol=2e-5)
    np.testing.assert_allclose(back.actions[real], windows.actions[real], atol=1e-5)
    np.testing.assert_allclose(back.rewards[real], windows.rewards[real], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(back.terminated, windows.terminated)


@pytest.mark.parametrize("kind", CODECS)
def test_first_state_is_the_input_bit_for_bit(kind):
    codec, windows = codec_and_windows(chain_data(), rows=kind)
    states = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32) * 1e3
    np.testing.assert_array_equal(codec.decode(states, codec.encode(windows)).states[:, 0], states)


def test_a_constant_column_stays_where_it_is_whatever_the_diffuser_says():
    data = chain_data()
    pinned = np.full((data.n_transitions, 1), 7.25, np.float32)
    columns = replace(
        data.columns,
        observations=np.hstack([data.columns.observations, pinned]),
        next_observations=np.hstack([data.columns.next_observations, pinned]),
    )
    data = replace(data, columns=columns, spaces=replace(data.spaces, observation_size=3))
    codec, windows = codec_and_windows(data)
    rows = codec.encode(windows)
    assert np.isfinite(rows).all()
    assert np.abs(codec.normalizer.states(data.columns.observations)).max() <= 10
    noise = np.random.default_rng(0).normal(size=rows.shape).astype(np.float32) * 100
    np.testing.assert_array_equal(codec.decode(windows.states[:, 0], noise).states[..., 2], np.float32(7.25))


def test_rewards_of_terminal_rows_have_their_own_scale():
    normalizer = Normalizer.fit(chain_data())
    assert normalizer.reward_mean[1] == pytest.approx(100, abs=0.2)
    assert normalizer.reward_scale[0] < 0.1  # -0.1 a^2, not flattened by the +100


def test_rows_have_unit_scale():
    codec, windows = codec_and_windows(chain_data(), batch=4000)
    real = ~windows.padding & ~windows.terminated
    rows = codec.encode(windows)[real]
    assert np.allclose(rows.std(0)[:-1], 1, atol=0.25)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.01, 1e4), st.sampled_from([DifferenceRows, TwoHeadedRows, ResidualRows]))
def test_whatever_is_decoded_stays_in_the_action_space_and_the_range_of_differences(seed, size, kind):
    data = chain_data(episodes=5)
    codec, _ = codec_and_windows(data, rows=kind)
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, 4, codec.row_size)).astype(np.float32) * np.float32(size)
    decoded = codec.decode(data.columns.observations[:3], rows)
    assert np.abs(decoded.actions).max() <= 1
    deltas = data.columns.next_observations - data.columns.observations
    steps = np.diff(decoded.states.astype(np.float64), axis=1)
    assert (steps <= deltas.max(0) + 1e-5).all()
    assert (steps >= deltas.min(0) - 1e-5).all()


def test_discrete_actions_come_back_by_argmax():
    codec, windows = codec_and_windows(random_data([30], [True], spaces=DISCRETE))
    noisy = codec.encode(windows) + np.random.default_rng(0).uniform(-0.9, 0.9, (64, 5, codec.row_size))
    back = codec.decode(windows.states[:, 0], noisy.astype(np.float32)).actions
    assert back.dtype == np.int64
    np.testing.assert_array_equal(back[~windows.padding], windows.actions[~windows.padding])


def test_smeared_atoms_on_the_bounds_of_actions_come_back_as_atoms():
    data = chain_data()
    assert (data.columns.actions == 1).mean() > 0.1  # the chain's policy is clipped
    codec, windows = codec_and_windows(data)
    smear = np.random.default_rng(0).normal(scale=0.1, size=(64, 5, codec.row_size))
    back = codec.decode(windows.states[:, 0], (codec.encode(windows) + smear).astype(np.float32)).actions
    on_bound = windows.actions == 1
    assert (back[on_bound] == 1).mean() > 0.99
    assert (back[~on_bound] == 1).mean() < 0.15


def test_absolute_rows_hold_standardised_states_and_stay_in_the_range_of_the_data():
    data = chain_data()
    codec, windows = codec_and_windows(data, rows=AbsoluteRows)
    seen = np.concatenate([data.columns.observations, data.columns.next_observations])
    columns = codec.encode(windows)[..., codec.state_columns]
    np.testing.assert_allclose(columns, (windows.states[:, 1:] - seen.mean(0)) / seen.std(0), atol=1e-4)
    wild = np.random.default_rng(0).normal(scale=100, size=(64, 5, codec.row_size)).astype(np.float32)
    path = codec.decode(windows.states[:, 0], wild).states[:, 1:]
    assert (path >= seen.min(0)).all()
    assert (path <= seen.max(0)).all()


def test_two_heads_hold_differences_and_displacements_each_in_units_of_its_own():
    data = chain_data()
    codec, windows = codec_and_windows(data, rows=TwoHeadedRows)
    rows, states = codec.encode(windows), np.concatenate([data.columns.observations, data.columns.next_observations])
    plain = DifferenceRows(codec.spaces, codec.normalizer).encode(windows)
    assert rows.shape[-1] == codec.row_size == plain.shape[-1] + 2
    np.testing.assert_array_equal(rows[..., [0, 1, 2, 3, 6]], plain)
    moved = (windows.states[:, 1:] - windows.states[:, :1]) / states.std(0)
    np.testing.assert_allclose(rows[..., 4:6], moved, atol=1e-4)


def test_two_heads_of_windows_of_several_lengths_are_decoded_one_by_one():
    codec, windows = codec_and_windows(chain_data(), rows=TwoHeadedRows)
    rng = np.random.default_rng(0)
    rows, lengths = rng.normal(size=(64, 5, codec.row_size)).astype(np.float32), rng.integers(1, 6, size=64)
    together = codec.decode(windows.states[:, 0], rows, lengths).states
    for i, length in enumerate(lengths):
        alone = codec.decode(windows.states[i : i + 1, 0], rows[i : i + 1, :length]).states
        np.testing.assert_allclose(together[i, : length + 1], alone[0], atol=1e-5)


def test_residual_rows_hold_what_the_expectation_leaves_in_units_of_its_spread():
    data = chain_data()
    codec, windows = codec_and_windows(data, rows=ResidualRows)
    scales, columns = codec.normalizer, data.columns
    plain = DifferenceRows(codec.spaces, scales)
    seen = np.concatenate([scales.states(windows.states[:, :-1]), plain.encode_actions(windows.actions)], axis=-1)
    seen[..., -1] = np.minimum(seen[..., -1], plain.encode_actions(np.float32([0.9999]))[0])  # not beyond the bound
    left = plain.encode(windows)[..., 2:4] - scales.expected_moves(seen)
    rows = codec.encode(windows)
    live = ~windows.padding & ~windows.terminated
    np.testing.assert_allclose(rows[live][:, 2:4], (left / scales.expected_moves.spread)[live], atol=5e-3)
    told = np.concatenate([seen, np.diff(windows.states, axis=1) / columns_std(columns)], axis=-1)
    rewards = (windows.rewards - scales.reward_mean[0]) / scales.reward_scale[0]
    left = (rewards - scales.expected_rewards(told)[..., 0]) / scales.expected_rewards.spread
    np.testing.assert_allclose(rows[live][:, 1], left[live], atol=5e-2)
    assert not rows[windows.padding][:, 1:4].any()  # nothing is expected after the end


def test_a_residual_row_moves_as_the_action_that_it_takes():
    """A diffused one-hot is never crisp: what counts is the action that it is decoded to."""
    codec, windows = codec_and_windows(random_data([40, 30], [False, False], spaces=DISCRETE), rows=ResidualRows)
    rows = codec.encode(windows)
    actions = slice(0, DISCRETE.n_actions)
    smeared = rows.copy()
    smeared[..., actions] += np.random.default_rng(0).uniform(-0.4, 0.4, smeared[..., actions].shape)
    crisp, decoded = (codec.decode(windows.states[:, 0], x) for x in (rows, smeared))
    np.testing.assert_array_equal(decoded.actions, crisp.actions)
    np.testing.assert_allclose(decoded.states, crisp.states, atol=1e-6)
    np.testing.assert_allclose(decoded.rewards, crisp.rewards, atol=1e-6)


def columns_std(columns):
    return (columns.next_observations - columns.observations).std(0)


def test_rows_that_were_not_prepared_say_so():
    data = chain_data(5)
    codec = ResidualRows(data.spaces, Normalizer.fit(data))
    with pytest.raises(ValueError, match="see `prepared`"):
        codec.encode(WindowSampler(data, (5,)).sample(5, 2, np.random.default_rng(0)))


def test_sparse_rewards_are_levels_also_in_residual_rows():
    data = chain_data()
    rewards = np.random.default_rng(0).choice(np.float32([0, 1]), data.n_transitions)
    codec, windows = codec_and_windows(replace(data, columns=replace(data.columns, rewards=rewards)), rows=ResidualRows)
    assert codec.normalizer.expected_rewards is None
    real = ~windows.padding & ~windows.terminated
    decoded = codec.decode(windows.states[:, 0], codec.encode(windows))
    np.testing.assert_array_equal(decoded.rewards[real], windows.rewards[real])


def with_column(data, values):
    """``data`` with one more state column: the same in a row's state and next state."""
    columns = replace(
        data.columns,
        observations=np.hstack([data.columns.observations, values[:, None]]),
        next_observations=np.hstack([data.columns.next_observations, values[:, None]]),
    )
    return replace(
        data, columns=columns, spaces=replace(data.spaces, observation_size=data.spaces.observation_size + 1)
    )


@pytest.mark.parametrize("kind", CODECS)
def test_a_goal_that_differs_between_episodes_stays_exactly_as_it_is_along_a_trajectory(kind):
    data = chain_data()
    goals = np.random.default_rng(0).normal(size=len(data)).astype(np.float32)
    data = with_column(data, np.repeat(goals, data.lengths))
    codec, windows = codec_and_windows(data, rows=kind)
    noise = np.random.default_rng(0).normal(scale=100, size=codec.encode(windows).shape).astype(np.float32)
    unseen = windows.states[:, 0] + np.float32(0.123)
    decoded = codec.decode(unseen, noise).states[..., 2]
    np.testing.assert_array_equal(decoded, np.repeat(unseen[:, 2:], 6, axis=1))


@pytest.mark.parametrize("levels", [[0.0, 1.0], [-1.0, 0.0], [0.0, 1.0, 2.0, 5.0]])
def test_rewards_of_few_levels_come_back_as_levels(levels):
    data = chain_data()
    rng = np.random.default_rng(0)
    rewards = rng.choice(np.float32(levels), data.n_transitions)
    data = replace(data, columns=replace(data.columns, rewards=rewards))
    codec, windows = codec_and_windows(data)
    smear = rng.normal(scale=0.02, size=(64, 5, codec.row_size))
    decoded = codec.decode(windows.states[:, 0], (codec.encode(windows) + smear).astype(np.float32))
    real = ~windows.padding & ~windows.terminated
    assert decoded.rewards.dtype == np.float32
    assert set(np.unique(decoded.rewards)) <= set(np.float32(levels))
    np.testing.assert_array_equal(decoded.rewards[real], windows.rewards[real])


def test_rewards_that_are_a_scale_stay_one():
    assert len(Normalizer.fit(chain_data()).reward_levels) == 0
    assert len(Normalizer.fit(random_data([5], [True])).reward_levels) == 0  # five rows show five values of anything
