"""From a request (states, lengths, task) to rows, by whichever process the model was fitted with."""

from __future__ import annotations

import torch
from torch import Tensor

from atradiff.config import DiffuserConfig, Precision
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.edm import sample_edm
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.shortcut import draws, sample_shortcut

CHUNK = 1_600
"""Rows per pass: activations of one pass stay in a CPU core's cache, and below what its allocator takes anew."""

GPU_CHUNK = 100_000
"""A GPU wants as many at once as a batch holds; this bounds its memory."""

DEFAULT_CALLS = {"shortcut": 4, "edm": 16}


def resolve_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the device multiplies it natively, float32 elsewhere (there it would be emulated)."""
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for it; where it has none, torch emulates it, several times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def calls_of(config: DiffuserConfig, asked: int | None) -> int:
    """Network calls per window, where ``asked`` may leave it to the model."""
    return asked or config.calls or DEFAULT_CALLS[config.process]


@torch.inference_mode()
def sample_rows(
    network: RowNetwork,
    config: DiffuserConfig,
    condition: Condition,
    generator: torch.Generator,
    calls: int | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Rows (B, max length, R) in float32, zero past a window's own length; ``generator`` draws all the noise.

    ``temperature``, one number or (R,), scales that noise: 1 samples what was learned, less stays nearer to its modes.
    """
    device, calls = condition.states.device, calls_of(config, calls)
    longest = int(condition.lengths.max())
    count = draws(calls) if config.process == "shortcut" else 1
    size = (count, len(condition.states), longest, network.row_size)
    noise = temperature * torch.randn(size, generator=generator).to(device)
    order = torch.argsort(condition.lengths, stable=True)  # equal lengths side by side: little padding per chunk
    rows = torch.zeros_like(noise[0])
    at_once = (GPU_CHUNK if device.type == "cuda" else CHUNK) // longest
    for chunk in order.split(max(at_once, 1)):
        part = condition[chunk]
        width = int(part.lengths.max())
        rows[chunk, :width] = _walk(network, config, noise[:, chunk, :width], part, calls, generator, temperature)
    real = torch.arange(longest, device=device) < condition.lengths[:, None]
    return torch.where(real[..., None], rows, 0)


def _walk(
    network: RowNetwork,
    config: DiffuserConfig,
    noise: Tensor,
    condition: Condition,
    calls: int,
    generator: torch.Generator,
    temperature: float | Tensor,
) -> Tensor:
    """Rows from ``noise`` (D, B, K, R), which is scaled by ``temperature`` already."""
    if config.process == "edm":
        return sample_edm(network, noise[0], condition, calls, config.solver, generator, temperature)
    return sample_shortcut(network, noise, condition, calls)
