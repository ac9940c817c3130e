"""RLlib's view of the ensemble SAC's networks."""

from __future__ import annotations

import math
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import nn

from rllib_ext.ensemble_sac.networks import CriticEnsemble, GaussianActor
from rllib_ext.ensemble_sac.spaces import require_flat_continuous


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
