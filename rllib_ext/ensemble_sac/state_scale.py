"""States as networks read them: every column with mean 0 and spread 1, whatever its unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEAST_SPREAD = 1e-3
"""A column that varies less keeps its unit: a goal that stood still so far may move later."""

_FURTHEST = 10.0
"""In spreads: no state, however far from those that the scale was taken from, may blow up a network. A column that
stood still has no spread to tell what is far for it: it is not clipped."""

STEPS_FOLLOWED = 1_000
"""Env steps of a run after which scales no longer change: fewer, as of a small ``learning_starts``, say too little."""


class StateScale(nn.Module):
    """(x - mean) / spread by column, x - mean where a column stood still; before :meth:`take` states as they are.

    Nothing in it is trained.

    Heights and angles of a robot vary by a tenth where its joints' velocities vary by ten. Networks that read them as
    they are, all the more with LayerNorm, hardly see the height at which it falls.
    """

    mean: Tensor  # (S,)
    inverse: Tensor  # (S,)

    def __init__(self, observation_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(observation_size))
        self.register_buffer("inverse", torch.ones(observation_size))

    def forward(self, states: Tensor) -> Tensor:
        """(..., S) -> (..., S)."""
        scaled = (states - self.mean) * self.inverse
        return torch.where(self.inverse == 1, scaled, scaled.clamp(-_FURTHEST, _FURTHEST))

    def take(self, moments: Tensor) -> None:
        """Those of :func:`moments_of`, from now on."""
        mean, square = moments
        spread = (square - mean.square()).clamp(min=0).sqrt()
        moving = spread > _LEAST_SPREAD
        self.mean.copy_(mean)
        self.inverse.copy_(torch.where(moving, 1 / torch.where(moving, spread, 1), 1))


def state_scale(observation_size: int, standardise: bool) -> nn.Module:
    """A :class:`StateScale`, or what leaves states as they are."""
    return StateScale(observation_size) if standardise else nn.Identity()


def moments_of(states: Tensor) -> Tensor:
    """(2, S) in float64: the mean of ``states`` (N, S) and of their squares. Those of equal parts average."""
    exact = states.double()
    return torch.stack([exact.mean(0), exact.square().mean(0)])


def take_scales(networks: nn.Module, moments: Tensor) -> None:
    """Let all scales in ``networks`` be those of ``moments`` (2, S)."""
    for part in networks.modules():
        if isinstance(part, StateScale):
            part.take(moments)
