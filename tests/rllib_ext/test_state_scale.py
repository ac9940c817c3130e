"""States with mean 0 and spread 1 before actor and critics, against networks that are fed such states."""

from __future__ import annotations

import copy

import numpy as np
import torch

from rllib_ext.ensemble_sac.networks import CriticEnsemble, GaussianActor
from rllib_ext.ensemble_sac.state_scale import StateScale, moments_of, take_scales

S, A = 4, 2


def states(n: int = 500) -> torch.Tensor:
    """A height, a velocity, a goal that stands still, a count."""
    g = torch.Generator().manual_seed(0)
    height, velocity = 1 + 0.1 * torch.randn(n, generator=g), 8 * torch.randn(n, generator=g)
    return torch.stack([height, velocity, torch.full((n,), 3.0), torch.arange(n).float()], dim=1)


def test_every_column_that_moves_has_mean_0_and_spread_1() -> None:
    scale = StateScale(S)
    torch.testing.assert_close(scale(states()[:9]), states()[:9])  # before anything was learned
    halves = states()[::2], states()[1::2]
    scale.take((moments_of(halves[0]) + moments_of(halves[1])) / 2)
    scaled = scale(states()).numpy()
    np.testing.assert_allclose(scaled.mean(0), [0, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0, 1], atol=1e-5)
    moved = torch.tensor([[1.0, 0.0, 3.5, 1e9], [-1e9, 0.0, 503.0, 0.0]])
    torch.testing.assert_close(scale(moved)[:, 2], torch.tensor([0.5, 500.0]))  # it stood still: what is far for it?
    assert (scale(moved)[0, 3], scale(moved)[1, 0]) == (10, -10)


def test_actor_and_critics_read_the_scaled_states_and_their_copies_do_too() -> None:
    torch.manual_seed(0)
    raw = GaussianActor(S, A, (8,)), CriticEnsemble(S, A, 3, (8,), True)
    scaled = GaussianActor(S, A, (8,), True), CriticEnsemble(S, A, 3, (8,), True, True)
    for plain, own in zip(raw, scaled, strict=True):
        own.load_state_dict(plain.state_dict(), strict=False)
    module = torch.nn.ModuleList(scaled)
    take_scales(module, moments_of(states()))
    x, a = states()[::50], torch.zeros(10, A)
    spread = states().numpy().std(0)
    spread[2] = 1
    by_hand = torch.from_numpy((x.numpy() - states().numpy().mean(0)) / spread)
    torch.testing.assert_close(scaled[0](x), raw[0](by_hand), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scaled[1](x, a), raw[1](by_hand, a), rtol=1e-4, atol=1e-4)
    other = copy.deepcopy(GaussianActor(S, A, (8,), True))
    other.load_state_dict(scaled[0].state_dict())
    torch.testing.assert_close(other(x), scaled[0](x))
