"""Levers that are not part of the library: what was tried on the diffuser, kept so that it can be measured again.

A probe puts one of its own parts in the place of the library's while a model is fitted and judged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff import bank, fit, model_folder, trainer
from atradiff.config import DiffuserConfig
from atradiff.data.normalize import RowCodec
from atradiff.data.windows import Windows
from atradiff.diffusion import sample, shortcut, transformer
from atradiff.diffusion.conditioning import Condition, sinusoid
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.transformer import Block
from atradiff.dynamics import DynamicsEnsemble
from atradiff.generator import Networks
from atradiff.trainer import StepLosses, Trainer
from benchmarks.levers_rows import Flow, TrigonometricNetworks, TrigonometricTransformer

_TRUSTED_AFTER = 100
"""Steps after which the one-step model is heard."""

_LEVELS = 64
"""Sines and cosines of a noise level and of a step size, half of them for each."""


@contextmanager
def probing(name: str) -> Iterator[None]:
    """While it is open, models are made, fitted and sampled with the probe ``name`` of :data:`PROBES`; "" is none.

    Raises ``KeyError`` for a name that is not there.
    """
    with ExitStack() as stack:
        for where, what, part in PROBES[name]:
            stack.enter_context(patch.object(where, what, part))
        yield


class Gap:
    """How far rows (B, K, R) from s_1 (B, S), standardised, are from what one member of the one-step model expects.

    In units of the differences' scale, (B, K, S); differentiable in the rows, not in the model's weights.
    """

    def __init__(self, dynamics: DynamicsEnsemble, codec: RowCodec) -> None:
        self._dynamics, self._columns, self._actions = dynamics, codec.state_columns, codec.spaces.action_size
        bounds = torch.tensor([codec.spaces.action_low, codec.spaces.action_high])
        self._low, self._high = (dynamics.encode_actions(bound) for bound in bounds)

    def __call__(self, rows: Tensor, states: Tensor, member: int) -> Tensor:
        deltas = rows[..., self._columns].float()
        here = states[:, None] + F.pad(torch.cumsum(deltas * self._dynamics.delta_to_state, 1)[:, :-1], (0, 0, 1, 0))
        actions = rows[..., : self._actions].float().clamp(self._low, self._high)
        hidden = torch.cat([here.clamp(-10, 10), actions], dim=-1)
        net = self._dynamics.transition
        for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            hidden = F.linear(F.silu(hidden) if i else hidden, weight[member].detach().T, bias[member, 0].detach())
        return (deltas - hidden.float()) * (self._dynamics.delta_scale > 0)


class Overheard(RowNetwork):
    """A network that remembers its last call."""

    def __init__(self, network: RowNetwork) -> None:
        super().__init__()
        self.network, self.row_size = network, network.row_size
        self.call: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`."""
        out: Tensor = self.network(rows, noise, step, condition)
        self.call = (rows, noise, step, out)
        return out

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return self.network.matrices()


