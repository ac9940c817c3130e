"""What happens to a diffused window before anyone learns from it: nothing, a cut, or its actions re-rolled.

``dynamics`` output is diffused plans executed in a learned one-step model, and is called so wherever it is compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from atradiff.config import Refine
from atradiff.data.normalize import DecodedRows
from atradiff.dynamics import DynamicsEnsemble
from atradiff.types import BoolArray, FloatArray, IntArray

_CHUNK = 2048
"""Rows per pass of the one-step model: its activations stay in a CPU core's cache."""


@dataclass(frozen=True)
class Thresholds:
    """Limits calibrated on held-out data, in units of the differences' scale."""

    residual: float
    """``cut``: how far a diffused next state may lie from the one-step model's."""
    disagreement: float
    """``dynamics``: how far the ensemble's members may lie apart."""


@dataclass(frozen=True)
class Refined:
    """B windows after refinement; rows from ``lengths`` on are meaningless."""

    rows: DecodedRows
    lengths: IntArray  # (B,), each at least 1
    stopped: BoolArray  # (B,) cut by the residual, the disagreement or the data's range: not to be continued
    residual: FloatArray  # (B,) mean over kept rows of the gap between diffused and one-step next states
    left_data: BoolArray  # (B,) of those stopped, whose next state the data's range does not hold


def refine_windows(
    method: Refine, model: DynamicsEnsemble, thresholds: Thresholds, rows: DecodedRows, lengths: IntArray
) -> Refined:
    """Refine windows of ``lengths`` (B,) rows; none comes back empty."""
    if method == "none":
        nothing = np.zeros(len(lengths), np.bool_)
        return Refined(rows, lengths, nothing, np.zeros(len(lengths), np.float32), nothing)
    if method == "cut":
        return _cut(model, thresholds.residual, rows, lengths)
    return _reroll(model, thresholds.disagreement, rows, lengths)


def _cut(model: DynamicsEnsemble, limit: float, rows: DecodedRows, lengths: IntArray) -> Refined:
    """End each window before its first row whose residual exceeds ``limit``.

    Where that is row one, the one-step model's own outcome of the diffused action takes its place, as no trajectory may
    be empty.
    """
    residual = step_residuals(model, rows)
    beyond = (residual > limit) & (np.arange(residual.shape[1]) < lengths[:, None])
    stopped: BoolArray = np.any(beyond, axis=1)
    kept = np.where(stopped, np.maximum(beyond.argmax(1), 1), lengths)
    whole = _with_modelled_first(model, rows, beyond[:, 0])
    return Refined(whole, kept, stopped, _mean_over(residual, kept), np.zeros_like(stopped))


def _with_modelled_first(model: DynamicsEnsemble, rows: DecodedRows, which: BoolArray) -> DecodedRows:
    if not which.any():
        return rows
    device = model.state_mean.device
    start = torch.as_tensor(rows.states[which, 0], device=device)
    tasks = None if rows.tasks is None else torch.as_tensor(rows.tasks[which], device=device)
    step = model.predict(start, torch.as_tensor(rows.actions[which, 0], device=device), tasks)
    states, rewards, terminated = rows.states.copy(), rows.rewards.copy(), rows.terminated.copy()
    states[which, 1] = (start + step.deltas).cpu().numpy()
    rewards[which, 0] = step.rewards.cpu().numpy()
    terminated[which, 0] = step.terminated.cpu().numpy()
    return replace(rows, states=states, rewards=rewards, terminated=terminated)


def step_residuals(model: DynamicsEnsemble, rows: DecodedRows) -> FloatArray:
    """(B, K) gap between each row's next state and the one-step model's, in units of the differences' scale."""
    batch, length = rows.rewards.shape
    columns = [rows.states[:, :-1], rows.actions, rows.states[:, 1:]]
    if rows.tasks is not None:
        columns.append(np.repeat(rows.tasks[:, None], length, axis=1))
    flat = [torch.as_tensor(x.reshape(batch * length, *x.shape[2:]), device=model.state_mean.device) for x in columns]
    parts = [model.residual(*part) for part in zip(*(x.split(_CHUNK) for x in flat), strict=True)]
    return torch.cat(parts).reshape(batch, length).cpu().numpy()


def _reroll(model: DynamicsEnsemble, limit: float, rows: DecodedRows, lengths: IntArray) -> Refined:
    """Roll the actions from s_1 through the one-step model; only windows that still run are stepped.

    A window ends before the row in which the members disagree or the data's range is left, but its first row stays.
    """
    roll = _Roll(model, rows)
    wanted = torch.as_tensor(lengths, device=roll.states.device)
    alive = torch.arange(len(wanted), device=wanted.device)
    for j in range(rows.rewards.shape[1]):
        alive = alive[wanted[alive] > j]
        if not len(alive):
            break
        alive = roll.step(alive, j, limit)
    gap = roll.states.cpu().numpy()[:, 1:] - rows.states[:, 1:]
    kept = roll.lengths.cpu().numpy()
    gap = np.sqrt(np.square(gap * model.delta_inverse.cpu().numpy()).sum(-1) / model.moving)
    stopped, left = roll.stopped.cpu().numpy(), roll.left_data.cpu().numpy()
    return Refined(roll.decoded(), kept, stopped, _mean_over(gap, kept), left)


class _Roll:
    """Windows as they are re-rolled, on the model's device."""

    def __init__(self, model: DynamicsEnsemble, rows: DecodedRows) -> None:
        self._model, self._rows = model, rows
        device, shape = model.state_mean.device, rows.rewards.shape
        self.states = torch.zeros(rows.states.shape, device=device)
        self.states[:, 0] = torch.as_tensor(rows.states[:, 0], device=device)
        self.actions = torch.as_tensor(rows.actions, device=device)
        self.tasks = None if rows.tasks is None else torch.as_tensor(rows.tasks, device=device)
        self.rewards = torch.zeros(shape, device=device)
        self.terminated = torch.zeros(shape, dtype=torch.bool, device=device)
        self.stopped = torch.zeros(shape[0], dtype=torch.bool, device=device)
        self.left_data = torch.zeros_like(self.stopped)
        self.lengths = torch.zeros(shape[0], dtype=torch.int64, device=device)

    def step(self, alive: Tensor, j: int, limit: float) -> Tensor:
        """Row ``j`` of the windows ``alive``; returns those that still run."""
        tasks = None if self.tasks is None else self.tasks[alive]
        outcome = self._model.predict(self.states[alive, j], self.actions[alive, j], tasks)
        following = self.states[alive, j] + outcome.deltas
        left = self._model.leaves_data(following)
        lost = (outcome.disagreement > limit) | left
        self.stopped[alive], self.left_data[alive] = lost, left
        written = ~lost | (j == 0)
        target = alive[written]
        self.states[target, j + 1] = following[written]
        self.rewards[target, j] = outcome.rewards[written]
        self.terminated[target, j] = outcome.terminated[written]
        self.lengths[target] = j + 1
        return alive[~lost & ~outcome.terminated]

    def decoded(self) -> DecodedRows:
        states, rewards, ends = (x.cpu().numpy() for x in (self.states, self.rewards, self.terminated))
        return replace(self._rows, states=states, rewards=rewards, terminated=ends)


def _mean_over(values: FloatArray, lengths: IntArray) -> FloatArray:
    """(B,) mean of the first ``lengths`` columns."""
    real = np.arange(values.shape[1]) < lengths[:, None]
    return (np.where(real, values, 0).sum(1) / lengths).astype(np.float32)
