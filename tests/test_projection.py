# ruff: noqa: ARG002 (a stand-in keeps the signatures of what it stands for)
"""Projection against the closed form: with linear dynamics the nearest true window is a least-squares solution."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from atradiff.projection import project
from atradiff.types import Spaces

STATES, ACTIONS, ROWS, BATCH = 3, 2, 4, 6
FREE = Spaces(STATES, "continuous", (-np.inf,) * ACTIONS, (np.inf,) * ACTIONS)
BOUNDED = Spaces(STATES, "continuous", (-0.5,) * ACTIONS, (0.5,) * ACTIONS)


@dataclass
class LinearStep:
    outputs: torch.Tensor
    matrix: torch.Tensor

    @property
    def width(self):
        return len(self.matrix)

    def push(self, tangent):
        return tangent @ self.matrix

    def pull(self, cotangent):
        return cotangent @ self.matrix.T


@dataclass
class LinearModel:
    """s' - s = ([s, a, task] M + c) in units of the differences' scale; the last column of a state never moves."""

    spaces: Spaces = FREE
    tasks: int = 0
    models: int = 1
    delta_scale: torch.Tensor = field(default_factory=lambda: torch.tensor([0.5, 0.2, 0.0]))
    delta_inverse: torch.Tensor = field(default_factory=lambda: torch.tensor([2.0, 5.0, 0.0]))
    state_inverse: torch.Tensor = field(default_factory=lambda: torch.tensor([0.5, 1.0, 0.0]))
    action_inverse: torch.Tensor = field(default_factory=lambda: torch.tensor([2.0, 0.5]))

    def __post_init__(self):
        rng = np.random.default_rng(0)
        width = STATES + self.spaces.action_size + self.tasks
        self.matrix = torch.tensor(rng.normal(size=(width, STATES)) * 0.5, dtype=torch.float32)
        self.constant = torch.tensor(rng.normal(size=STATES), dtype=torch.float32)

    @property
    def delta_to_state(self):
        return self.delta_scale * self.state_inverse

    def encode_states(self, states):
        return states * self.state_inverse

    def encode_actions(self, actions):
        if self.spaces.discrete:
            return torch.nn.functional.one_hot(actions, self.spaces.n_actions).float() * 2 - 1
        return (actions - 0.1) * self.action_inverse

    def linearised(self, member, states, actions, tasks=None):
        parts = [self.encode_states(states), actions, *([] if tasks is None else [tasks])]
        return LinearStep(torch.cat(parts, -1) @ self.matrix + self.constant, self.matrix)


def windows(seed=1):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(BATCH, ROWS + 1, STATES)).astype(np.float32)
    states[..., 2] = states[:, :1, 2]  # a goal
    return states, rng.uniform(-1, 1, (BATCH, ROWS, ACTIONS)).astype(np.float32)


def gaps(model, states, actions, tasks=None):
    """(B, K, 2) of moving columns, straight from the definition."""
    encoded = model.encode_actions(torch.as_tensor(actions)).numpy()
    told = [] if tasks is None else [np.repeat(tasks[:, None], ROWS, 1)]
    inputs = np.concatenate([states[:, :-1] * model.state_inverse.numpy(), encoded, *told], axis=-1)
    expected = inputs @ model.matrix.numpy() + model.constant.numpy()
    return (np.diff(states, axis=1) * model.delta_inverse.numpy() - expected)[..., :2]


def projected(model, states, actions, steps, real=None, tasks=None):
    real = np.ones(actions.shape[:2], bool) if real is None else real
    tasks = None if tasks is None else torch.as_tensor(tasks)
    given = (torch.tensor(states), torch.tensor(actions), torch.tensor(real), tasks)
    return tuple(x.numpy() for x in project(model, *given, steps))


def nearest(model, states, actions, rows):
    """The window with the least change in scaled units among those without a gap, by a dense least-squares solve."""
    unknown = rows * (2 + ACTIONS)

    def changed(change):
        shift, nudge = change[: 2 * rows].reshape(rows, 2), change[2 * rows :].reshape(rows, ACTIONS)
        moved, acted = states.astype(np.float64), actions.astype(np.float64)
        moved[1 : rows + 1, :2] += shift * model.delta_scale.numpy()[:2]
        acted[:rows] += nudge / model.action_inverse.numpy()
        return moved.astype(np.float32), acted.astype(np.float32)

    def gap(change):
        moved, acted = changed(change)
        return gaps(model, moved[None], acted[None])[0, :rows].ravel().astype(np.float64)

    at_rest = gap(np.zeros(unknown))
    jacobian = np.stack([gap(unit) - at_rest for unit in np.eye(unknown)], axis=1)
    return changed(-np.linalg.lstsq(jacobian, at_rest, rcond=None)[0])


def test_linear_dynamics_have_a_closed_form():
    model, (states, actions) = LinearModel(), windows()
    found = projected(model, states, actions, steps=40)
    assert np.abs(gaps(model, *found)).max() < 1e-3 < 0.1 < np.abs(gaps(model, states, actions)).max()
    for i in range(BATCH):
        for ours, theirs in zip((x[i] for x in found), nearest(model, states[i], actions[i], ROWS), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-3)
    np.testing.assert_array_equal(found[0][:, 0], states[:, 0])
    np.testing.assert_array_equal(found[0][..., 2], states[..., 2])


def test_every_step_comes_nearer_in_every_window():
    model, (states, actions) = LinearModel(), windows()
    sizes = [np.square(gaps(model, states, actions)).sum((1, 2))]
    for steps in range(1, 6):
        sizes.append(np.square(gaps(model, *projected(model, states, actions, steps))).sum((1, 2)))
    assert (np.diff(sizes, axis=0) < 0).all()


def test_rows_past_the_end_neither_move_nor_pull():
    model, (states, actions) = LinearModel(), windows()
    real = np.arange(ROWS) < np.array([1, 2, 3, 4, 2, 3])[:, None]
    moved, acted = projected(model, states, actions, 40, real)
    for i, rows in enumerate(real.sum(1)):
        np.testing.assert_allclose(moved[i], nearest(model, states[i], actions[i], rows)[0], atol=2e-3)
        np.testing.assert_array_equal(moved[i, rows + 1 :], states[i, rows + 1 :])
        np.testing.assert_array_equal(acted[i, rows:], actions[i, rows:])


def test_actions_stay_in_their_space_and_on_its_bounds():
    model, (states, actions) = LinearModel(BOUNDED), windows()
    actions = np.clip(actions, -0.5, 0.5)
    on_a_bound = np.abs(actions) == 0.5
    moved, acted = projected(model, states, actions, 40)
    assert np.abs(acted).max() <= 0.5
    assert ((np.abs(acted) == 0.5) & ~on_a_bound).any()  # some would have gone further
    np.testing.assert_array_equal(acted[on_a_bound], actions[on_a_bound])
    before, after = (np.square(gaps(model, *x)).sum((1, 2)) for x in ((states, actions), (moved, acted)))
    assert (after < 0.2 * before).all()


def test_discrete_actions_stay_and_states_give_way():
    model = LinearModel(Spaces(STATES, "discrete", n_actions=3))
    states, actions = windows()[0], np.random.default_rng(0).integers(0, 3, (BATCH, ROWS))
    moved, acted = projected(model, states, actions, 40)
    np.testing.assert_array_equal(acted, actions)
    assert np.abs(gaps(model, moved, actions)).max() < 2e-3


def test_tasks_say_what_is_true():
    model, (states, actions) = LinearModel(tasks=2), windows()
    tasks = np.random.default_rng(3).normal(size=(BATCH, 2)).astype(np.float32)
    found = projected(model, states, actions, 40, tasks=tasks)
    assert np.abs(gaps(model, *found, tasks)).max() < 1e-3
    assert np.abs(gaps(model, *found, -tasks)).max() > 0.1


@pytest.mark.parametrize("wild", [np.inf, np.nan, 1e30])
def test_a_wild_model_changes_nothing(wild):
    model, (states, actions) = LinearModel(), windows()
    model.matrix[0, 0] = wild
    for ours, theirs in zip(projected(model, states, actions, 3), (states, actions), strict=True):
        np.testing.assert_array_equal(ours, theirs)
