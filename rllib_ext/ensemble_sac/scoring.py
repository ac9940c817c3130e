"""TD errors of many transitions by the networks as they are: how online adaptation ranks what the agent has lived."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atradiff.adaptation.indicators import ContinuousTdError
from atradiff.types import ActionArray, FloatArray, Transitions
from rllib_ext.ensemble_sac.updater import SACNetworks

_ROWS = 8192
"""Scored at a time: the widest layer of an ensemble of ten takes 84 MB."""


class Scorer:
    """|TD| of transitions by critics and policy; ``draws`` of 1 takes the policy's mean action in s'.

    More than one draw their noise from ``seed``, and nothing is taken from the learner's own generator: a run that is
    scored learns as one that is not.
    """

    def __init__(self, networks: SACNetworks, gamma: float, draws: int, device: torch.device, seed: int) -> None:
        self._nets, self._draws, self._device = networks, draws, device
        self._generator = torch.Generator(device).manual_seed(seed)
        self._indicator = ContinuousTdError(self._values, self._policy, gamma, draws)

    @torch.no_grad()
    def __call__(self, rows: Transitions) -> FloatArray:
        """(N,) absolute TD errors, in their order."""
        parts = [self._indicator(rows[slice(start, start + _ROWS)]) for start in range(0, len(rows), _ROWS)]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def _values(self, states: FloatArray, actions: ActionArray) -> FloatArray:
        values: FloatArray = self._nets.critics(self._tensor(states), self._tensor(actions)).cpu().numpy()
        return values

    def _policy(self, states: FloatArray) -> ActionArray:
        observations = self._tensor(states)
        if self._draws == 1:
            actions = torch.tanh(self._nets.actor(observations)[0])
        else:
            actions = self._nets.actor.sample(observations, self._generator)[0]
        drawn: FloatArray = actions.cpu().numpy()
        return drawn

    def _tensor(self, column: NDArray[np.float32]) -> Tensor:
        return torch.tensor(column, device=self._device)  # a copy: what Ray brings is read-only
