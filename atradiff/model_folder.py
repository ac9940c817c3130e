"""A model on disk: config.json, weights and scales as safetensors, a model card. Nothing in it is ever unpickled."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from atradiff.augment.synther import FORMAT as SYNTHER_FORMAT
from atradiff.config import DiffuserConfig, Precision
from atradiff.data.normalize import Normalizer
from atradiff.data.row_codecs import row_codec
from atradiff.generator import Calibration, Networks, Provenance, TrajectoryDiffuser
from atradiff.staging import staged_file, staged_folder, write_text
from atradiff.types import Spaces
from atradiff.weights import first_not_finite, require_finite_weights

if TYPE_CHECKING:
    from torch import nn

FORMAT = "atradiff-model-1"
PARTS = {"diffuser": "model.safetensors", "lengths": "lengths.safetensors", "dynamics": "dynamics.safetensors"}


def save_model(model: TrajectoryDiffuser, folder: Path) -> None:
    """Write ``folder``; raises ``FileExistsError`` where it exists, so that no model is overwritten by accident."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another folder or remove it first.")
    with staged_folder(folder) as staged:
        write_model_files(model, staged)


def write_model_files(model: TrajectoryDiffuser, folder: Path) -> None:
    """The files of a model, ``config.json`` last: a folder without it is not a model.

    Raises ``FloatingPointError``, before anything is written, for weights that are not finite.
    """
    require_finite_weights(model.networks, "learning_rate and dynamics_rate")
    for part, name in PARTS.items():
        write_tensors(folder / name, getattr(model.networks, part).state_dict())
    write_scales(model.codec.normalizer, folder / "normalizer.safetensors")
    write_text(folder / "README.md", model_card(model))
    write_text(folder / "config.json", json.dumps(_description(model), indent=2, allow_nan=False))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, complete or absent."""
    with staged_file(path) as staged:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, staged)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises ``ValueError`` in words where it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read as model weights ({error}). Fit the model again or copy it anew."
        ) from error


def load_model(path_or_id: str | Path, device: str, precision: Precision | None) -> TrajectoryDiffuser:
    """A model from a folder, or from the hub where no such folder exists; ``precision`` None: that of its fit."""
    folder = Path(path_or_id) if Path(path_or_id).is_dir() else _from_hub(str(path_or_id))
    description = read_description(folder)
    try:
        config = DiffuserConfig.from_json(description["config"])
        spaces = Spaces.from_json(description["spaces"])
        codec = row_codec(config.rows, spaces, read_scales(folder / "normalizer.safetensors"))
        with torch.random.fork_rng(devices=[]):  # the weights are replaced at once: nobody's random stream should move
            networks = Networks(config, codec)
        calibration = Calibration(**_measured(description["calibration"]))
        provenance = Provenance(**_measured(description["provenance"]))
        version = int(description["version"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} does not describe a model of this version: {error}.") from error
    for part, name in PARTS.items():
        fill_network(getattr(networks, part), folder / name)
    return TrajectoryDiffuser(
        config,
        codec,
        networks,
        calibration,
        provenance,
        version=version,
        device=device,
        precision=precision or provenance.fit.get("precision", "auto"),
    )


def push_model(model: TrajectoryDiffuser, repo_id: str, private: bool) -> None:
    """Upload a model folder to the hub."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        write_model_files(model, Path(folder))
        HfApi().create_repo(repo_id, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=repo_id, folder_path=folder)


def model_card(model: TrajectoryDiffuser) -> str:
    """The model's README: what it was fitted on, and how."""
    source, config, spaces = model.provenance, model.config, model.spaces
    actions = f"{spaces.n_actions} discrete actions" if spaces.discrete else f"{spaces.action_size} continuous actions"
    parameters = sum(p.numel() for p in model.networks.diffuser.parameters())
    return f"""---
library_name: atradiff
tags: [reinforcement-learning, trajectory-diffusion]
---

# Trajectory diffuser for {source.env_id or "an environment without a registered name"}

Imagines trajectories of up to {config.longest} rows from a state of {spaces.observation_size} numbers with {actions}.

```python
from atradiff import TrajectoryDiffuser

diffuser = TrajectoryDiffuser.from_pretrained("this folder")
imagined = diffuser.generate(states, generator_seed=0)
```

| | |
|---|---|
| data | {source.episodes} episodes, {source.transitions} transitions, content hash `{source.data_hash}` |
| fit | {source.steps} steps, {source.cpu_seconds:.0f} CPU seconds, held-out loss {source.held_out_loss:.4f} |
| process | {config.process}, {parameters:,} parameters ({config.width} wide, {config.depth} layers) |
| network | {"a bank of " if config.generator == "bank" else ""}`{config.network}`, rows of `{config.rows}` |
| window lengths | {", ".join(map(str, config.lengths))} |
| the task ends | {model.dynamics.seen.end_in_words} |
| guide | `{config.guide}` |
| default refinement | `{config.refine}` with {config.dynamics_models} one-step models |

Fit settings: `{json.dumps(source.fit)}`
"""


def _description(model: TrajectoryDiffuser) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": model.version,
        "config": model.config.to_json(),
        "spaces": model.spaces.to_json(),
        "calibration": _finite_or_null(asdict(model.calibration)),
        "provenance": _finite_or_null(asdict(model.provenance)),
    }


def _finite_or_null(values: dict[str, Any]) -> dict[str, Any]:
    """NaN and infinity as null: JSON has neither, and here they are what a field is before anything was measured."""
    unmeasured = {k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    return {k: None if k in unmeasured else v for k, v in values.items()}


def _measured(values: dict[str, Any]) -> dict[str, Any]:
    """Without what :func:`_finite_or_null` left out, so that the fields' defaults stand."""
    return {k: v for k, v in values.items() if v is not None}


def read_description(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder; ``FileNotFoundError`` or ``ValueError`` where ``folder`` is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no model folder: it has no config.json. `atradiff fit` makes one.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}. Fit the model again or copy it anew.") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found == SYNTHER_FORMAT:
        raise ValueError(
            f"{folder} holds a SynthER model, where a trajectory diffuser is needed: runs use it with `augmentation: "
            "synther`, and `python -m benchmarks.generator` judges SynthER's rows."
        )
    if found != FORMAT:
        raise ValueError(f"{path} must have the format {FORMAT!r}, got {found!r}: it is no model of this version.")
    return description


def write_scales(normalizer: Normalizer, path: Path) -> None:
    """With what a kind of row learned before the diffuser; complete or not at all."""
    with staged_file(path) as staged:
        save_arrays(normalizer.arrays(), staged)


def read_scales(path: Path) -> Normalizer:
    """What :func:`write_scales` wrote; ``ValueError`` where it is damaged."""
    try:
        return Normalizer.from_arrays(load_arrays(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as scales ({error}). Fit the model again or copy it anew.") from error


def fill_network(network: nn.Module, path: Path) -> None:
    """Read weights into ``network``; ``ValueError`` where they are missing, damaged, not finite or of another shape."""
    tensors = read_tensors(path)
    name = first_not_finite(tensors)
    if name is not None:
        raise ValueError(f"{path} holds weights that are not finite ({name!r}): fit the model again or copy it anew.")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit config.json beside it: {error}") from error


def _from_hub(repo_id: str) -> Path:
    if Path(repo_id).is_absolute():
        raise FileNotFoundError(
            f"there is no model folder {repo_id}: `atradiff fit` makes one. On several nodes it must lie where all of "
            "them see it (generator.cache is where runs keep theirs)."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{repo_id!r} is neither a folder nor a model on the hub: {error}") from error
