"""Projection of windows on the learned dynamics: to a near one, in scaled units, that the one-step model agrees with.

The squared gaps ||s_{t+1} - s_t - f(s_t, a_t)||^2 of all rows are brought down over states and actions together, by a
few steps of conjugate gradients that linearise f anew each time. Started at the diffused window, such steps take the
least change first: with a linear f they end at the nearest window without a gap. No row waits for the one before, so
that all are moved at once, and no error is carried along: states stay near the plan, and actions answer those states.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from atradiff.dynamics import DynamicsEnsemble
from atradiff.linearised import Linearised

_LEAST = 1e-12
"""Added to squared lengths, which may be zero."""

_ALIKE = 1e-4
"""Two directions count as one where the squared sine of their angle is below this."""


@torch.inference_mode()
def project(
    model: DynamicsEnsemble, states: Tensor, actions: Tensor, real: Tensor, tasks: Tensor | None, steps: int
) -> tuple[Tensor, Tensor]:
    """States (B, K + 1, S) and actions (B, K, A) or (B, K), in the environment's units, after ``steps`` steps.

    s_1, columns that never move, discrete actions, actions on a bound of their space, and rows that are not ``real``
    (B, K) stay as they are; so does a window that would end up further from the model, as a wild one may have it. Each
    step asks one member, in turns, which costs a third of asking three; what they have in common is what adds up.
    """
    plan = _Plan(model, states, actions, real, tasks)
    change = last = torch.zeros(plan.free.shape, device=states.device)
    effect = torch.zeros_like(states[:, 1:])
    gap = first = plan.gap(change, 0)
    for step in range(steps):
        if step:
            gap = plan.gap(change, step % model.models)
        last, effect = _conjugate_step(gap, last, effect)
        change = plan.within_bounds(change + last)
    nearer = plan.gap(change, 0).distance < first.distance  # not where either is infinite or NaN
    return plan.changed(torch.where(nearer, change, 0))


class _Plan:
    """Windows as diffused.

    A change of them (B, K, S + A) is what is added in row t to s_{t+1}, in units of the differences' scale, and to a_t,
    in units of the actions' scale.
    """

    def __init__(
        self, model: DynamicsEnsemble, states: Tensor, actions: Tensor, real: Tensor, tasks: Tensor | None
    ) -> None:
        self._model, self._states, self._actions = model, states, actions
        self._encoded = model.encode_actions(actions)
        self._tasks = None if tasks is None else tasks[:, None].expand(-1, actions.shape[1], -1)
        self._moving = (model.delta_scale > 0) & real[..., None]
        self._low, self._high = (self._units_to(bound) for bound in self._bounds)
        # Policies leave much of their mass exactly on the bounds of their actions, where it should stay.
        inside = (self._low < 0) & (self._high > 0) & real[..., None]
        self.free = torch.cat([self._moving, inside], dim=-1)

    def gap(self, change: Tensor, member: int) -> _Gap:
        """How far the windows with ``change`` are from what one member expects."""
        shift, nudge = self._parts(change)
        states = self._shifted(shift)
        step = self._model.linearised(member, states[:, :-1], self._encoded + nudge, self._tasks)
        error = (states[:, 1:] - states[:, :-1]) * self._model.delta_inverse - step.outputs
        return _Gap(error * self._moving, step, self._moving, self.free, self._model.delta_to_state)

    def within_bounds(self, change: Tensor) -> Tensor:
        """The nearest change that keeps actions in their space."""
        shift, nudge = self._parts(change)
        return torch.cat([shift, torch.minimum(torch.maximum(nudge, self._low), self._high)], dim=-1)

    def changed(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """The windows with ``change``."""
        shift, nudge = self._parts(change)
        if self._model.spaces.discrete:
            return self._shifted(shift), self._actions
        inverse, (low, high) = self._model.action_inverse, self._bounds
        actions = self._actions + torch.where(inverse > 0, nudge / inverse, 0)
        return self._shifted(shift), torch.minimum(torch.maximum(actions, low), high)

    def _shifted(self, shift: Tensor) -> Tensor:
        return self._states + _after_the_first(shift * self._model.delta_scale)

    def _parts(self, change: Tensor) -> tuple[Tensor, Tensor]:
        size = self._states.shape[-1]
        return change[..., :size], change[..., size:]

    def _units_to(self, bound: Tensor) -> Tensor:
        """(B, K, A) from each action to ``bound``, in units of the actions' scale; none where actions never vary."""
        if self._model.spaces.discrete:
            return torch.zeros_like(self._encoded)
        return ((bound - self._actions) * self._model.action_inverse).nan_to_num(0)

    @property
    def _bounds(self) -> Tensor:
        """(2, A) lowest and highest action; (2, 0) of discrete ones."""
        spaces = self._model.spaces
        return torch.tensor([spaces.action_low, spaces.action_high], device=self._states.device)


