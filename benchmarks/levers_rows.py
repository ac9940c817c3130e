"""Probes of :mod:`benchmarks.levers_probes` that change what rows hold, how they are seen or how errors count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.config import DiffuserConfig
from atradiff.data.normalize import DecodedRows, DifferenceRows, RowCodec, inverse
from atradiff.data.windows import Windows
from atradiff.diffusion import shortcut
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.sample import _walk
from atradiff.diffusion.transformer import RowTransformer
from atradiff.generator import Networks
from atradiff.types import FloatArray


class TwoHeadedRows(DifferenceRows):
    """Rows that hold the displacement from s_1, too, in units of the states' scale: (a, r, s' - s, s' - s_1, d)."""

    @property
    def row_size(self) -> int:
        """R = A + 1 + 2 S + 1."""
        return super().row_size + self.spaces.observation_size

    def encode(self, windows: Windows) -> FloatArray:
        """See :class:`RowCodec`."""
        rows = super().encode(windows)
        moved = (windows.states[:, 1:] - windows.states[:, :1]) * inverse(self.normalizer.state_scale)
        return np.concatenate([rows[..., :-1], moved, rows[..., -1:]], axis=-1).astype(np.float32)

    def decode(self, states: FloatArray, rows: FloatArray) -> DecodedRows:
        """See :class:`RowCodec`; the states are those of :func:`merged`."""
        columns, scale = self.state_columns, torch.from_numpy(self.delta_to_state)
        path = F.pad(merged(torch.from_numpy(rows), columns, scale), (0, 0, 1, 0))
        deltas = torch.diff(path, dim=1).numpy() * inverse(self.delta_to_state)
        return super().decode(states, np.concatenate([rows[..., : columns.start], deltas, rows[..., -1:]], axis=-1))


class TwoHeadedTransformer(RowTransformer):
    """Sees the states that both heads of the noisy rows tell together."""

    def _tokens(self, rows: Tensor, states: Tensor) -> Tensor:
        path = F.pad(merged(rows, self.state_columns, self.delta_to_state)[:, :-1], (0, 0, 1, 0))
        implied = (states[:, None] + path).clamp(-10, 10)
        with torch.autocast(rows.device.type, enabled=False):
            return cast(Tensor, self.embed(torch.cat([rows, implied], dim=-1))) + self.position[: rows.shape[1]]


def merged(rows: Tensor, columns: slice, scale: Tensor) -> Tensor:
    """(B, K, S) displacements from s_1 in units of the states' scale, by least squares over both heads of ``rows``.

    Both heads count by their units, as if errors were alike in them: slow moves follow the displacements, fast ones the
    differences. ``scale`` (S,) is what a difference of one moves a standardised state by.
    """
    deltas, moved = rows[..., columns].float(), rows[..., columns.stop : 2 * columns.stop - columns.start].float()
    with torch.autocast(rows.device.type, enabled=False):  # eight bits are too few for states
        of_moved, of_deltas = _smoother(rows.shape[1], tuple(scale.tolist()))
        return torch.einsum("skj,bjs->bks", of_moved, moved) + torch.einsum("skj,bjs->bks", of_deltas, deltas)


@lru_cache
def _smoother(length: int, scale: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """(S, K, K) each: x = P m + Q d is where |x - m|^2 + |(x_k - x_{k-1}) / scale - d|^2 is least."""
    step = torch.eye(length) - torch.diag(torch.ones(length - 1), -1)
    moved, deltas = [], []
    for size in scale:
        by = step / size if size > 0 else torch.zeros_like(step)  # a column that never moves: neither head says so
        inverted = torch.linalg.inv(torch.eye(length) + by.T @ by)
        moved.append(inverted * (size > 0))
        deltas.append(inverted @ by.T)
    return torch.stack(moved), torch.stack(deltas)


class TrigonometricTransformer(RowTransformer):
    """Sees sines and cosines of the implied states in their own units, too: what physics makes of angles in radians."""

    mean: Tensor
    spread: Tensor

    def __init__(self, row_size: int, state_columns: slice, delta_to_state: Tensor, *rest: Any, **named: Any) -> None:
        super().__init__(row_size, state_columns, delta_to_state, *rest, **named)
        self.embed = nn.Linear(row_size + 3 * len(delta_to_state), self.position.shape[1])
        self.register_buffer("mean", torch.zeros_like(delta_to_state), persistent=False)
        self.register_buffer("spread", torch.ones_like(delta_to_state), persistent=False)

    def _tokens(self, rows: Tensor, states: Tensor) -> Tensor:
        following = torch.cumsum(rows[:, :-1, self.state_columns] * self.delta_to_state, dim=1)
        implied = (states[:, None] + F.pad(following, (0, 0, 1, 0))).clamp(-10, 10)
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
    """(B, K, R) of unit variance, whose ``size`` state columns take back ``share`` of the row before.

    So the noise of differences does not add up along a window to a noise of states that hides them.
    """
    columns = noise[..., -size - 1 : -1]
    before = F.pad(columns[:, :-1], (0, 0, 1, 0))
    blue = (columns - share * before) / (1 + share**2) ** 0.5
    return torch.cat([noise[..., : -size - 1], blue, noise[..., -1:]], dim=-1)
