"""What RLlib's checkpoints of off-policy algorithms leave out: the replay buffer, log alpha, the random state.

RLlib ignores ``store_buffer_in_checkpoints`` on its new API stack and never saves SAC's temperature, both silently.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.sac.sac_learner import SACLearner
from ray.rllib.utils.checkpoints import Checkpointable

from atradiff.replay.mixed import MixedReplay

COMPONENT_NAME = "atradiff_replay"
_LEARNER_FILE = "learner.json"
_TORCH_RNG_FILE = "torch_rng.npy"


class ReplayCheckpoint(Checkpointable):
    """Saves and restores a :class:`MixedReplay` and what RLlib forgets of the learner that feeds on it.

    Files (npy and JSON) are written under a temporary name and renamed. The rows are never part of ``get_state``: a
    million of them would pass through pickle.
    """

    def __init__(self, replay: MixedReplay, learner: Any) -> None:
        self._replay = replay
        self._learner = learner

    def save_to_path(
        self,
        path: str | Path | None = None,
        *,
        state: Any = None,  # noqa: ARG002  (all that counts lies in files)
        filesystem: pyarrow.fs.FileSystem | None = None,
        use_msgpack: bool = False,  # noqa: ARG002
    ) -> str:
        target = Path(tempfile.mkdtemp()) / COMPONENT_NAME if path is None else Path(path)
        if _is_local(filesystem):
            self._save_local(target)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                self._save_local(Path(scratch) / COMPONENT_NAME)
                pyarrow.fs.copy_files(
                    str(Path(scratch) / COMPONENT_NAME), target.as_posix(), destination_filesystem=filesystem
                )
        return str(target)

    def restore_from_path(
        self,
        path: str | Path,
        *,
        component: str | None = None,  # noqa: ARG002  (there are no parts)
        filesystem: pyarrow.fs.FileSystem | None = None,
        **_: Any,
    ) -> None:
        if _is_local(filesystem):
            self._load_local(Path(path))
            return
        with tempfile.TemporaryDirectory() as scratch:
            pyarrow.fs.copy_files(Path(path).as_posix(), scratch, source_filesystem=filesystem)
            self._load_local(Path(scratch))

    def get_state(
        self,
        components: str | Collection[str] | None = None,  # noqa: ARG002
        *,
        not_components: str | Collection[str] | None = None,  # noqa: ARG002
        **_: Any,
    ) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to do: see :meth:`get_state`."""

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self._replay, self._learner), {}

    def _save_local(self, target: Path) -> None:
        staged = target.with_name(f".{target.name}.partial")
        shutil.rmtree(staged, ignore_errors=True)
        self._replay.save(staged)
        (staged / _LEARNER_FILE).write_text(json.dumps(_learner_extras(self._learner)))
        np.save(staged / _TORCH_RNG_FILE, torch.get_rng_state().numpy())
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)

    def _load_local(self, folder: Path) -> None:
        self._replay.load(folder)
        _restore_learner_extras(self._learner, json.loads((folder / _LEARNER_FILE).read_text()))
        torch.set_rng_state(torch.from_numpy(np.load(folder / _TORCH_RNG_FILE, allow_pickle=False)))


def add_to_checkpoints(algorithm: Algorithm, component: ReplayCheckpoint) -> None:
    """Make ``component`` a part of ``algorithm``'s checkpoints, whichever of RLlib's ways they are written in."""
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


def _is_local(filesystem: pyarrow.fs.FileSystem | None) -> bool:
    return filesystem is None or isinstance(filesystem, pyarrow.fs.LocalFileSystem)
