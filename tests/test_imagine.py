# ruff: noqa: ARG002 (stand-ins keep the signature of what they stand for)
"""Ending and chaining of windows, with a source that counts instead of a diffuser."""

from __future__ import annotations

import numpy as np
import pytest

from atradiff.data.normalize import DecodedRows
from atradiff.imagine import Ending, end_windows, imagine
from atradiff.refine import Thresholds
from tests.toys import CHAIN

LIMITS = Thresholds(np.inf, np.inf)


def ending(prune="none"):
    return Ending(prune, "none", np.ones(2, np.float32), 0.0, LIMITS)


class Counter:
    """Windows of ``length`` rows in which position grows by one per row and the episode ends at ``goal``."""

    def __init__(self, length: int, goal: float = np.inf, final: bool = False, history: int = 0) -> None:
        self.length, self.goal, self.final, self.asked, self.history, self.past = length, goal, final, [], history, []

    def lengths_for(self, states, rows):
        return np.full(len(states), self.length), np.full(len(states), self.final)

    def windows_for(self, states, lengths, rows, history):
        self.asked.append(rows.tolist())
        self.past.append(history)
        path = states[:, None] + np.arange(self.length + 1)[:, None] * np.array([1, 0])
        position = path[:, 1:, 0]
        actions = np.full((*position.shape, 1), 0.5, np.float32)
        return DecodedRows(path.astype(np.float32), actions, position.astype(np.float32), position >= self.goal)


def run(source, states, total, chained, prune="none"):
    states = np.array([[s, 0] for s in states], np.float32)
    return imagine(source, None, ending(prune), CHAIN, states, total, chained, version=3)


def test_the_mean_window_length_is_of_what_was_asked_not_of_the_padding():
    class TwoAndSix(Counter):
        def lengths_for(self, states, rows):
            return np.array([2, 6]), np.zeros(2, np.bool_)

    assert run(TwoAndSix(6), [0, 10], 6, False)[1].mean_window_length == 4


def test_one_window_without_a_horizon():
    trajectories, report = run(Counter(5), [0, 10], 5, False)
    assert trajectories.lengths.tolist() == [5, 5]
    np.testing.assert_array_equal(trajectories.observations[1, :, 0], np.arange(10, 16))
    assert trajectories.generator_version == 3
    assert report.windows == 2


def test_chains_go_on_where_the_last_window_ended_until_the_goal():
    source = Counter(5, goal=12)
    trajectories, report = run(source, [0, 9, 3], 50, True)
    assert trajectories.lengths.tolist() == [12, 3, 9]
    for i, start in enumerate([0, 9, 3]):
        n = trajectories.lengths[i]
        np.testing.assert_array_equal(trajectories.observations[i, : n + 1, 0], start + np.arange(n + 1))
        np.testing.assert_array_equal(trajectories.rewards[i, :n], start + 1 + np.arange(n))
        assert trajectories.terminated[i, :n].tolist() == [False] * (n - 1) + [True]
    assert source.asked == [[0, 1, 2], [0, 2], [0]]  # ended trajectories are not sampled again
    assert report.terminated == 1.0


def test_the_horizon_cuts_without_terminating():
    trajectories, _ = run(Counter(5, goal=12), [0], 8, True)
    assert trajectories.lengths.tolist() == [8]
    assert not trajectories.terminated.any()
    assert trajectories.to_transitions().truncated.tolist() == [False] * 7 + [True]


def test_what_a_window_meets_beyond_the_horizon_ends_nothing():
    class StandsStillAfterSix(Counter):
        def windows_for(self, states, lengths, rows, history):
            window = super().windows_for(states, lengths, rows, history)
            window.states[:, 7:] = window.states[:, 6:7]
            return window

    for horizon, still in ((5, 0.0), (6, 1.0), (9, 1.0)):
        trajectories, report = run(StandsStillAfterSix(10), [0], horizon, True, prune="gated")
        assert trajectories.lengths.tolist() == [min(horizon, 6)]
        assert report.still == still


def test_rows_after_the_end_are_zero():
    trajectories, _ = run(Counter(5, goal=12), [0, 9], 50, True)
    after = ~trajectories.mask
    assert not trajectories.rewards[after].any()
    assert not trajectories.actions[after].any()
    assert not trajectories.observations[:, 1:][after].any()


def test_a_trajectory_may_overrun_its_estimated_length_by_one_window():
    trajectories, _ = run(Counter(5, final=True), [0], 50, True)
    assert trajectories.lengths.tolist() == [10]


@pytest.mark.parametrize(("says_so", "terminated"), [(True, True), (False, False)])
def test_a_tail_that_stands_still_is_terminal_where_most_of_its_rows_say_so(says_so, terminated):
    states = np.minimum(np.arange(11), 4)[None, :, None] * np.array([1.0, 0.5])
    flags = np.zeros((1, 10), bool)
    flags[0, 5:] = says_so  # one row later than the states stop
    rows = DecodedRows(
        states.astype(np.float32), np.zeros((1, 10, 1), np.float32), np.zeros((1, 10), np.float32), flags
    )
    ended = end_windows(rows, np.array([10]), ending("gated"))
    assert ended.lengths.tolist() == [4]
    assert ended.pruned.tolist() == [True]
    assert bool(ended.rows.terminated[0, 3]) is terminated
    assert ended.rows.terminated.sum() == terminated


