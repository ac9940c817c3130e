# ruff: noqa: ARG002 (a stand-in keeps the signatures of what it stands for)
"""Re-rolling against a loop over windows and rows, with a one-step model that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atradiff.data.normalize import DecodedRows
from atradiff.dynamics import Moves
from atradiff.refine import Thresholds, refine_windows

GOAL, UNSURE, EDGE = 6, 4, 8


class Line:
    """Walks along whole numbers: the episode ends at GOAL, the members disagree at UNSURE, the data end at EDGE."""

    state_mean, delta_inverse, moving = torch.zeros(1), torch.ones(1), 1

    def move(self, states, actions, tasks=None):
        return Moves(actions, actions, (states[:, 0] == UNSURE).float())

    def leaves_data(self, states):
        return states[:, 0] > EDGE

    def outcomes(self, states, actions, scaled, tasks=None):
        return 10 * states[:, 0] + actions[:, 0], (states + scaled)[:, 0] == GOAL


def walked(state, actions):
    """(states, rewards, ends) of the kept rows, stopped, left the data: straight from the definition."""
    kept = []
    for j, action in enumerate(actions):
        following = state + action
        left = following > EDGE
        lost = left or state == UNSURE
        if j == 0 or not lost:
            kept.append((following, 10 * state + action, following == GOAL))
        if lost:
            return kept, True, left
        if following == GOAL:
            return kept, False, False
        state = following
    return kept, False, False


def test_each_window_ends_as_a_loop_over_its_rows_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atradiff.refine._CHUNK", 7)
    rng, batch, rows = np.random.default_rng(0), 300, 6
    actions = rng.integers(0, 4, (batch, rows, 1)).astype(np.float32)
    states = np.zeros((batch, rows + 1, 1), np.float32)
    states[:, 0, 0] = rng.integers(0, 8, batch)
    lengths = rng.integers(1, rows + 1, batch)
    nothing = np.zeros((batch, rows), np.float32)
    window = DecodedRows(states, actions, nothing, nothing > 0)
    refined = refine_windows("dynamics", Line(), Thresholds(np.inf, 0.5), window, lengths)
    past_the_end = 0
    for i in range(batch):
        kept, stopped, left = walked(states[i, 0, 0], actions[i, : lengths[i], 0])
        count = len(kept)
        assert (refined.lengths[i], refined.stopped[i], refined.left_data[i]) == (count, stopped, left)
        following, rewards, ends = zip(*kept, strict=True)
        np.testing.assert_array_equal(refined.rows.states[i, 1 : count + 1, 0], following)
        np.testing.assert_array_equal(refined.rows.rewards[i, :count], rewards)
        np.testing.assert_array_equal(refined.rows.terminated[i, :count], ends)
        past_the_end += ends[-1] and states[i, 0, 0] + actions[i, : lengths[i], 0].sum() > EDGE
    assert past_the_end > 0  # some would have left the data, had they not ended before
    assert 0 < refined.left_data.sum() < refined.stopped.sum() < batch
