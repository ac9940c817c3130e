"""How many rows a trajectory should have: the coarse length, chosen before generation (ATraDiff, section 4.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.data.trajectories import Trajectories
from atradiff.types import IntArray


def remaining_rows(data: Trajectories, longest: int) -> IntArray:
    """(N,) rows from each row to the end of its episode, itself included, at most ``longest``.

    An episode that was cut off by a time limit would have gone on: its rows are censored and labelled ``longest``.
    """
    last = np.repeat(data.offsets[1:] - 1, data.lengths)
    remaining = np.minimum(last - np.arange(data.n_transitions) + 1, longest)
    return np.where(np.asarray(data.columns.terminated)[last], remaining, longest).astype(np.int64)


class LengthEstimator(nn.Module):
    """A classifier over 1..K_max rows; the last class means K_max or more."""

    def __init__(self, state_size: int, task_size: int, longest: int, width: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(state_size + task_size, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, longest),
        )

    def forward(self, states: Tensor, task: Tensor | None = None) -> Tensor:
        """Logits (B, K_max) from standardised states (B, S)."""
        return self.net(states if task is None else torch.cat([states, task], dim=-1))

    def loss(self, states: Tensor, remaining: Tensor, task: Tensor | None = None) -> Tensor:
        """Cross-entropy against :func:`remaining_rows`, (B,) in 1..K_max."""
        return F.cross_entropy(self(states, task), remaining - 1)

    @torch.inference_mode()
    def quantile(self, states: Tensor, level: float, task: Tensor | None = None) -> Tensor:
        """(B,) the fewest rows that suffice with probability ``level``."""
        below = self(states, task).softmax(-1).cumsum(-1) < level
        return (below.sum(-1) + 1).clamp(max=below.shape[-1])


def round_up(lengths: Tensor, allowed: tuple[int, ...]) -> Tensor:
    """The smallest allowed length that is no shorter, the longest allowed where there is none."""
    table = torch.tensor(allowed, device=lengths.device)
    return table[torch.searchsorted(table, lengths).clamp(max=len(allowed) - 1)]