def test_each_window_is_told_the_rows_that_came_before_it():
    source = Counter(2, goal=8, history=3)
    trajectories, _ = run(source, [0, 5], 50, True)
    first, second, third, fourth = source.past
    assert first.padding.all()
    assert second.padding.tolist() == [[True, False, False]] * 2
    for past, length, which in ((third, 4, [0]), (fourth, 6, [0])):
        assert not past.padding.any()
        rows = slice(length - 3, length)
        np.testing.assert_array_equal(past.states, trajectories.observations[which, length - 3 : length + 1])
        np.testing.assert_array_equal(past.actions, trajectories.actions[which, rows])
        np.testing.assert_array_equal(past.rewards, trajectories.rewards[which, rows])
    assert not second.actions[:, 0].any()
    assert not second.rewards[:, 0].any()
    np.testing.assert_array_equal(second.states[:, 1:, 0], [[0, 1, 2], [5, 6, 7]])


def test_where_states_tell_the_end_only_leaving_their_box_is_terminal():
    """Position grows by one per row; the box ends beyond 7.5, d > 0 from 3 on says otherwise."""
    box = np.float32([-1e30, -1e30]), np.float32([7.5, 1e30])
    told = Ending("none", "none", np.ones(2, np.float32), 0.0, LIMITS, box)
    start = np.zeros((1, 2), np.float32)
    trajectories, _ = imagine(Counter(5, goal=3), None, told, CHAIN, start, 50, True, version=0)
    np.testing.assert_array_equal(trajectories.observations[0, :, 0], np.arange(9))
    assert trajectories.terminated[0].tolist() == [False] * 7 + [True]
    never = Counter(20)
    trajectories, _ = imagine(never, None, told, CHAIN, start, 50, True, version=0)
    assert trajectories.lengths.tolist() == [8]
    assert never.asked == [[0]]


@pytest.mark.parametrize("prune", ["gated", "paper"])
def test_pruning_makes_no_end_inside_the_box_of_a_tail_outside(prune):
    """A window that runs, then creeps out of the box: the rows that are kept all lead to states inside."""
    position = np.concatenate([np.arange(4), 3.99 + 0.01 * np.arange(9)]).astype(np.float32)
    path = np.stack([position, np.zeros_like(position)], axis=1)[None]
    rows = DecodedRows(
        path, np.zeros((1, 12, 1), np.float32), np.zeros((1, 12), np.float32), np.ones((1, 12), np.bool_)
    )
    rows.terminated[0, :6] = False
    box = np.float32([-1e30, -1e30]), np.float32([4.025, 1e30])
    inside = Ending(prune, "none", np.ones(2, np.float32), 0.0, LIMITS, box)
    ended = end_windows(rows, np.array([12]), inside)
    assert ended.pruned.all()
    assert ended.lengths[0] <= 4
    assert not ended.rows.terminated.any()
    assert end_windows(rows, np.array([12]), ending(prune)).rows.terminated.any()


def test_a_flag_that_is_no_end_is_no_estimated_end_either():
    """d > 0 from position 3 on cuts every window after one row; two such windows are not two whole last ones."""
    box = np.float32([-1e30, -1e30]), np.float32([7.5, 1e30])
    told = Ending("none", "none", np.ones(2, np.float32), 0.0, LIMITS, box)
    start = np.zeros((1, 2), np.float32)
    trajectories, report = imagine(Counter(5, goal=3, final=True), None, told, CHAIN, start, 50, True, version=0)
    assert trajectories.lengths.tolist() == [8]
    assert trajectories.terminated[0, 7]
    assert report.denied == 5 / 6  # windows: 0 to 3, then to 4, 5, 6, 7, and to the end at 8
    assert report.estimated == 0
    _, whole = run(Counter(5, final=True), [0, 100], 50, True)
    assert (whole.estimated, whole.denied, whole.still) == (0.5, 0, 0)  # both chains, after two windows each


def test_rewards_go_with_what_is_decided_to_be_the_end():
    """The diffused flag calls row 1 an end, the box row 3: the fall's -100 is row 3's alone."""
    path = np.zeros((1, 6, 2), np.float32)
    path[0, :, 0] = [0, 1, 2, 3, 9, 9]
    live, terminal = np.full((1, 5), 1.0, np.float32), np.full((1, 5), -100.0, np.float32)
    flags = np.zeros((1, 5), np.bool_)
    kinds = np.stack([live, terminal])
    rows = DecodedRows(path, np.zeros((1, 5, 1), np.float32), live, flags, rewards_by_kind=kinds).ending(flags)
    told = Ending("none", "none", np.ones(2, np.float32), 0.0, LIMITS, (np.float32([-9, -9]), np.float32([5, 9])))
    ended = end_windows(rows, np.array([5]), told)
    assert ended.lengths.tolist() == [4]
    assert ended.rows.rewards[0, :4].tolist() == [1, 1, 1, -100]
    flags[0, 1] = True
    ended = end_windows(rows.ending(flags), np.array([5]), told)
    assert ended.lengths.tolist() == [2]
    assert ended.rows.rewards[0, :2].tolist() == [1, 1]
