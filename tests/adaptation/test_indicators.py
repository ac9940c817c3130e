"""TD errors against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from atradiff.adaptation.indicators import ContinuousTdError, DiscreteTdError
from atradiff.types import Transitions


def transitions(actions):
    s = np.array([[1.0], [2.0], [3.0]], np.float32)
    flags = np.array([False, True, False])
    return Transitions(s, actions, np.array([0.5, 1.0, -1.0], np.float32), s + 1, flags, np.array([False, False, True]))


def test_discrete_actions_take_the_maximum_over_actions():
    def values(states):
        """Two critics; the second is the lower for action 1."""
        s = states[:, 0]
        return np.stack([np.stack([s, 3 * s], 1), np.stack([s, 2 * s], 1)])

    errors = DiscreteTdError(values, gamma=0.5)(transitions(np.array([0, 1, 1])))
    # r + gamma max_a min_i Q(s', a) - min_i Q(s, a): the second is terminal, the third only truncated
    expected = [0.5 + 0.5 * 4 - 1, 1.0 - 4, -1.0 + 0.5 * 8 - 6]
    np.testing.assert_allclose(errors, np.abs(expected))


def test_continuous_actions_take_the_policys_or_the_best_of_its_draws():
    drawn = iter([1.0, 5.0, 3.0])

    def values(states, actions):
        return np.stack([states[:, 0] + actions[:, 0], states[:, 0] + 10])

    def policy(states):
        return np.full((len(states), 1), next(drawn), np.float32)

    rows = transitions(np.zeros((3, 1), np.float32))
    once = ContinuousTdError(values, policy, gamma=1.0)(rows)
    np.testing.assert_allclose(once, np.abs([0.5 + 3 - 1, 1 - 2, -1 + 5 - 3]))
    drawn = iter([1.0, 5.0, 3.0])
    best = ContinuousTdError(values, policy, gamma=1.0, draws=3)(rows)
    np.testing.assert_allclose(best, np.abs([0.5 + 7 - 1, 1 - 2, -1 + 9 - 3]))
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        ContinuousTdError(values, policy, gamma=1.0, draws=0)
