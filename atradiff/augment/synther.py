"""SynthER (Lu et al. 2023, "Synthetic Experience Replay") as a baseline: single transitions, asked for nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from atradiff.augment.transition_rows import TransitionRows
from atradiff.config import Precision, SyntherConfig
from atradiff.diffusion.captured import CapturedNetwork
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.edm import sample_edm
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.residual_mlp import ResidualMLP
from atradiff.diffusion.sample import resolve_device, resolve_precision
from atradiff.imagine import require_finite
from atradiff.staging import staged_file, staged_folder, write_text
from atradiff.types import FloatArray, Spaces, SyntheticTrajectories

FORMAT = "atradiff-synther-1"

CHUNK = 512
"""Transitions per pass on a CPU: wide layers want more rows than a window's tokens do."""

GPU_CHUNK = 100_000
"""On a GPU, as its authors have it."""


class SyntherDiffuser:
    """A fitted SynthER. Satisfies :class:`atradiff.ports.TrajectoryGenerator`, but starts at states of its own.

    EDM preconditioning with a residual MLP of 6 layers. The sampler is Karras' algorithm 2 with 128 steps, S_churn 80,
    S_tmin 0.05, S_tmax 50 and S_noise 1.003 (:mod:`atradiff.diffusion.edm`), all as its authors publish them.
    """

    starts_at_states = False

    def __init__(
        self,
        config: SyntherConfig,
        codec: TransitionRows,
        network: ResidualMLP,
        *,
        version: int = 0,
        fit: dict[str, Any] | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.config, self.codec, self.version, self.fit = config, codec, version, fit or {}
        self.device, self.precision = resolve_device(device), precision
        self.dtype = resolve_precision(precision, self.device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.denoiser: RowNetwork = self.network
        """What sampling calls: the network, or CUDA graphs over the same weights."""

    @property
    def spaces(self) -> Spaces:
        """Of the environment that the data are from."""
        return self.codec.spaces

    def on(self, device: str, *, compiled: bool = False) -> SyntherDiffuser:
        """A copy on ``device``; ``compiled`` makes calls of its network CUDA graphs, see :class:`CapturedNetwork`."""
        network = copy.deepcopy(self.network)
        moved = SyntherDiffuser(
            self.config,
            self.codec,
            network,
            version=self.version,
            fit=self.fit,
            device=device,
            precision=self.precision,
        )
        if compiled:
            moved.denoiser = CapturedNetwork(moved.network, moved.device)
        return moved

    def generate(
        self, states: FloatArray, task: FloatArray | None = None, *, generator_seed: int
    ) -> SyntheticTrajectories:
        """As many trajectories of one row as there are ``states`` (B, S), which are not looked at otherwise.

        Raises ``ValueError`` for a task vector, as SynthER is unconditional, and ``FloatingPointError`` rather than
        return NaN.
        """
        if task is not None:
            raise ValueError("SynthER takes no task: its transitions are unconditional.")
        imagined = self.codec.decode(self._sample(len(states), generator_seed).cpu().numpy(), self.version)
        require_finite(imagined)
        return imagined

    @torch.inference_mode()
    def _sample(self, count: int, seed: int) -> Tensor:
        """(count, R) rows."""
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.arange(count).split(GPU_CHUNK if self.device.type == "cuda" else CHUNK)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return torch.cat([self._chunk(len(rows), generator) for rows in sizes])[:, 0]

    def _chunk(self, count: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn((count, 1, self.codec.row_size), generator=generator).to(self.device)
        config = self.config
        return sample_edm(
            self.denoiser, noise, unconditional(count, self.device), config.network_calls, config.solver, generator
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder (staged, then renamed); raises ``FileExistsError`` where there is one already."""
        from atradiff.model_folder import write_tensors

        path = Path(folder)
        if path.exists() and any(path.iterdir()):
            raise FileExistsError(f"{path} is not empty: choose another folder or remove it first.")
        with staged_folder(path) as staged:
            write_tensors(staged / "model.safetensors", self.network.state_dict())
            with staged_file(staged / "scales.safetensors") as file:
                save_file({"mean": self.codec.mean, "scale": self.codec.scale}, file)
            write_text(staged / "config.json", json.dumps(self._description(), indent=2, allow_nan=False))

    def _description(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": self.version,
            "config": self.config.to_json(),
            "fit": self.fit,
            "spaces": self.spaces.to_json(),
        }

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str = "auto", precision: Precision | None = None
    ) -> SyntherDiffuser:
        """Read a model folder; ``ValueError`` where it is none, or damaged. ``precision`` None: that of its fit."""
        from atradiff.model_folder import fill_network

        path = Path(folder)
        description = read_synther_description(path)
        config = SyntherConfig.from_json(description["config"])
        codec = TransitionRows(Spaces.from_json(description["spaces"]), **_read_scales(path / "scales.safetensors"))
        network = new_network(config, codec, seed=0)
        fill_network(network, path / "model.safetensors")
        return cls(
            config,
            codec,
            network,
            version=int(description["version"]),
            fit=description["fit"],
            device=device,
            precision=precision or description["fit"].get("precision", "auto"),
        )


def new_network(config: SyntherConfig, codec: TransitionRows, seed: int) -> ResidualMLP:
    """Fresh weights that depend on ``seed`` alone; nobody else's random stream moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not the GPUs' generators, as torch.manual_seed does
        return ResidualMLP(codec.row_size, 0, 1, config.width, config.depth)


def unconditional(count: int, device: torch.device) -> Condition:
    """A condition that says nothing, for ``count`` windows of one row."""
    return Condition(torch.zeros(count, 0, device=device), torch.ones(count, dtype=torch.int64, device=device))


def read_synther_description(folder: Path) -> dict[str, Any]:
    """``config.json`` of a SynthER's folder; ``ValueError`` where ``folder`` is none."""
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {folder} holds no SynthER model.") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} must have the format {FORMAT!r}, got {found!r}: it is no SynthER model.")
    return description


def _read_scales(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as scales ({error}). Fit the model again or copy it anew.") from error
