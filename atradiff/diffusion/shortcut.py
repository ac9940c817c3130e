"""Rectified flow with the shortcut loss (Frans et al. 2024, "One Step Diffusion via Shortcut Models").

Noise is x_0, data x_1, and x_t = (1 - t) x_0 + t x_1. The network learns the velocity x_1 - x_0 for infinitesimal
steps (written d = 0) and, for d = 2^-i, the mean velocity over a step of size d: the average of two steps of half the
size, which it makes itself (equation 5 there).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork

FINEST_CALLS = 8
"""Steps of 1/8 and below count as infinitesimal: sampling takes 1-4 calls, finer steps would dilute training."""

SELF_CONSISTENT_SHARE = 0.25
"""Share of a batch trained on self-consistency (section 3.2 there)."""


def shortcut_loss(
    network: RowNetwork, target: RowNetwork, rows: Tensor, condition: Condition, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity over a batch of rows (B, K, R); ``target`` holds the EMA weights."""
    noise = torch.randn(rows.shape, generator=generator, device=rows.device)
    split = int(len(rows) * SELF_CONSISTENT_SHARE)  # none of fewer than four: there is no learning from oneself alone
    step = torch.zeros(len(rows), device=rows.device)
    step[:split] = _step_sizes(split, generator, rows.device)
    time = torch.rand(len(rows), generator=generator, device=rows.device)
    time[:split] = torch.floor(time[:split] / step[:split]) * step[:split]
    noisy = torch.lerp(noise, rows, time[:, None, None])
    velocity = rows - noise
    if split:
        velocity[:split] = _two_half_steps(target, noisy[:split], time[:split], step[:split], condition[:split])
    return (network(noisy, time, step, condition) - velocity).square().mean()


def _step_sizes(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(count,) of 1, 1/2, ... 2 / FINEST_CALLS."""
    levels = FINEST_CALLS.bit_length() - 1
    return 0.5 ** torch.randint(levels, (count,), generator=generator, device=device).float()


@torch.no_grad()
def _two_half_steps(network: RowNetwork, noisy: Tensor, time: Tensor, step: Tensor, condition: Condition) -> Tensor:
    half = step / 2
    inner = torch.where(half > 1 / FINEST_CALLS, half, 0)
    first = network(noisy, time, inner, condition)
    second = network(noisy + half[:, None, None] * first, time + half, inner, condition)
    return (first + second) / 2


def sample_shortcut(network: RowNetwork, noise: Tensor, condition: Condition, calls: int) -> Tensor:
    """Walk from noise to rows (B, K, R) in the :func:`passes` of ``calls``.

    A pass that begins before the last one's end takes its rows back there with fresh noise: multistep sampling of
    consistency models (Song et al. 2023, algorithm 1). ``noise`` (D, B, K, R) is where the first one starts, and what
    the others take, D :func:`draws` in all.
    """
    rows, reached, fresh = noise[0], 0.0, iter(noise[1:])
    for time, step in passes(calls):
        if time < reached:
            rows = torch.lerp(next(fresh), rows, time)
        size = torch.full((len(rows),), step if step > 1 / FINEST_CALLS else 0.0, device=rows.device)
        rows = rows + step * network(rows, torch.full_like(size, time), size, condition)
        reached = time + step
    return rows


def clean_estimate(time: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b), both (B,): rows x_t and velocity v speak of the clean rows a x_t + b v; b is above 0."""
    return torch.ones_like(time), (1 - time).clamp(min=torch.finfo(time.dtype).eps)  # late passes begin at 1, rounded


def passes(calls: int) -> list[tuple[float, float]]:
    """Where each call begins and how far it goes: to rows in one step or two halves, then again from 3/4, 7/8, ...

    What an early call got wrong is hidden by the noise of the next pass, where a walk straight on would keep it. Two
    calls begin with one step, so that one is left for the pass from 3/4.
    """
    first = [(0.0, 1.0)] if calls <= 2 else [(0.0, 0.5), (0.5, 0.5)]
    again = [(1 - 0.5**i, 0.5**i) for i in range(2, 2 + calls - len(first))]
    return [*first, *again]


def is_last(time: Tensor, calls: int) -> bool:
    """Whether a call at noise levels ``time`` (B,) is the last of the :func:`passes` of ``calls``."""
    return bool((time >= passes(calls)[-1][0]).all())


def draws(calls: int) -> int:
    """D, how often the :func:`passes` of ``calls`` take noise: the first one, and each that begins before the end."""
    return 1 + sum(time < before + step for (before, step), (time, _) in pairwise(passes(calls)))