@dataclass(frozen=True)
class _Gap:
    """s_{t+1} - s_t less what is expected, in units of the differences' scale, and how it moves with a change."""

    error: Tensor  # (B, K, S)
    step: Linearised
    moving: Tensor  # (B, K, S) bool
    free: Tensor  # (B, K, S + A) bool: what may change
    delta_to_state: Tensor  # (S,)

    @property
    def distance(self) -> Tensor:
        """(B, 1, 1) squared error of each window; NaN where a change is."""
        return _dot(self.error, self.error)

    def moved_by(self, change: Tensor) -> Tensor:
        """(B, K, S): by how much, to first order."""
        size = self.error.shape[-1]
        shift = change[..., :size]
        here = _after_the_first(shift)[:, :-1]
        inputs = [here * self.delta_to_state, change[..., size:]]
        return (shift - here - self.step.push(_padded(torch.cat(inputs, dim=-1), self.step.width))) * self.moving

    def downhill(self) -> Tensor:
        """(B, K, S + A): against the gradient of half the squared error."""
        size, actions = self.error.shape[-1], self.free.shape[-1] - self.error.shape[-1]
        pulled = self.step.pull(self.error)
        next_one = self.error + pulled[..., :size] * self.delta_to_state  # what each row says of the state it starts at
        shift = F.pad(next_one[:, 1:], (0, 0, 0, 1)) - self.error
        return torch.cat([shift, pulled[..., size : size + actions]], dim=-1) * self.free


def _conjugate_step(gap: _Gap, last: Tensor, last_effect: Tensor) -> tuple[Tensor, Tensor]:
    """The change that is best to first order, of those along the gradient and the ``last`` one, and its effect.

    Both directions have lengths of their own in each window. Keeping the last one is what makes gradients conjugate.
    """
    steepest = gap.downhill()
    effect = gap.moved_by(steepest)
    a, b, c = _dot(effect, effect) + _LEAST, _dot(effect, last_effect), _dot(last_effect, last_effect) + _LEAST
    p, q = -_dot(gap.error, effect), -_dot(gap.error, last_effect)
    determinant = a * c - b * b
    apart = determinant > _ALIKE * a * c
    first = torch.where(apart, (p * c - q * b) / determinant, p / a)
    second = torch.where(apart, (q * a - p * b) / determinant, 0)
    return first * steepest + second * last, first * effect + second * last_effect


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """(B, 1, 1) inner products over each window."""
    return (one * other).sum((1, 2), keepdim=True)


def _after_the_first(values: Tensor) -> Tensor:
    """(B, K + 1, S): zeros for s_1, then ``values`` (B, K, S)."""
    return F.pad(values, (0, 0, 1, 0))


def _padded(inputs: Tensor, width: int) -> Tensor:
    """Zeros behind the last columns, for tasks, which do not change."""
    return F.pad(inputs, (0, width - inputs.shape[-1]))
