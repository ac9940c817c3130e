"""The policy of a moment, to act by elsewhere and later."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from atradiff.types import ActionArray, FloatArray
from rllib_ext.ensemble_sac.networks import GaussianActor

if TYPE_CHECKING:
    from rllib_ext.ensemble_sac.learner import EnsembleSACLearner


class ActorSnapshot:
    """An :data:`atradiff.ports.Act` by a copy of ``actor``, on the CPU."""

    def __init__(self, actor: GaussianActor) -> None:
        self._actor = copy.deepcopy(actor).cpu().requires_grad_(False)
        self._actor.zero_grad()  # a copy has the gradients, too

    def __call__(self, states: FloatArray, seed: int) -> ActionArray:
        """(N, A) in [-1, 1], with noise of ``seed``."""
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            actions: FloatArray = self._actor.sample(torch.tensor(states), noise)[0].numpy()
        return actions


def snapshot(learner: EnsembleSACLearner) -> ActorSnapshot:
    """Of the learner's policy as it is; its random state is left as it is, too."""
    from ray.rllib.core import DEFAULT_MODULE_ID

    return ActorSnapshot(learner.module[DEFAULT_MODULE_ID].actor)
