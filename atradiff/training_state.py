"""What training needs to go on: raw and averaged weights and the optimisers' moments, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atradiff.staging import staged_file
from atradiff.trainer import Trainer

STATE_FILE = "training/state.safetensors"
"""Where the folder of a fit keeps the state; a model folder that was only saved has none."""


@dataclass(frozen=True)
class Progress:
    """How far a fit is."""

    steps: int = 0
    cpu_seconds: float = 0.0


def save_state(trainer: Trainer, progress: Progress, path: Path) -> None:
    """Write the state, complete or not at all."""
    metadata = {"steps": str(progress.steps), "cpu_seconds": repr(progress.cpu_seconds)}
    with staged_file(path) as staged:
        save_file({name: value.cpu().contiguous() for name, value in state_tensors(trainer).items()}, staged, metadata)


def load_state(trainer: Trainer, path: Path) -> Progress:
    """Fill ``trainer`` from a state saved under the same settings; ``ValueError`` where it is damaged or another's."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({error}): start the fit anew with overwrite.") from error
    if not {"steps", "cpu_seconds"} <= metadata.keys():
        raise ValueError(f"{path} holds no state of a training: take the training/state.safetensors of a fit.")
    try:
        fill_trainer(trainer, tensors)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is of a model with other settings: {error}") from error
    return Progress(int(metadata["steps"]), float(metadata["cpu_seconds"]))


def state_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Copies of all that a step changes, by name."""
    tensors = {f"raw.{k}": v for k, v in trainer.networks.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in trainer.average.state_dict().items()}
    for name, optimizer in trainer.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": value for key, value in moments.items()}
    return {name: value.detach().clone() for name, value in tensors.items()}


def fill_trainer(trainer: Trainer, tensors: Mapping[str, Tensor]) -> None:
    """Take a trainer back to where :func:`state_tensors` found it."""
    trainer.networks.load_state_dict(_under("raw.", tensors))
    trainer.average.load_state_dict(_under("average.", tensors))
    for name, optimizer in trainer.optimizers.items():
        _fill_optimizer(optimizer, _under(f"{name}.", tensors))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
