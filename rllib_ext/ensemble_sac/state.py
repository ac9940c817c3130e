"""EnsembleSAC's state as a folder of safetensors, npy and JSON: everything a run needs to go on as if never stopped.

::

    weights.safetensors      actor, critics, target critics, log alpha
    optimizers.safetensors   moments and step counts of the three Adams, state of the learners' noise
    replay/                  both rings, requests, counters, random state
    metrics.json             RLlib's running statistics
    algorithm.json           counters and the run's seed; written last, so that a folder without it is not a checkpoint
"""

from __future__ import annotations

import json
import logging
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

if TYPE_CHECKING:
    from rllib_ext.ensemble_sac.algorithm import EnsembleSAC
    from rllib_ext.ensemble_sac.learner import EnsembleSACLearner

_FORMAT = 2
_WEIGHTS, _OPTIMIZERS, _REPLAY = "weights.safetensors", "optimizers.safetensors", "replay"
_METRICS, _ALGORITHM = "metrics.json", "algorithm.json"
_NOISE = "noise"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearnerState:
    """What the learners know, the same for all of them; tensors on the CPU."""

    weights: dict[str, Tensor]
    optimizers: dict[str, Tensor]
    updates: int
    weights_seq_no: int

    @classmethod
    def of(cls, learner: EnsembleSACLearner) -> LearnerState:
        """All of ``learner`` that training changes, on the CPU."""
        return cls(_weights(learner), _optimizer_tensors(learner), learner.updater.updates, learner._weights_seq_no)

    def put_into(self, learner: EnsembleSACLearner, origin: str) -> None:
        """Raises ``ValueError``, naming the ``origin``, where the learner has other weights."""
        _load_weights(learner, self.weights, origin)
        _load_optimizers(learner, dict(self.optimizers))
        learner.updater.updates = self.updates
        learner._weights_seq_no = self.weights_seq_no


def write_state(folder: Path, algorithm: EnsembleSAC) -> None:
    """Write ``algorithm`` into ``folder`` (made if absent)."""
    folder.mkdir(parents=True, exist_ok=True)
    learner = algorithm.learners.first(LearnerState.of)
    (folder / _ALGORITHM).unlink(missing_ok=True)  # a checkpoint that is being replaced is none
    save_file(learner.weights, folder / _WEIGHTS)
    save_file(learner.optimizers, folder / _OPTIMIZERS)
    algorithm.service.save(folder / _REPLAY)
    (folder / _METRICS).write_text(json.dumps(plain(algorithm.metrics.get_state())))
    counters = {
        "format": _FORMAT,
        "seed": algorithm.seed,
        "checkpoints": algorithm.checkpoints,
        "updates": learner.updates,
        "updates_forgiven": algorithm.updates_forgiven,
        "iteration": algorithm.training_iteration,
        "weights_seq_no": learner.weights_seq_no,
    }
    (folder / _ALGORITHM).write_text(json.dumps(counters))


def read_state(folder: Path, algorithm: EnsembleSAC, replay: bool = True) -> None:
    """Make ``algorithm`` what :func:`write_state` wrote; without ``replay`` its service stays as it is.

    Raises ``FileNotFoundError`` where ``folder`` is no checkpoint and ``ValueError`` where it is one of another
    configuration, or damaged.
    """
    counters = _read_counters(folder)
    learner = LearnerState(
        read_tensors(folder / _WEIGHTS),
        read_tensors(folder / _OPTIMIZERS),
        counters["updates"],
        counters["weights_seq_no"],
    )
    algorithm.learners.each(partial(_restore, state=learner, origin=str(folder)))
    algorithm.learners.updates = learner.updates
    algorithm.updates_forgiven = counters.get("updates_forgiven", 0)  # early checkpoints know of none
    if replay:
        algorithm.service.load(folder / _REPLAY)
    algorithm.seed = counters["seed"]
    algorithm.checkpoints = counters["checkpoints"]
    algorithm._iteration = counters["iteration"]
    algorithm.metrics.set_state(json.loads((folder / _METRICS).read_text()))


def _read_counters(folder: Path) -> dict[str, int]:
    if not (folder / _ALGORITHM).is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint of EnsembleSAC: it has no {_ALGORITHM}.")
    counters: dict[str, int] = json.loads((folder / _ALGORITHM).read_text())
    if counters["format"] != _FORMAT:
        raise ValueError(
            f"{folder} has format {counters['format']}, this version reads {_FORMAT}: resume with the version that "
            "wrote it."
        )
    return counters


def _restore(learner: EnsembleSACLearner, state: LearnerState, origin: str) -> None:
    state.put_into(learner, origin)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's ``file``; raises ``ValueError`` where it is missing or damaged."""
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} is missing or damaged ({error}): take another checkpoint.") from error
    return tensors


def _weights(learner: EnsembleSACLearner) -> dict[str, Tensor]:
    state = learner.module[DEFAULT_MODULE_ID].state_dict()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _load_weights(learner: EnsembleSACLearner, tensors: dict[str, Tensor], origin: str) -> None:
    own = learner.module[DEFAULT_MODULE_ID].state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise ValueError(
                f"{origin} does not fit this configuration: {name} has shape {shapes.get(name)} in the checkpoint and "
                f"{expected.get(name)} here. Resume with the same environment, n_critics, hidden_sizes, layer_norm and "
                "standardise_states."
            )
    learner.module[DEFAULT_MODULE_ID].load_state_dict(tensors)


def _optimizer_tensors(learner: EnsembleSACLearner) -> dict[str, Tensor]:
    tensors = {_NOISE: learner.updater.generator.get_state().cpu()}
    for name, optimizer in learner.named_optimizers().items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": value.cpu().contiguous() for key, value in moments.items()}
    return tensors


def _load_optimizers(learner: EnsembleSACLearner, tensors: dict[str, Tensor]) -> None:
    _go_on_with_noise(learner.updater.generator, tensors.pop(_NOISE))
    for name, optimizer in learner.named_optimizers().items():
        state: dict[int, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            owner, index, key = path.split(".")
            if owner == name:
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _go_on_with_noise(generator: torch.Generator, state: Tensor) -> None:
    """A CPU's state means nothing to a GPU's generator, nor the other way: noise goes on from a seed made of it."""
    if state.numel() == generator.get_state().numel():
        generator.set_state(state)
        return
    _logger.warning("The checkpoint is of another kind of device than %s: its noise goes on anew.", generator.device)
    generator.manual_seed(zlib.crc32(state.numpy().tobytes()))


def plain(value: Any) -> Any:
    """Python's own numbers and containers for NumPy's and torch's, as JSON wants them."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.generic | torch.Tensor):
        return value.item()
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return [plain(entry) for entry in value]
