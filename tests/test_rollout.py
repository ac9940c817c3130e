# ruff: noqa: ARG002 (a stand-in keeps the signatures of what it stands for)
"""A policy in the one-step model, against a loop over states and rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atradiff.data.tasks import join_tasks
from atradiff.dynamics import Moves
from atradiff.rollout import rollout
from atradiff.types import FloatArray, Spaces
from tests.toys import CHAIN, TINY, chain_data, random_data, tiny_diffuser

A, B = np.array([[0.9, 0.2], [-0.1, 0.8]]), np.array([0.5, -1.0])
UNSURE, GOAL, EDGE, ROWS = 0.75, 1.5, 2.0, 6


class Linear:
    """s' = A s + B a; the episode ends at s'_0 > GOAL, the members disagree by |s_1|, the data end at EDGE."""

    spaces = CHAIN
    state_mean, delta_inverse, moving = torch.zeros(2), torch.ones(2), 2

    def move(self, states, actions, tasks=None):
        following = states @ torch.tensor(A.T, dtype=torch.float32) + actions * torch.tensor(B, dtype=torch.float32)
        return Moves(following - states, following - states, states[:, 1].abs())

    def leaves_data(self, states):
        return (states.abs() > EDGE).any(1)

    def outcomes(self, states, actions, scaled, tasks=None):
        return states[:, 0] - actions[:, 0] ** 2, (states + scaled)[:, 0] > GOAL


def policy(states: FloatArray, row: int) -> FloatArray:
    """Not the same in every row."""
    return (0.7 * states[:, :1] - 0.4 * states[:, 1:] + 0.1 * row).astype(np.float32)


def walked(state: np.ndarray) -> list[tuple[np.ndarray, float, float, bool]]:
    """(s', a, r, end) of the rows from ``state``, straight from the definition."""
    rows: list[tuple[np.ndarray, float, float, bool]] = []
    for j in range(ROWS):
        action = 0.7 * state[0] - 0.4 * state[1] + 0.1 * j
        following = A @ state + B * action
        lost = abs(state[1]) > UNSURE or np.abs(following).max() > EDGE
        if lost and j > 0:
            break
        ended = bool(following[0] > GOAL)
        rows.append((following, action, state[0] - action**2, ended))
        if lost or ended:
            break
        state = following
    return rows


def test_rolls_as_a_loop_over_its_rows_does() -> None:
    states = np.random.default_rng(0).uniform(-1.6, 1.6, (400, 2)).astype(np.float32)
    made = rollout(Linear(), UNSURE, states, policy, ROWS, None, 9)
    endings = set()
    for i, state in enumerate(states):
        rows = walked(state.astype(np.float64))
        n = made.lengths[i]
        assert n == len(rows)
        following, actions, rewards, ends = (np.array(column) for column in zip(*rows, strict=True))
        np.testing.assert_allclose(made.observations[i, 1 : n + 1], following, atol=1e-5)
        np.testing.assert_allclose(made.actions[i, :n, 0], actions, atol=1e-5)
        np.testing.assert_allclose(made.rewards[i, :n], rewards, atol=1e-5)
        np.testing.assert_array_equal(made.terminated[i, :n], ends)
        endings.add("terminal" if ends[-1] else "whole" if n == ROWS else "lost")
    assert endings == {"terminal", "whole", "lost"}
    assert made.generator_version == 9
    np.testing.assert_array_equal(made.observations[:, 0], states)
    assert not made.observations[:, 1:][~made.mask].any()
    assert not made.actions[~made.mask].any()
    assert not made.terminated[~made.mask].any()


@given(st.lists(st.floats(-1.875, 1.875, width=32), min_size=2, max_size=2), st.integers(1, 8))
def test_a_first_row_is_always_there_and_no_state_after_it_is_outside(state: list[float], rows: int) -> None:
    made = rollout(Linear(), UNSURE, np.array([state], np.float32), policy, rows, None, 0)
    (n,) = made.lengths
    assert 1 <= n <= rows
    assert made.rewards.shape == (1, rows)
    if n > 1:
        assert np.abs(made.observations[0, 1 : n + 1]).max() <= EDGE
    assert not made.terminated[0, : n - 1].any()


def test_a_fitted_model_rolls_as_its_predictions_say() -> None:
    model = tiny_diffuser()
    states = chain_data(3).columns.observations[:5]
    made = model.roll(states, policy, 4)
    for i, n in enumerate(made.lengths):
        for j in range(n):
            here = torch.as_tensor(made.observations[i, j][None])
            step = model.dynamics.predict(here, torch.as_tensor(policy(here.numpy(), j)))
            np.testing.assert_allclose(made.observations[i, j + 1], (here + step.deltas)[0], atol=1e-5)
            np.testing.assert_allclose(made.rewards[i, j], step.rewards[0], rtol=1e-4, atol=1e-4)


def test_actions_of_double_precision_are_taken() -> None:
    model, states = tiny_diffuser(), chain_data(3).columns.observations[:5]
    double = model.roll(states, lambda states, row: policy(states, row).astype(np.float64), 3)
    np.testing.assert_array_equal(double.observations, model.roll(states, policy, 3).observations)


def test_discrete_actions_tasks_and_columns_that_never_move() -> None:
    spaces = Spaces(3, "discrete", n_actions=3)
    parts = [random_data([20, 20], [True, False], spaces=spaces, seed=seed) for seed in (1, 2)]
    for part in parts:
        part.columns.observations[:, 2] = part.columns.next_observations[:, 2] = 0.3
    data = join_tasks(parts, "one_hot")
    model = tiny_diffuser(data, replace(TINY, task_size=2))
    states = data.columns.observations[:6]
    asked = []

    def third(states: FloatArray, row: int) -> np.ndarray:
        asked.append(row)
        return np.full(len(states), 2)

    with pytest.raises(ValueError, match="task"):
        model.roll(states, third, 3)
    rolled = []
    for task in ((1.0, 0.0), (0.0, 1.0)):
        model.tell_task(task)
        rolled.append(model.roll(states, third, 3))
    one, other = rolled
    assert one.actions.dtype == np.int64
    assert set(one.actions[one.mask]) == {2}
    assert 0 in asked
    assert (one.observations[:, 1:, 2][one.mask] == np.float32(0.3)).all()
    assert not np.array_equal(one.observations[:, 1], other.observations[:, 1])


def test_states_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 2\)"):
        tiny_diffuser().roll(np.zeros((3, 4), np.float32), policy, 2)
