"""Two accounts of one path, merged: rows that hold both the differences of states and the displacements from s_1."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HeadMerge(nn.Module):
    """Where the states of windows lie by least squares over both heads of their rows.

    x_k, the displacement of state k + 1 from s_1 in units of the states' scale, is where sum (x_k - m_k)^2 +
    sum ((x_k - x_{k-1}) / c - d_k)^2 is least, with x_0 = 0, displacements m, differences d in units of their own
    scale, and c what a difference of one moves a standardised state by. Both heads count by their units, as if errors
    were alike in them: slow moves follow the displacements, fast ones the differences. Only rows of the window count;
    past its end x stays where it was. A column with c = 0 never moves.
    """

    paths: Tensor
    ends: Tensor

    def __init__(self, scale: Tensor, longest: int) -> None:
        """``scale`` (S,) is c, ``longest`` the most rows of a window."""
        super().__init__()
        self.longest = longest
        self.register_buffer("paths", _paths(scale.double(), longest).to(scale), persistent=False)
        self.register_buffer("ends", _ends(scale.double(), longest).to(scale), persistent=False)

    def forward(self, heads: Tensor, lengths: Tensor) -> Tensor:
        """(B, K, S) from ``heads`` (B, K, 2 S), differences first, of windows with ``lengths`` (B,) rows."""
        rows = heads.shape[1]
        with torch.autocast(heads.device.type, enabled=False):  # eight bits of mantissa are too few for states
            deltas, moved = F.pad(heads.float(), (0, 0, 0, self.longest - rows)).chunk(2, dim=-1)
            lengths = lengths.clamp(max=rows)
            real = torch.arange(self.longest, device=heads.device)[:, None] < lengths[:, None, None]
            told = torch.cat([moved, deltas], dim=1).where(torch.cat([real, real], dim=1), 0)
            last = torch.einsum("bsj,bjs->bs", self.ends[lengths - 1], told)
            # Past a short window's end stand still: what is then least squares of a long window is so of its rows.
            told[:, : self.longest] = torch.where(real, moved, last[:, None])
            return torch.einsum("skj,bjs->bks", self.paths[:, :rows], told)


def _paths(scale: Tensor, longest: int) -> Tensor:
    """(S, K, 2 K) that make x of m and d: (c^2 + D^T D) x = c^2 m + c D^T d, where D takes x to x_k - x_{k-1}."""
    step = torch.eye(longest, dtype=scale.dtype) - torch.diag(scale.new_ones(longest - 1), -1)
    squared = scale.square()[:, None, None] * torch.eye(longest, dtype=scale.dtype)
    known = torch.cat([squared, scale[:, None, None] * step.T], dim=-1)
    return torch.linalg.solve(squared + step.T @ step, known)


def _ends(scale: Tensor, longest: int) -> Tensor:
    """(K, S, 2 K) that make x_L of the first L rows' m and d, for each L: a Kalman filter along the rows."""
    ends, at, variance = [], scale.new_zeros(len(scale), 2 * longest), torch.zeros_like(scale)
    for row in range(longest):
        expected = variance + scale.square()
        variance = expected / (expected + 1)  # which is the gain, too: displacements have an error of one
        at = (1 - variance)[:, None] * at
        at[:, row], at[:, longest + row] = variance, (1 - variance) * scale
        ends.append(at)
    return torch.stack(ends)
