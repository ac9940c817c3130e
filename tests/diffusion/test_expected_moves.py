"""Rows are followed as by hand: one step of the expectation after the other, and what rows say beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atradiff.data.expectation import Expectation
from atradiff.diffusion.expected_moves import ExpectedMoves

TO_STATE = np.float32([0.5, 0.1])
MOVES = np.float32([[-2, -2], [2, 2]])
ACTIONS = np.float32([[-1], [1]])


@pytest.fixture
def expectation():
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    return Expectation.fit(x, np.stack([np.sin(x[:, 0]) + x[:, 2], x[:, 1] * x[:, 2]], axis=1), updates=50, seed=0)


@pytest.fixture
def moves(expectation):
    return ExpectedMoves(expectation, TO_STATE, MOVES, ACTIONS)


def rows(count=5, length=4, size=1.0):
    rng = np.random.default_rng(1)
    return tuple(
        size * rng.normal(size=(count, *shape)).astype(np.float32) for shape in [(length, 2), (length, 1), (2,)]
    )


def by_hand(expectation, residuals, actions, states):
    out, here = [], states
    for row in range(residuals.shape[1]):
        seen = np.concatenate([np.clip(here, -10, 10), np.clip(actions[:, row], -1, 1)], axis=1)
        out.append(np.clip(expectation(seen) + residuals[:, row] * expectation.spread, -2, 2))
        here = here + out[-1] * TO_STATE
    return np.stack(out, axis=1)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_each_row_starts_where_the_last_one_led(moves, expectation, size):
    residuals, actions, states = rows(size=size)
    followed = moves(*map(torch.from_numpy, (residuals, actions, states))).numpy()
    np.testing.assert_allclose(followed, by_hand(expectation, residuals, actions, states), atol=1e-4)
    assert np.abs(followed).max() <= 2


def test_after_the_end_nothing_is_expected(moves):
    residuals, actions, states = map(torch.from_numpy, rows())
    residuals[:, 2:] = 0
    ended = torch.arange(4).expand(5, 4) >= 2
    followed = moves(residuals, actions, states, ended)
    torch.testing.assert_close(followed[:, :2], moves(residuals, actions, states)[:, :2])
    assert not followed[:, 2:].any()


def test_autocast_changes_nothing(moves, expectation):
    residuals, actions, states = rows()
    with torch.autocast("cpu", torch.bfloat16):
        followed = moves(*map(torch.from_numpy, (residuals, actions, states)))
        told = expectation(np.concatenate([states, actions[:, 0]], axis=1))
    torch.testing.assert_close(followed, moves(*map(torch.from_numpy, (residuals, actions, states))), rtol=0, atol=0)
    np.testing.assert_array_equal(told, expectation(np.concatenate([states, actions[:, 0]], axis=1)))
