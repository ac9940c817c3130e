"""RLlib's view of the ensemble SAC's networks."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import nn

from rllib_ext.ensemble_sac.networks import CriticEnsemble, GaussianActor


class EnsembleSACModule(TorchRLModule, InferenceOnlyAPI):
    """Actor, critics, target critics and log alpha; on env runners the actor alone.

    Actions are in [-1, 1]: RLlib's ``normalize_actions`` brings them to the environment's bounds. ``model_config`` has
    the keys ``n_critics``, ``hidden_sizes``, ``layer_norm``, ``standardise_states`` and ``initial_alpha``.
    """

    def setup(self) -> None:
        """Build the networks. Raises ``ValueError`` for spaces that this algorithm cannot learn in."""
        observation_size, action_size = require_flat_continuous(self.observation_space, self.action_space)
        c = self.model_config
        self.actor = GaussianActor(observation_size, action_size, c["hidden_sizes"], c["standardise_states"])
        if self.inference_only:
            return
        ensemble = (c["n_critics"], c["hidden_sizes"], c["layer_norm"], c["standardise_states"])
        self.critics = CriticEnsemble(observation_size, action_size, *ensemble)
        self.target_critics = CriticEnsemble(observation_size, action_size, *ensemble).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.log_alpha = nn.Parameter(torch.tensor(math.log(c["initial_alpha"])))

    def get_non_inference_attributes(self) -> list[str]:
        """What env runners do without."""
        return ["critics", "target_critics", "log_alpha"]

    def _forward_inference(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The deterministic action tanh(mean)."""
        with torch.no_grad():
            mean, log_std = self.actor(batch[Columns.OBS])
            return {Columns.ACTIONS: torch.tanh(mean), Columns.ACTION_DIST_INPUTS: torch.cat((mean, log_std), -1)}

    def _forward_exploration(
        self, batch: dict[str, Any], generator: torch.Generator | None = None, **_: Any
    ) -> dict[str, Any]:
        with torch.no_grad():
            mean, log_std = self.actor(batch[Columns.OBS])
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            actions = torch.tanh(mean + log_std.exp() * noise)
            return {Columns.ACTIONS: actions, Columns.ACTION_DIST_INPUTS: torch.cat((mean, log_std), -1)}


def require_flat_continuous(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> tuple[int, int]:
    """S and A; raises ``ValueError`` naming the remedy where the spaces are not flat Box spaces."""
    if isinstance(action_space, gym.spaces.Discrete):
        raise ValueError(
            f"EnsembleSAC needs continuous actions, this environment has {action_space}: use RLlib's DQNConfig with "
            ".callbacks(ATraDiffCallback.using(...)), which brings the same augmentation to discrete actions."
        )
    if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
        raise ValueError(f"EnsembleSAC needs a one-dimensional Box of actions, this environment has {action_space}.")
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
        raise ValueError(
            f"EnsembleSAC squashes actions into the bounds of their space, this environment has none: {action_space}. "
            "Wrap it in gymnasium.wrappers.RescaleAction or give the space finite bounds."
        )
    if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
        raise ValueError(
            f"EnsembleSAC needs flat observations, this environment has {observation_space}: wrap it in "
            "gymnasium.wrappers.FlattenObservation."
        )
    return observation_space.shape[0], action_space.shape[0]
