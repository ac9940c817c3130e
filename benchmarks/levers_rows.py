"""Probes of :mod:`benchmarks.levers_probes` that change what rows hold, how they are seen or how errors count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.config import DiffuserConfig
from atradiff.data.normalize import RowCodec
from atradiff.diffusion import shortcut
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.sample import _walk
from atradiff.diffusion.transformer import RowTransformer
from atradiff.generator import Networks


class TrigonometricTransformer(RowTransformer):
    """Sees sines and cosines of the implied states in their own units, too: what physics makes of angles in radians."""

    mean: Tensor
    spread: Tensor

    def __init__(self, row_size: int, state_columns: slice, delta_to_state: Tensor, *rest: Any, **named: Any) -> None:
        super().__init__(row_size, state_columns, delta_to_state, *rest, **named)
        self.embed = nn.Linear(row_size + 3 * len(delta_to_state), self.position.shape[1])
        self.register_buffer("mean", torch.zeros_like(delta_to_state), persistent=False)
        self.register_buffer("spread", torch.ones_like(delta_to_state), persistent=False)

    def _tokens(self, rows: Tensor, condition: Condition) -> Tensor:
        following = self._following(rows, condition)[:, :-1]
        implied = torch.cat([condition.states[:, None], following], dim=1).clamp(-10, 10)
        angles = implied * self.spread + self.mean
        with torch.autocast(rows.device.type, enabled=False):
            seen = torch.cat([rows, implied, angles.sin(), angles.cos()], dim=-1)
            return cast(Tensor, self.embed(seen)) + self.position[: rows.shape[1]]


class TrigonometricNetworks(Networks):
    """Networks whose diffuser is a :class:`TrigonometricTransformer`, told of the states' units."""

    def __init__(self, config: DiffuserConfig, codec: RowCodec) -> None:
        super().__init__(config, codec)
        diffuser = cast(TrigonometricTransformer, self.diffuser)
        diffuser.mean = torch.from_numpy(codec.normalizer.state_mean)
        diffuser.spread = torch.from_numpy(codec.normalizer.state_scale)


@dataclass(frozen=True)
class Flow:
    """The shortcut loss (:mod:`atradiff.diffusion.shortcut`) with another schedule, other weights or other noise."""

    on_grid: bool = False  # noise levels are those that sampling visits, k / 8
    late: float = 0.0  # share of the draws that are moved to t = 3/4 and later
    first_row: float = 1.0  # weight of the first row over the mean; falls linearly to 2 less it
    moves: float = 1.0  # weight of the state columns
    blue: float = 0.0  # of the noise in the state columns: see :func:`blue_noise`

    def loss(
        self, network: RowNetwork, target: RowNetwork, rows: Tensor, condition: Condition, generator: torch.Generator
    ) -> Tensor:
        """In the place of :func:`atradiff.diffusion.shortcut.shortcut_loss`."""
        size = condition.states.shape[1]
        noise = blue_noise(torch.randn(rows.shape, generator=generator), size, self.blue)
        split = max(int(len(rows) * shortcut.SELF_CONSISTENT_SHARE), 1)
        step = torch.zeros(len(rows))
        step[:split] = shortcut._step_sizes(split, generator, rows.device)
        time = torch.rand(len(rows), generator=generator)
        time[:split] = torch.floor(time[:split] / step[:split]) * step[:split]
        time[split:] = self._levels(time[split:], generator)
        noisy = torch.lerp(noise, rows, time[:, None, None])
        velocity = rows - noise
        half = noisy[:split], time[:split], step[:split], condition[:split]
        velocity[:split] = shortcut._two_half_steps(target, *half)
        error = (network(noisy, time, step, condition) - velocity).square()
        return (error * self._weights(rows.shape[1], rows.shape[2], size)).mean()

    def walk(
        self, network: RowNetwork, config: DiffuserConfig, noise: Tensor, condition: Condition, *rest: Any
    ) -> Tensor:
        """In the place of the library's: from noise of the colour that was trained with."""
        return _walk(network, config, blue_noise(noise, condition.states.shape[1], self.blue), condition, *rest)

    def _levels(self, uniform: Tensor, generator: torch.Generator) -> Tensor:
        moved = torch.rand(uniform.shape, generator=generator) < self.late
        levels = torch.where(moved, 0.75 + uniform / 4, uniform)
        return torch.floor(levels * shortcut.FINEST_CALLS) / shortcut.FINEST_CALLS if self.on_grid else levels

    def _weights(self, length: int, width: int, size: int) -> Tensor:
        """(K, R) with a mean of one."""
        by_column = torch.ones(width)
        by_column[-size - 1 : -1] = self.moves
        by_row = torch.linspace(self.first_row, 2 - self.first_row, length)
        return by_row[:, None] * by_column / by_column.mean()


def blue_noise(noise: Tensor, size: int, share: float) -> Tensor:
    """(..., K, R) of unit variance, whose ``size`` state columns take back ``share`` of the row before.

    So the noise of differences does not add up along a window to a noise of states that hides them.
    """
    columns = noise[..., -size - 1 : -1]
    before = F.pad(columns[..., :-1, :], (0, 0, 1, 0))
    blue = (columns - share * before) / (1 + share**2) ** 0.5
    return torch.cat([noise[..., : -size - 1], blue, noise[..., -1:]], dim=-1)
