"""The policy of a moment of RLlib's own SAC, TQC and DQN, to act by elsewhere and later.

Asked through the public methods of their RLModules alone: what they do in inference, and the distribution they give.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup

from atradiff.types import ActionArray, FloatArray
from rllib_ext.stock_learners import ask_learners


class ModuleSnapshot:
    """An :data:`atradiff.ports.Act` by a copy of an RLModule, on the CPU; of its networks only those that act.

    Actions are drawn from its inference distribution; a module that gives actions instead (DQN: the best ones) is taken
    at its word.
    """

    def __init__(self, module: Any) -> None:
        critics = (getattr(module, name) for name in module.get_non_inference_attributes())
        left_out = {id(network): None for network in critics}  # of SAC's default networks they are 38 of 39 bytes
        self._module = copy.deepcopy(module, left_out).cpu().eval().requires_grad_(False)
        self._module.zero_grad()  # a copy has the gradients, too

    def __call__(self, states: FloatArray, seed: int) -> ActionArray:
        """(N, A) in the scale of RLlib's episodes, or (N,) int64; with noise of ``seed``."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators, too
            out = self._module.forward_inference({Columns.OBS: torch.tensor(states)})
            if Columns.ACTIONS in out:
                actions = out[Columns.ACTIONS]
            else:
                logits = out[Columns.ACTION_DIST_INPUTS]
                actions = self._module.get_inference_action_dist_cls().from_logits(logits).sample()
        drawn: ActionArray = actions.numpy()
        return drawn


class StockPolicy:
    """Takes snapshots of what the first learner of ``group`` has learned: all have the same weights."""

    def __init__(self, group: LearnerGroup) -> None:
        self._group = group

    def __call__(self) -> ModuleSnapshot:
        return next(taken for taken in ask_learners(self._group, _of_the_first) if taken is not None)


def _of_the_first(learner: Learner) -> ModuleSnapshot | None:
    return None if learner._learner_index else ModuleSnapshot(learner.module[DEFAULT_MODULE_ID].unwrapped())
