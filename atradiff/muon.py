"""Muon (Jordan 2024) that a CPU without bfloat16 can afford.

torch's own makes every update orthogonal in bfloat16. Such a CPU emulates that, and spends as long on it as on all else
in a training step. Here the same iteration runs in float32, over all matrices of one shape at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from atradiff.diffusion.sample import multiplies_bfloat16

Coefficients = tuple[float, float, float]


def muon(groups: list[dict[str, Any]], *, weight_decay: float, device: torch.device) -> torch.optim.Muon:
    """Steps as large as AdamW's, on ``groups`` of matrices; by torch's own where ``device`` multiplies bfloat16."""
    if multiplies_bfloat16(device):
        return torch.optim.Muon(groups, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return Float32Muon(groups, weight_decay=weight_decay)


class Float32Muon(torch.optim.Muon):
    """:class:`torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, in float32; takes the same state."""

    def __init__(self, groups: list[dict[str, Any]], *, weight_decay: float) -> None:
        super().__init__(groups, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient; raises ``ValueError`` for a ``closure``, which has no use."""
        if closure is not None:
            raise ValueError("Float32Muon takes no closure: compute the loss and its gradients before step().")
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                averages = [self._average(matrix) for matrix in matrices]
                gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                updates = torch._foreach_lerp(gradients, averages, group["momentum"]) if group["nesterov"] else averages
                made = orthogonal(torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))  # the size of AdamW's steps
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(made.unbind()), alpha=-rate)

    def _average(self, matrix: Tensor) -> Tensor:
        """Of its gradients so far."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average: Tensor = state["momentum_buffer"]
        return average


def orthogonal(matrices: Tensor, coefficients: Coefficients, steps: int, eps: float) -> Tensor:
    """(M, I, O) matrices with their singular values brought near one by Newton and Schulz's quintic iteration."""
    a, b, c = coefficients
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if matrices.shape[1] > matrices.shape[2] else wide
