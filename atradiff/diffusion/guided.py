"""Classifier-free guidance (Ho & Salimans 2022): a network told of a window's score, and sampling that leans on it.

Both are networks round a network, so that processes and samplers know nothing of scores. A score is a quantile in
0..1, or NaN where it is unknown or left out: then the network is told just that, and predicts without it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork

_WAVES = 8

SCORE_FEATURES = _WAVES + 1
"""Numbers that a network is told of a score."""


def score_features(scores: Tensor) -> Tensor:
    """(B,) quantiles to (B, 9): cos(pi i q) for i = 0..7, which embeds quantiles smoothly (Dabney et al. 2018, equation
    4), and "unknown", whose weights are the learned null embedding.
    """
    known = scores.isfinite()[:, None]
    angles = math.pi * torch.arange(_WAVES, device=scores.device) * scores.nan_to_num()[:, None]
    return torch.cat([angles.cos() * known, ~known], dim=-1)


def with_some_dropped(scores: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """``scores`` (B,) with about ``share`` of them NaN: so that one network learns both predictions."""
    dropped = torch.rand(scores.shape, generator=generator, device=scores.device) < share
    return scores.masked_fill(dropped, torch.nan)


class ScoreConditioned(RowNetwork):
    """A network that reads the condition's scores as further columns of its task; without scores all are unknown."""

    def __init__(self, network: RowNetwork) -> None:
        """``network`` must have been made for a task that is ``SCORE_FEATURES`` wider."""
        super().__init__()
        self.network, self.row_size = network, network.row_size

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`."""
        scores = condition.states.new_full((len(rows),), torch.nan) if condition.scores is None else condition.scores
        told = score_features(scores)
        task = told if condition.task is None else torch.cat([condition.task, told], dim=-1)
        return self.network(rows, noise, step, replace(condition, task=task, scores=None))

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return self.network.matrices()


class Guided(RowNetwork):
    """u + scale (c - u): c is predicted with the score, u without it, both in one pass of twice the batch.

    Written for what the network predicts, velocity or denoised rows alike: both are affine in it.
    """

    def __init__(self, network: RowNetwork, scale: float) -> None:
        super().__init__()
        self.network, self.scale, self.row_size = network, scale, network.row_size

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`; the condition must have scores."""
        with_score, without = self.network(*(torch.cat([x, x]) for x in (rows, noise, step)), _twice(condition)).chunk(
            2
        )
        return without + self.scale * (with_score - without)

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return self.network.matrices()


def guided(network: RowNetwork, scale: float) -> RowNetwork:
    """What samples at ``scale``; 0 (without the score) and 1 (told of it) need no second prediction."""
    return network if scale in (0, 1) else Guided(network, scale)


def _twice(condition: Condition) -> Condition:
    """The same windows, then once more with their scores unknown."""
    count = len(condition.states)
    both = condition[torch.arange(count, device=condition.states.device).repeat(2)]
    unknown = torch.arange(2 * count, device=condition.states.device) >= count
    return replace(both, scores=None if both.scores is None else both.scores.masked_fill(unknown, torch.nan))
