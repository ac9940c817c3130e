"""The networks of the paper's SAC: a squashed Gaussian actor and N critics that run as one batched matmul."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_ext.ensemble_sac.share import WHOLE, Share
from rllib_ext.ensemble_sac.state_scale import state_scale

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of the actor's log standard deviation, those of the SAC authors' code."""


class GaussianActor(nn.Module):
    """MLP from states to the mean and log standard deviation of the action before tanh."""

    def __init__(
        self, observation_size: int, action_size: int, hidden_sizes: Sequence[int], standardise: bool = False
    ) -> None:
        super().__init__()
        self.scale = state_scale(observation_size, standardise)
        widths = (observation_size, *hidden_sizes)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 2 * action_size))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) -> mean (B, A), log_std (B, A)."""
        mean, log_std = self.layers(self.scale(observations)).chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, observations: Tensor, generator: torch.Generator, share: Share = WHOLE) -> tuple[Tensor, Tensor]:
        """(B, S) -> actions in (-1, 1) (B, A) and their log probabilities (B,), differentiable in the weights.

        ``observations`` are the ``share`` of a batch whose noise ``generator`` draws.
        """
        mean, log_std = self(observations)
        return squash(mean, log_std, share.normal(mean.shape, generator))


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(mean + std noise) and log pi(a) (Haarnoja 2018, appendix C, eq. 21); all (B, A) -> (B, A), (B,).

    log(1 - tanh(u)^2) is written 2 (log 2 - u - softplus(-2u)), which does not lose digits at large u.
    """
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    correction = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), (gaussian - correction).sum(-1)


class CriticEnsemble(nn.Module):
    """N independent MLPs [s, a] -> 1 whose weights are stacked, so that one batched matmul serves all of them."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        n_critics: int,
        hidden_sizes: Sequence[int],
        layer_norm: bool,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.scale = state_scale(observation_size, standardise)
        widths = (observation_size + action_size, *hidden_sizes, 1)
        shapes = list(pairwise(widths))
        self.n_critics = n_critics
        self.layer_norm = layer_norm
        self.weights = nn.ParameterList([_uniform((n_critics, i, o), fan_in=i) for i, o in shapes])
        self.biases = nn.ParameterList([_uniform((n_critics, 1, o), fan_in=i) for i, o in shapes])
        norms = hidden_sizes if layer_norm else ()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(n_critics, 1, h)) for h in norms])
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(n_critics, 1, h)) for h in norms])

    def forward(self, observations: Tensor, actions: Tensor, members: Tensor | None = None) -> Tensor:
        """(B, S), (B, A) -> Q values (N, B), or (M, B) of the critics whose indices are ``members`` (M,)."""
        n = self.n_critics if members is None else len(members)
        x = torch.cat((self.scale(observations), actions), dim=-1).expand(n, -1, -1)
        last = len(self.weights) - 1
        for i in range(last + 1):
            x = torch.baddbmm(_pick(self.biases[i], members), x, _pick(self.weights[i], members))
            if i == last:
                break
            if self.layer_norm:
                x = F.layer_norm(x, x.shape[-1:])
                x = torch.addcmul(_pick(self.shifts[i], members), x, _pick(self.scales[i], members))
            x = F.relu(x, inplace=True)
        return x.squeeze(-1)


def _pick(stacked: Tensor, members: Tensor | None) -> Tensor:
    return stacked if members is None else stacked[members]


def _uniform(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    """The initial weights of ``torch.nn.Linear``, for each critic."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
