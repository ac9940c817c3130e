"""What RLlib's checkpoints of off-policy algorithms leave out: the replay buffer, log alpha, the random state.

RLlib ignores ``store_buffer_in_checkpoints`` on its new API stack and never saves SAC's temperature, both silently.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.sac.sac_learner import SACLearner
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.checkpoints import Checkpointable

from atradiff.ports import ReplayService
from rllib_ext.folder_component import FolderComponent

COMPONENT_NAME = "atradiff_replay"
_LEARNER_FILE = "learner.json"
_TORCH_RNG_FILE = "torch_rng.npy"


def replay_component(service: ReplayService, learner: Learner) -> FolderComponent:
    """The ``service`` and what RLlib forgets of the ``learner`` that feeds on it, as a part of a checkpoint."""

    def save(folder: Path) -> None:
        service.save(folder)
        np.save(folder / _TORCH_RNG_FILE, torch.get_rng_state().numpy())
        (folder / _LEARNER_FILE).write_text(json.dumps(_learner_extras(learner)))

    def load(folder: Path) -> None:
        service.load(folder)
        _restore_learner_extras(learner, json.loads((folder / _LEARNER_FILE).read_text()))
        torch.set_rng_state(torch.from_numpy(np.load(folder / _TORCH_RNG_FILE, allow_pickle=False)))

    return FolderComponent(save, load)


def add_to_checkpoints(algorithm: Algorithm, component: Checkpointable) -> None:
    """Make ``component`` a part of ``algorithm``'s checkpoints, whichever of RLlib's ways they are written in."""
    # The rows are never part of `get_state`: a million of them would pass through pickle.
    get_state, get_components = algorithm.get_state, algorithm.get_checkpointable_components

    def get_state_with_replay(
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        state: dict[str, Any] = get_state(components, not_components=not_components, **kwargs)
        if algorithm._check_component(COMPONENT_NAME, components, not_components):
            state[COMPONENT_NAME] = component.get_state()
        return state

    def get_components_with_replay() -> list[tuple[str, Checkpointable]]:
        # Last: log alpha must be restored after the learner group, whose restore rebuilds nothing but weights.
        return [*get_components(), (COMPONENT_NAME, component)]

    algorithm.get_state = get_state_with_replay
    algorithm.get_checkpointable_components = get_components_with_replay


def close_with(algorithm: Algorithm, service: ReplayService) -> None:
    """Close ``service`` when ``algorithm`` is stopped."""
    cleanup = algorithm.cleanup

    def cleanup_and_close() -> None:
        cleanup()
        service.close()

    algorithm.cleanup = cleanup_and_close


def _learner_extras(learner: Any) -> dict[str, Any]:
    alphas = learner.curr_log_alpha if isinstance(learner, SACLearner) else {}
    return {
        "log_alpha": {module_id: tensor.tolist() for module_id, tensor in alphas.items()},
        "last_target_update": dict(learner.last_update_ts_by_mid),
    }


def _restore_learner_extras(learner: Any, extras: dict[str, Any]) -> None:
    for module_id, values in extras["log_alpha"].items():
        with torch.no_grad():  # in place: the alpha optimiser holds this very tensor
            learner.curr_log_alpha[module_id].copy_(torch.tensor(values))
    learner.last_update_ts_by_mid.update(extras["last_target_update"])
