"""Where a task is lost: bounds read off rows, against the simulator's own rule and against ends that are no box."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.data.alive_box import NO_BOUND, alive_box, describe_box, leaves_box, unbounded
from atradiff.types import Transitions

NOWHERE = ([], [])


def rows_to(states, terminated, rewards=None):
    n = len(states)
    states, flags = np.asarray(states, np.float32), np.asarray(terminated, np.bool_)
    rewards = np.zeros(n, np.float32) if rewards is None else np.asarray(rewards, np.float32)
    return Transitions(np.zeros_like(states), np.zeros((n, 1), np.float32), rewards, states, flags, np.zeros(n, bool))


def bounded(box):
    """Columns that have a lower and those that have an upper bound."""
    return np.flatnonzero(box[0] > -NO_BOUND).tolist(), np.flatnonzero(box[1] < NO_BOUND).tolist()


def hopping(steps, seed):
    """Random actions in Hopper-v5."""
    env = gym.make("Hopper-v5").unwrapped
    rng, (state, _) = np.random.default_rng(seed), env.reset(seed=seed)
    states, ends, rewards = [], [], []
    for _ in range(steps):
        state, reward, end, _, _ = env.step(rng.uniform(-1, 1, 3))
        states.append(state), ends.append(end), rewards.append(reward)
        if end:
            env.reset()
    return rows_to(states, ends, rewards)


def test_it_is_the_simulators_own_rule_for_a_fall():
    box = alive_box(hopping(3000, seed=0))
    assert box[0][1] == pytest.approx(-0.2, abs=2e-3)  # Hopper-v5's healthy_angle_range
    fresh = hopping(3000, seed=1)
    told, edge = leaves_box(fresh.next_observations, box), 2e-3
    clear = np.abs(np.abs(fresh.next_observations[:, 1]) - 0.2) > edge
    assert fresh.terminated.sum() > 100
    np.testing.assert_array_equal(told[clear], fresh.terminated[clear])


@settings(max_examples=50)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0.3, 1.5)), max_size=3),
)
def test_a_box_holds_all_rows_that_go_on_and_hardly_an_end(seed, size, bounds):
    states = np.random.default_rng(seed).normal(size=(500, size)).astype(np.float32)
    ends = np.zeros(500, np.bool_)
    for column, below, at in bounds:
        value = states[:, column % size]
        ends |= value < -at if below else value > at
    box = alive_box(rows_to(states, ends))
    told = leaves_box(states, box)
    assert not (told & ~ends).any()
    assert not told.any() or told.sum() >= 0.95 * ends.sum()
    # Those that each bound tells two of at most may stay untold: with ten bounds' worth of ends and enough to spare for
    # these, there must be a box.
    distinct = {(column % size, below) for column, below, _ in bounds}
    if not ends.all() and ends.sum() >= max(10, 40 * len(distinct)) and distinct:
        assert bounded(box) != NOWHERE


@settings(max_examples=50)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=2),
)
def test_odd_ends_change_nothing(seed, odd):
    states = np.random.default_rng(seed).normal(size=(500, 4)).astype(np.float32)
    ends = states[:, 0] < -1
    box = alive_box(rows_to(states, ends))
    assert bounded(box) == ([0], [])
    strays = np.insert(np.asarray(odd, np.float32), 0, 0, axis=1)  # anywhere, but above the bound
    with_odd = alive_box(rows_to(np.concatenate([states, strays]), np.append(ends, np.ones(len(odd), bool))))
    np.testing.assert_array_equal(with_odd, box)


def test_a_bound_that_three_of_many_ends_cross_is_one_and_many_untold_ends_undo_the_box():
    states = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    ends = states[:, 0] > 0.6
    states[np.flatnonzero(ends)[:3]] = [(0, 2), (0, 2.1), (0, 2.2)]
    assert bounded(alive_box(rows_to(states, ends))) == ([], [0, 1])
    states[np.flatnonzero(ends)[:3]] = 0
    assert bounded(alive_box(rows_to(states, ends))) == ([], [0])
    states[np.flatnonzero(ends)[: int(0.1 * ends.sum())]] = 0
    assert bounded(alive_box(rows_to(states, ends))) == NOWHERE


def test_bounds_lie_half_way_and_only_where_an_end_was_told():
    states = np.zeros((60, 2))
    states[:, 0] = np.linspace(0, 5.9, 60)
    low, high = alive_box(rows_to(states, states[:, 0] > 4.55))
    np.testing.assert_allclose(high, [4.55, NO_BOUND], rtol=1e-6)
    np.testing.assert_array_equal(low, [-NO_BOUND, -NO_BOUND])


def test_a_hole_inside_is_no_box_and_few_ends_tell_of_none():
    states = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    assert bounded(alive_box(rows_to(states, np.linalg.norm(states - 0.5, axis=1) < 0.3))) == NOWHERE
    few = states[:, 0] > np.sort(states[:, 0])[-10]
    assert few.sum() == 9
    assert bounded(alive_box(rows_to(states, few))) == NOWHERE
    assert bounded(alive_box(rows_to(states, np.ones(2000, bool)))) == NOWHERE


def test_a_box_is_told_in_words():
    low, high = unbounded(3)
    assert describe_box((low, high)) == ""
    low[0], low[1], high[1] = 0.7, -0.2, 0.20013
    assert describe_box((low, high)) == "state[0] < 0.7 or state[1] < -0.2 or state[1] > 0.2"


def test_ends_that_pay_are_left_alone():
    states = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    ends = states[:, 0] > 0.9
    assert bounded(alive_box(rows_to(states, ends, rewards=-1.0 * ends))) == ([], [0])
    assert bounded(alive_box(rows_to(states, ends, rewards=1.0 * ends))) == NOWHERE