class ResidualTrainer(Trainer):
    """The gap of denoised rows x_t + (1 - t) v is part of the loss from t = 1/2 on, as an error of the velocity."""

    weight, rows = 0.1, 1024

    def step(self, index: int, *arguments: Any) -> StepLosses:
        """See :class:`Trainer`."""
        self._index = index
        return super().step(index, *arguments)

    def _diffuser_loss(self, network: RowNetwork, windows: Windows, generator: torch.Generator) -> Tensor:
        overheard = Overheard(network)
        loss = super()._diffuser_loss(overheard, windows, generator)
        if not torch.is_grad_enabled() or self._index < _TRUSTED_AFTER:
            return loss
        with self._autocast():
            return loss + self.weight * self._residual(overheard, windows)

    def _residual(self, network: Overheard, windows: Windows) -> Tensor:
        if network.call is None:
            raise RuntimeError("the loss did not ask the network.")
        rows, time, step, velocity = network.call
        late = torch.nonzero((time > 0.5) & (step == 0))[: self.rows // rows.shape[1], 0]
        left = (1 - time[late])[:, None, None]
        gap = self._gap(rows[late] + left * velocity[late], windows, late)
        return (gap / left.clamp(min=1 / shortcut.FINEST_CALLS)).square().mean()

    def _gap(self, rows: Tensor, windows: Windows, which: Tensor) -> Tensor:
        states = torch.as_tensor(self.codec.normalizer.states(windows.states[which.numpy(), 0]))
        dynamics = self.networks.dynamics
        gap = Gap(dynamics, self.codec)(rows, states, self._index % dynamics.models)
        return gap * ~torch.as_tensor(windows.padding[which.numpy()])[..., None]


class OwnResidualTrainer(ResidualTrainer):
    """The gap of windows that the network made itself, by way of the last of its four calls."""

    rows = 640

    def _residual(self, network: Overheard, windows: Windows) -> Tensor:
        which = torch.arange(min(self.rows // windows.rewards.shape[1], len(windows)))
        states = torch.as_tensor(self.codec.normalizer.states(windows.states[which.numpy(), 0]))
        size = (len(which), windows.rewards.shape[1], self.codec.row_size)
        condition = Condition(states, torch.full((len(which),), size[1]))
        *first, last = _straight_steps(4)
        rows = torch.randn(size, generator=torch.Generator().manual_seed(self._index))
        zeros = torch.zeros(len(which))
        with torch.no_grad():
            time = 0.0
            for step in first:
                told = zeros + (step if step > 1 / shortcut.FINEST_CALLS else 0)
                rows, time = rows + step * network.network(rows, zeros + time, told, condition), time + step
        gap = self._gap(rows + last * network.network(rows, zeros + time, zeros, condition), windows, which)
        return (gap / last).square().mean()


class InformedNetwork(RowNetwork):
    """A network whose denoised differences are moved towards what the one-step model expects of its denoised rows.

    By how much is learned: a share for each column, noise level and step size.
    """

    def __init__(self, network: RowNetwork, gap: Gap, columns: slice) -> None:
        super().__init__()
        self.network, self.row_size, self._gap, self._columns = network, network.row_size, gap, columns
        last = nn.Linear(64, columns.stop - columns.start)
        self.share = nn.Sequential(nn.Linear(_LEVELS, 64), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> InformedNetwork:
        """The average of a network asks the same one-step model."""
        other = InformedNetwork(copy.deepcopy(self.network, memo), self._gap, self._columns)
        other.share = copy.deepcopy(self.share, memo)
        return other

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`."""
        velocity: Tensor = self.network(rows, noise, step, condition)
        left = (1 - noise).clamp(min=1 / (2 * shortcut.FINEST_CALLS))[:, None, None]
        gap = self._gap(rows + left * velocity, condition.states, 0)
        levels = torch.cat([sinusoid(noise, _LEVELS // 2), sinusoid(step, _LEVELS // 2)], dim=-1)
        change = self.share(levels)[:, None].float() * gap / left
        return velocity - F.pad(change, (self._columns.start, self.row_size - self._columns.stop))

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return self.network.matrices()


class InformedNetworks(Networks):
    """Networks of which the diffuser asks the one-step model."""

    def __init__(self, config: DiffuserConfig, codec: RowCodec) -> None:
        super().__init__(config, codec)
        self.diffuser = InformedNetwork(self.diffuser, Gap(self.dynamics, codec), codec.state_columns)


class ConvolvedBlock(Block):
    """A block whose attention reads rows with their neighbours', by a depthwise convolution of three rows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.taps = nn.Parameter(torch.zeros(3, width))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        before, after = F.pad(x[:, :-1], (0, 0, 1, 0)), F.pad(x[:, 1:], (0, 0, 0, 1))
        taps = self.taps.to(x.dtype)
        return super()._attend(x + taps[0] * before + taps[1] * x + taps[2] * after, mask)


def straight(network: RowNetwork, noise: Tensor, condition: Condition, calls: int) -> Tensor:
    """In the place of :func:`atradiff.diffusion.shortcut.sample_shortcut`: one walk, without fresh noise."""
    rows, time = noise[0], 0.0
    for step in _straight_steps(calls):
        told = torch.full((len(rows),), step if step > 1 / shortcut.FINEST_CALLS else 0.0)
        rows, time = rows + step * network(rows, torch.full_like(told, time), told, condition), time + step
    return rows


def _straight_steps(calls: int) -> list[float]:
    """1; 1/2, 1/2; 1/2, 1/4, 1/4; ..."""
    halves = [0.5**i for i in range(1, calls)]
    return [*halves, halves[-1] if halves else 1.0]


def _flow(flow: Flow) -> Probe:
    return ((trainer, "shortcut_loss", flow.loss), (sample, "_walk", flow.walk))


def _networks(kind: type[Networks]) -> Probe:
    return ((trainer, "Networks", kind), (model_folder, "Networks", kind))


Probe = tuple[tuple[ModuleType, str, object], ...]
"""What takes which name's place, and where."""

PROBES: Mapping[str, Probe] = {
    "": (),
    "residual": ((fit, "Trainer", ResidualTrainer),),
    "own_residual": ((fit, "Trainer", OwnResidualTrainer),),
    "informed": _networks(InformedNetworks),
    "convolution": ((transformer, "Block", ConvolvedBlock),),
    "trigonometry": ((bank, "RowTransformer", TrigonometricTransformer), *_networks(TrigonometricNetworks)),
    "levels_on_grid": _flow(Flow(on_grid=True)),
    "levels_late": _flow(Flow(late=0.25)),
    "first_rows": _flow(Flow(first_row=1.5)),
    "moves_twice": _flow(Flow(moves=2)),
    "blue_noise": _flow(Flow(blue=0.7)),
    "straight": ((sample, "sample_shortcut", straight),),
}
"""By name."""

OF_SAMPLING = frozenset({"", "straight"})
"""Those that leave the fit as it is."""
