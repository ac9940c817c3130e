"""What every row of a window is told: noise level, step size, the window's length, s_1 and the task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Condition:
    """The request of one batch of windows."""

    states: Tensor  # (B, S) s_1, standardised
    lengths: Tensor  # (B,) int64, real rows per window
    task: Tensor | None = None  # (B, task_size)
    scores: Tensor | None = None  # (B,) quantiles that guide, NaN where unknown; see atradiff.diffusion.guided
    history: Tensor | None = None  # (B, H, R) rows before s_1, zeros where unknown; see atradiff.diffusion.history

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        optional = (None if x is None else x[rows] for x in (self.task, self.scores, self.history))
        return Condition(self.states[rows], self.lengths[rows], *optional)


def sinusoid(values: Tensor, width: int, period: float = 1e4) -> Tensor:
    """(B,) values of order 1 to (B, width) sines and cosines (Vaswani 2017), scaled by 1000 first."""
    frequencies = torch.exp(torch.linspace(0, -1, width // 2, device=values.device) * torch.log(torch.tensor(period)))
    angles = values.float()[:, None] * 1000 * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConditionEncoder(nn.Module):
    """One vector per window, read by every block's adaptive layer norm (Peebles & Xie 2023)."""

    def __init__(self, state_size: int, task_size: int, longest: int, width: int) -> None:
        super().__init__()
        self.task_size = task_size
        self.width = width
        self.noise = nn.Linear(width, width)
        self.step = nn.Linear(width, width)
        self.length = nn.Embedding(longest + 1, width)
        self.state = nn.Sequential(nn.Linear(state_size, width), nn.SiLU(), nn.Linear(width, width))
        self.task = nn.Linear(task_size, width) if task_size else None
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """``noise`` (B,) noise level in the process's own unit, ``step`` (B,) size of the step to take; (B, width)."""
        vector = self.noise(sinusoid(noise, self.width)) + self.step(sinusoid(step, self.width))
        vector = vector + self.length(condition.lengths) + self.state(condition.states)
        if self.task is not None:
            vector = vector + self.task(condition.task)
        return self.mix(vector)
