"""What RLlib's checkpoints of off-policy algorithms leave out: the replay buffer, log alpha, the random state.

RLlib ignores ``store_buffer_in_checkpoints`` on its new API stack and never saves SAC's temperature, both silently.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.sac.sac_learner import SACLearner
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.checkpoints import Checkpointable

from atradiff.ports import ReplayService
from rllib_ext.folder_component import FolderComponent
from rllib_ext.stock_learners import ask_learners

COMPONENT_NAME = "atradiff_replay"
_LEARNER_FILE = "learner.json"
_TORCH_RNG_FILE = "torch_rng.npy"
_LEARNERS_RNG_FILE = "learners_rng.npy"


def replay_component(service: ReplayService, group: LearnerGroup) -> FolderComponent:
    """The ``service`` and what RLlib forgets of the learners that feed on it, as a part of a checkpoint."""

    def save(folder: Path) -> None:
        """The replay, and what RLlib does not keep: random states, and what a learner knows besides its weights."""
        service.save(folder)
        np.save(folder / _TORCH_RNG_FILE, torch.get_rng_state().numpy())
        (folder / _LEARNER_FILE).write_text(json.dumps(ask_learners(group, _learner_extras)[0]))
        if group.is_remote:
            np.save(folder / _LEARNERS_RNG_FILE, np.stack(ask_learners(group, _torch_rng)))

    def load(folder: Path) -> None:
        """What ``save`` wrote."""
        service.load(folder)
        extras = json.loads((folder / _LEARNER_FILE).read_text())
        ask_learners(group, partial(_restore_learner_extras, extras=extras))
        torch.set_rng_state(torch.from_numpy(np.load(folder / _TORCH_RNG_FILE, allow_pickle=False)))
        if group.is_remote and (folder / _LEARNERS_RNG_FILE).exists():  # absent where the one learner was no actor
            states = np.load(folder / _LEARNERS_RNG_FILE, allow_pickle=False)
            ask_learners(group, partial(_restore_torch_rng, states=states))

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
        """RLlib's state, with the replay's unless it is not among the components asked for."""
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


def _torch_rng(learner: Learner) -> NDArray[np.uint8]:  # noqa: ARG001
    """Of the learner's process."""
    state: NDArray[np.uint8] = torch.get_rng_state().numpy()
    return state


def _restore_torch_rng(learner: Learner, states: NDArray[np.uint8]) -> None:
    """A learner that there was none of when the checkpoint was written keeps its own."""
    if learner._learner_index < len(states):
        torch.set_rng_state(torch.from_numpy(states[learner._learner_index].copy()))


def _restore_learner_extras(learner: Any, extras: dict[str, Any]) -> None:
    for module_id, values in extras["log_alpha"].items():
        with torch.no_grad():  # in place: the alpha optimiser holds this very tensor
            learner.curr_log_alpha[module_id].copy_(torch.tensor(values))
    learner.last_update_ts_by_mid.update(extras["last_target_update"])
