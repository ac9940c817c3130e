"""TD errors of many transitions by the networks of RLlib's own SAC, TQC and DQN: what online adaptation picks by.

Asked through the public methods of their RLModules alone: ``compute_q_values`` and the distribution of actions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.sac.sac_learner import QF_PREDS
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from torch import Tensor

from atradiff.adaptation.indicators import ContinuousTdError, DiscreteTdError
from atradiff.types import ActionArray, FloatArray, Transitions
from rllib_ext.evaluation import mode
from rllib_ext.stock_learners import ask_learners

_ROWS = 8192
"""Scored at a time: bounds the memory of a pass."""


class StockScorer:
    """An :data:`atradiff.ports.Score` by the learners of ``group``, each of which scores its part of the rows.

    Discrete actions: the best of all in s'. Continuous ones: the policy's mean action, or the best of several drawn
    from ``seed``; the learners' own random state is left as it is.
    """

    def __init__(self, group: LearnerGroup, gamma: float, seed: int) -> None:
        self._group, self._gamma, self._seed = group, gamma, seed

    def __call__(self, rows: Transitions, draws: int) -> FloatArray:
        """(N,) absolute TD errors, in their order."""
        question = partial(
            _score_part, rows=rows, gamma=self._gamma, draws=draws, seed=self._seed, learners=len(self._group) or 1
        )
        return np.concatenate(ask_learners(self._group, question))


def _score_part(
    learner: Learner, *, rows: Transitions, gamma: float, draws: int, seed: int, learners: int
) -> FloatArray:
    """Of the rows that are this learner's to score."""
    n, i = len(rows), learner._learner_index or 0
    networks = _Networks(learner, draws)
    discrete = rows.actions.dtype.kind == "i"
    indicator = (
        DiscreteTdError(networks.all_values, gamma)
        if discrete
        else ContinuousTdError(networks.values, networks.policy, gamma, draws)
    )
    starts = range(n * i // learners, n * (i + 1) // learners, _ROWS)
    devices = [networks.device] if networks.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        parts = [indicator(rows[slice(at, min(at + _ROWS, starts.stop))]) for at in starts]
    return np.concatenate([np.empty(0, np.float32), *parts])


class _Networks:
    """A learner's networks as they are, for numpy columns. Its critics are joined as its module joins them: the minimum
    of SAC's, the mean of TQC's quantiles.
    """

    def __init__(self, learner: Learner, draws: int) -> None:
        self._module: Any = learner.module[DEFAULT_MODULE_ID].unwrapped()
        self._draws = draws
        self.device: torch.device = next(self._module.parameters()).device

    def all_values(self, states: FloatArray) -> FloatArray:
        """(1, N, A), of every discrete action."""
        return self._q({Columns.OBS: self._tensor(states)})

    def values(self, states: FloatArray, actions: ActionArray) -> FloatArray:
        """(1, N), of one continuous action each."""
        return self._q({Columns.OBS: self._tensor(states), Columns.ACTIONS: self._tensor(actions)})

    def policy(self, states: FloatArray) -> ActionArray:
        """(N, A), the mean actions or draws."""
        logits = self._module.forward_inference({Columns.OBS: self._tensor(states)})[Columns.ACTION_DIST_INPUTS]
        policy = self._module.get_inference_action_dist_cls().from_logits(logits)
        actions: FloatArray = (mode(policy) if self._draws == 1 else policy.sample()).cpu().numpy()
        return actions

    def _q(self, batch: dict[str, Tensor]) -> FloatArray:
        answer = self._module.compute_q_values(batch)
        q: FloatArray = (answer[QF_PREDS] if isinstance(answer, dict) else answer).cpu().numpy()
        return q[None]

    def _tensor(self, column: NDArray[np.float32]) -> Tensor:
        return torch.tensor(column, device=self.device)  # a copy: what Ray brings is read-only
