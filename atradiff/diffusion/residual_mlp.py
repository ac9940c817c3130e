"""SynthER's residual MLP (Lu et al. 2023), which the paper takes over for windows (ATraDiff, appendix A.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork

NARROWEST = 128
"""Width of the input projection where the input is no wider: what SynthER uses for single transitions."""

_FREQUENCIES = 8


class FourierFeatures(nn.Module):
    """(B,) numbers to (B, 17): themselves, and sines and cosines at random frequencies that stay as they are."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(_FREQUENCIES))
        self.size = 1 + 2 * _FREQUENCIES

    def forward(self, values: Tensor) -> Tensor:
        """(B, size) the values (B,), then their sines, then their cosines."""
        angles = 2 * math.pi * values[:, None] * self.frequencies
        return torch.cat([values[:, None], angles.sin(), angles.cos()], dim=-1)


class ResidualMLP(RowNetwork):
    """A window as one flat vector through x + Linear(relu(x)) blocks; windows shorter than ``longest`` are padded.

    The condition is appended to the window. Both are projected before noise level, step and length are added, to
    max(128, K R + S + task) columns: SynthER's 128 hold its transitions, but of a window of 25 rows of Hopper (411
    numbers) they would lose most before the first layer.
    """

    def __init__(
        self, row_size: int, state_size: int, longest: int, width: int, depth: int, task_size: int = 0
    ) -> None:
        super().__init__()
        self.row_size, self.longest = row_size, longest
        inputs = longest * row_size + state_size + task_size
        projected = max(NARROWEST, inputs)
        self.project = nn.Linear(inputs, projected)
        self.noise, self.step = _level_encoder(projected), _level_encoder(projected)
        self.length = nn.Embedding(longest + 1, projected)
        self.widen = nn.Linear(projected, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.head = nn.Linear(width, longest * row_size)
        nn.init.zeros_(self.length.weight)

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`; rows past a window's own length are not seen."""
        length = rows.shape[1]
        real = torch.arange(length, device=rows.device) < condition.lengths[:, None]
        flat = F.pad(rows * real[..., None], (0, 0, 0, self.longest - length)).flatten(1)
        parts = [flat, condition.states] if condition.task is None else [flat, condition.states, condition.task]
        with torch.autocast(rows.device.type, enabled=False):  # eight bits of mantissa are too few at either end
            x = self.project(torch.cat(parts, dim=-1)) + self.noise(noise) + self.step(step)
        x = self.widen(x + self.length(condition.lengths))
        for block in self.blocks:
            x = x + block(F.relu(x))
        with torch.autocast(rows.device.type, enabled=False):
            flat = F.linear(F.relu(x).float(), self.head.weight, self.head.bias)
        return flat.view(len(rows), self.longest, self.row_size)[:, :length]

    def matrices(self) -> list[nn.Parameter]:
        """None: at 1024 columns, making an update orthogonal (Muon) costs many times what finding it does."""
        return []


def _level_encoder(width: int) -> nn.Sequential:
    features = FourierFeatures()
    return nn.Sequential(features, nn.Linear(features.size, width), nn.SiLU(), nn.Linear(width, width))
