"""What real rows have shown: the range that imagined trajectories are held to, and the box whose border ends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atradiff.data.alive_box import NO_BOUND, AliveBox, bounded, describe_box, unbounded
from atradiff.data.normalize import MOST_LEVELS, Normalizer
from atradiff.types import FloatArray, Transitions


class SeenRange(nn.Module):
    """The range of the offline data, widened by what an agent lives through later.

    Part of a model's weights, so that whoever generates with new weights also goes where their data were. Columns whose
    differences never vary in the offline data keep their difference: the networks cannot tell it otherwise.
    """

    state_low: Tensor  # (S,)
    state_high: Tensor  # (S,)
    delta_low: Tensor  # (S,) of s' - s
    delta_high: Tensor  # (S,)
    alive_low: Tensor  # (S,) the box that the task goes on in, unbounded where states do not tell its end
    alive_high: Tensor  # (S,)
    reward_levels: Tensor  # (MOST_LEVELS,) that rewards take, rising, then NO_BOUND; nothing else for a scale
    moving: Tensor  # (S,) bool

    def __init__(self, normalizer: Normalizer) -> None:
        super().__init__()
        for name in ("state_low", "state_high", "delta_low", "delta_high"):
            self.register_buffer(name, torch.tensor(getattr(normalizer, name)))
        box = (normalizer.alive_low, normalizer.alive_high)
        box = box if len(box[0]) else unbounded(len(normalizer.state_low))
        for name, value in zip(("alive_low", "alive_high"), box, strict=True):
            self.register_buffer(name, torch.tensor(value))
        self.register_buffer("reward_levels", torch.from_numpy(_padded(normalizer.reward_levels)))
        self.register_buffer("moving", torch.tensor(normalizer.delta_scale > 0), persistent=False)

    def widen(self, rows: Transitions) -> None:
        """Take in N real rows; those that are not finite in every column are passed over."""
        states = np.stack([rows.observations, rows.next_observations])
        finite = np.isfinite(states).all((0, 2))
        states = states[:, finite]
        if states.shape[1] == 0:
            return
        self._goes_on(states[1, ~rows.terminated[finite]])
        self._pays(rows.rewards[finite])
        deltas = states[1] - states[0]
        here = self.state_low.device
        seen = (torch.as_tensor(x, device=here) for x in (states.min((0, 1)), states.max((0, 1))))
        self.state_low, self.state_high = self._wider(self.state_low, self.state_high, *seen)
        steps = (torch.as_tensor(x, device=here) for x in (deltas.min(0), deltas.max(0)))
        low, high = self._wider(self.delta_low, self.delta_high, *steps)
        self.delta_low = torch.where(self.moving, low, self.delta_low)
        self.delta_high = torch.where(self.moving, high, self.delta_high)

    @property
    def tells_ends(self) -> bool:
        """Whether states tell where the task ends."""
        return bounded(self.alive_low, self.alive_high)

    def box(self) -> AliveBox | None:
        """The states in which the task goes on; None where states do not tell its end."""
        return (self.alive_low.cpu().numpy(), self.alive_high.cpu().numpy()) if self.tells_ends else None

    @property
    def end_in_words(self) -> str:
        """Where the task ends, in words: beyond bounds on states, or, where those do not tell, by the networks."""
        box = self.box()
        return "where the networks predict it" if box is None else f"where {describe_box(box)}"

    def ends(self, states: Tensor) -> Tensor:
        """(...) true where a step to ``states`` (..., S) ends the task; never, where states do not tell."""
        return ((states < self.alive_low) | (states > self.alive_high)).any(-1)

    def reach(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest states (S,) that a model may go to: half the range's width beyond it, on either side.

        The floor is for columns that never moved: a last float32 digit is no departure.
        """
        floor = 1e-3 * torch.maximum(self.state_low.abs(), self.state_high.abs())
        margin = torch.maximum(0.5 * (self.state_high - self.state_low), floor)
        return self.state_low - margin, self.state_high + margin

    def crisp(self, rewards: Tensor) -> Tensor:
        """Rewards of any shape as :meth:`Normalizer.crisp` has them."""
        levels = self.reward_levels
        nearest = levels[torch.bucketize(rewards, (levels[1:] + levels[:-1]) / 2)]
        as_they_are = rewards.isnan() | (levels[0] == NO_BOUND)  # NaN of damaged weights must not look like a level
        return torch.where(as_they_are, rewards, nearest)  # a branch would wait for the GPU

    def bounds(self) -> dict[str, FloatArray]:
        """The ranges as arrays (S,) and the reward levels, by the names of the fields of :class:`Normalizer`."""
        arrays: dict[str, FloatArray] = {name: value.cpu().numpy() for name, value in self.state_dict().items()}
        return arrays | {"reward_levels": _unpadded(arrays["reward_levels"])}

    def _goes_on(self, states: FloatArray) -> None:
        """The task went on from ``states`` (N, S): a box that holds them not, holds them from now on."""
        if len(states):
            seen = (torch.as_tensor(x, device=self.alive_low.device) for x in (states.min(0), states.max(0)))
            self.alive_low, self.alive_high = self._wider(self.alive_low, self.alive_high, *seen)

    def _pays(self, rewards: FloatArray) -> None:
        """Rewards (N,) that no level tells are new levels, until they are too many for that: then they are a scale."""
        known = _unpadded(self.reward_levels.cpu().numpy())
        if len(known):
            levels = np.union1d(known, rewards[np.isfinite(rewards)])
            padded = _padded(levels if len(levels) <= MOST_LEVELS else known[:0])
            self.reward_levels = torch.as_tensor(padded, device=self.reward_levels.device)

    @staticmethod
    def _wider(low: Tensor, high: Tensor, seen_low: Tensor, seen_high: Tensor) -> tuple[Tensor, Tensor]:
        return torch.minimum(low, seen_low), torch.maximum(high, seen_high)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Weights that were written before ranges were part of them: the range of the data stands."""
        own = {f"{prefix}{name}": value for name, value in self.state_dict().items()}
        super()._load_from_state_dict({**own, **state_dict}, prefix, *rest)


def _padded(levels: FloatArray) -> FloatArray:
    """(MOST_LEVELS,), so that weights have one shape however many levels there are."""
    missing = MOST_LEVELS - len(levels)
    return np.concatenate([levels, np.full(missing, NO_BOUND)]).astype(np.float32)


def _unpadded(levels: FloatArray) -> FloatArray:
    return levels[levels < np.float32(NO_BOUND)]
