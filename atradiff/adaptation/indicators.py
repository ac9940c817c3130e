"""TD error as an indicator of importance: |r + gamma (1 - d) max_a' Q(s', a') - Q(s, a)| (ATraDiff, section 4.3).

For continuous actions no maximum can be taken; the policy's action stands for it, or the best of k of its draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from atradiff.config import require
from atradiff.types import ActionArray, FloatArray, Transitions

StateValues = Callable[[FloatArray], FloatArray]
"""States (N, S) to the values of all discrete actions (M, N, A), one row of values for each of M critics."""

ActionValues = Callable[[FloatArray, ActionArray], FloatArray]
"""States (N, S) and actions (N, A) to values (M, N), of M critics."""

Policy = Callable[[FloatArray], ActionArray]
"""States (N, S) to one action each (N, A); a stochastic one draws anew in each call."""


@dataclass(frozen=True)
class DiscreteTdError:
    """|TD| of transitions with the maximum over all actions; critics are joined by their minimum."""

    values: StateValues
    gamma: float

    def __call__(self, rows: Transitions) -> FloatArray:
        """(N,) importances."""
        here = self.values(rows.observations).min(0)[np.arange(len(rows)), rows.actions]
        return td_errors(rows, here, self.values(rows.next_observations).min(0).max(-1), self.gamma)


@dataclass(frozen=True)
class ContinuousTdError:
    """|TD| of transitions with the best of ``draws`` actions of the policy in s'; critics are joined by their minimum.

    ``draws`` = 1 with the policy's mean action is near what the learner's own updates bootstrap from; those draw the
    action, and where ``target_subset`` is below the number of critics (REDQ, RLPD) they ask that many, drawn anew.
    """

    values: ActionValues
    policy: Policy
    gamma: float
    draws: int = 1

    def __post_init__(self) -> None:
        require(self.draws >= 1, "draws", self.draws, "must be at least 1")

    def __call__(self, rows: Transitions) -> FloatArray:
        """(N,) importances."""
        after = rows.next_observations
        best = np.max([self.values(after, self.policy(after)).min(0) for _ in range(self.draws)], axis=0)
        return td_errors(rows, self.values(rows.observations, rows.actions).min(0), best, self.gamma)


def td_errors(rows: Transitions, values: FloatArray, next_values: FloatArray, gamma: float) -> FloatArray:
    """(N,) |r + gamma (1 - d) V(s') - Q(s, a)|; d is ``terminated``: a truncated episode is bootstrapped through."""
    target = rows.rewards + gamma * np.where(rows.terminated, 0, next_values)
    return np.abs(target - values).astype(np.float32)
