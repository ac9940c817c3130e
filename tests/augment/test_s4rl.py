from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atradiff.augment.s4rl import KINDS, S4RLConfig, S4RLGenerator, StateAugmentation
from atradiff.ports import TrajectoryGenerator
from tests.toys import CHAIN, chain_data

N, S = 20_000, 6


def perturbed(states, following=None, gradient=None, **config):
    augmentation = StateAugmentation(S4RLConfig(**config), gradient)
    return augmentation.states(states, states if following is None else following, np.random.default_rng(1))


@pytest.fixture(scope="module")
def states():
    return np.random.default_rng(0).normal(loc=2, size=(N, S)).astype(np.float32)


def test_noise_has_the_spread_that_was_asked_for(states):
    gaussian = perturbed(states, kind="gaussian", noise=0.1) - states
    uniform = perturbed(states, kind="uniform", noise=0.1) - states
    assert gaussian.std() == pytest.approx(0.1, rel=0.02)
    assert uniform.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.02)
    assert np.abs(uniform).max() <= 0.1 + 1e-6
    assert np.abs(np.corrcoef(gaussian.T) - np.eye(S)).max() < 0.05


def test_amplitude_scales_a_whole_state_by_one_factor(states):
    ratio = perturbed(states, kind="amplitude", amplitude=(0.6, 1.4)) / states
    np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], S, axis=1), rtol=1e-4)
    assert 0.6 <= ratio.min() < 0.61
    assert 1.39 < ratio.max() <= 1.4001


def test_dropout_zeroes_one_column_of_each_state(states):
    changed = perturbed(states, kind="dropout")
    gone = changed == 0
    assert (gone.sum(axis=1) == 1).all()
    np.testing.assert_allclose(gone.mean(axis=0), 1 / S, atol=0.02)
    np.testing.assert_array_equal(changed[~gone], states[~gone])


def test_switch_swaps_two_columns(states):
    changed = perturbed(states, kind="switch")
    assert ((changed != states).sum(axis=1) == 2).all()
    np.testing.assert_array_equal(np.sort(changed, axis=1), np.sort(states, axis=1))
    named = perturbed(states, kind="switch", switch_pairs=((0, 5),))
    np.testing.assert_array_equal(named[:, [5, 1, 2, 3, 4, 0]], states)


def test_mixup_lies_between_a_state_and_the_next():
    share = perturbed(np.zeros((N, 1), np.float32), np.ones((N, 1), np.float32), kind="mixup", mixup=0.4)
    assert 0 <= share.min() <= share.max() <= 1
    assert share.var() == pytest.approx(0.25 / (2 * 0.4 + 1), rel=0.05)  # Beta(a, a): 1 / (4 (2 a + 1))


def test_adversarial_climbs_the_critic(states):
    changed = perturbed(states, kind="adversarial", adversarial_step=0.1, gradient=lambda s: -2 * s)
    np.testing.assert_allclose(changed, 0.8 * states, rtol=1e-5)
    with pytest.raises(ValueError, match="gradient must be given"):
        StateAugmentation(S4RLConfig(kind="adversarial"))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_keep_actions_rewards_and_ends(kind):
    data = chain_data(5).columns
    augmentation = StateAugmentation(S4RLConfig(kind=kind), lambda s: s)
    rows = augmentation.transitions(data, np.random.default_rng(0))
    for name in ("actions", "rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(data, name))
    assert not np.array_equal(rows.observations, data.observations)
    assert rows.observations.dtype == rows.next_observations.dtype == np.float32


def test_behind_the_interface_of_generators():
    data = chain_data(5)
    generator: TrajectoryGenerator = S4RLGenerator(CHAIN, data.columns, StateAugmentation(S4RLConfig()))
    imagined = generator.generate(np.zeros((50, 2), np.float32), generator_seed=1)
    again = generator.generate(np.ones((50, 2), np.float32), generator_seed=1)
    np.testing.assert_array_equal(imagined.observations, again.observations)
    assert imagined.lengths.tolist() == [1] * 50
    rows = imagined.to_transitions()
    near = np.abs(rows.observations[:, None] - data.columns.observations[None]).max(-1).min(1)
    assert near.max() < 2e-3
    assert not generator.starts_at_states


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "flip"}, "kind must be one of gaussian"),
        ({"noise": 0}, "noise must be positive, got 0"),
        ({"amplitude": (1.2, 0.8)}, "amplitude must be"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        S4RLConfig(**settings)


def small_generator(**config):
    return S4RLGenerator(CHAIN, chain_data(5).columns, StateAugmentation(S4RLConfig(**config)))


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((3, 5), np.float32), r"shape \(B, 2\), B >= 1, as wide as in the data, got \(3, 5\)"),
        (np.zeros(2, np.float32), r"shape \(B, 2\)"),
        (np.array([[0, 0], [np.nan, 0]], np.float32), r"must be finite, got 'NaN or infinity in row \[1\]'"),
    ],
)
def test_wrong_states_are_refused(states, message):
    with pytest.raises(ValueError, match=message):
        small_generator().generate(states, generator_seed=0)


def test_data_that_are_not_finite_are_refused():
    data = chain_data(5).columns
    rewards = data.rewards.copy()
    rewards[3] = np.inf
    with pytest.raises(ValueError, match="rewards of the data must be finite"):
        S4RLGenerator(CHAIN, replace(data, rewards=rewards), StateAugmentation(S4RLConfig()))


@pytest.mark.parametrize("pair", [(0, 2), (-1, 0), (1, 1)])
def test_columns_that_cannot_change_places_are_refused(pair):
    with pytest.raises(ValueError, match=r"switch_pairs must be two different columns of 0\.\.1 each, got \[\("):
        small_generator(kind="switch", switch_pairs=((0, 1), pair))
    with pytest.raises(ValueError, match="switch_pairs must be"):
        perturbed(np.zeros((4, 2), np.float32), kind="switch", switch_pairs=(pair,))
    assert small_generator(kind="gaussian", switch_pairs=(pair,)).spaces == CHAIN  # nobody reads them


def test_a_single_column_cannot_be_switched():
    with pytest.raises(ValueError, match="must be at least 2 for kind 'switch'"):
        perturbed(np.zeros((4, 1), np.float32), kind="switch")
