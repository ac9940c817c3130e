"""What happens to a diffused window before anyone learns from it: nothing, a cut, a projection, or a roll.

``dynamics`` output is diffused plans executed in a learned one-step model, and is called so wherever it is compared;
``project`` output is plans moved to where that model agrees with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from atradiff.config import PROJECTION_STEPS, Refine
from atradiff.data.normalize import DecodedRows
from atradiff.diffusion.sample import GPU_CHUNK
from atradiff.dynamics import DynamicsEnsemble
from atradiff.projection import project
from atradiff.types import BoolArray, FloatArray, IntArray

_CHUNK = 2048
"""Rows per pass of the one-step model on a CPU: its activations stay in a core's cache."""

_NEVER = 1 << 40
"""A row that no window has."""


@dataclass(frozen=True)
class Thresholds:
    """Limits calibrated on held-out data, in units of the differences' scale."""

    residual: float
    """``cut``: how far a diffused next state may lie from the one-step model's."""
    disagreement: float
    """``dynamics`` and ``project``: how far the ensemble's members may lie apart."""


@dataclass(frozen=True)
class Refined:
    """B windows after refinement; rows from ``lengths`` on are meaningless."""

    rows: DecodedRows
    lengths: IntArray  # (B,), each at least 1
    stopped: BoolArray  # (B,) cut by the residual, the disagreement or the data's range: not to be continued
    residual: FloatArray  # (B,) mean over kept rows of the gap between (projected) diffused and one-step next states
    left_data: BoolArray  # (B,) of those stopped, whose next state the data's range does not hold


def refine_windows(
    method: Refine,
    model: DynamicsEnsemble,
    thresholds: Thresholds,
    rows: DecodedRows,
    lengths: IntArray,
    projection_steps: int = PROJECTION_STEPS,
) -> Refined:
    """Refine windows of ``lengths`` (B,) rows; none comes back empty."""
    if method == "none":
        nothing = np.zeros(len(lengths), np.bool_)
        return Refined(rows, lengths, nothing, np.zeros(len(lengths), np.float32), nothing)
    if method == "cut":
        return _cut(model, thresholds.residual, rows, lengths)
    if method == "project":
        return _project(model, thresholds.disagreement, rows, lengths, projection_steps)
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
    parts = [model.residual(*part) for part in zip(*(x.split(_rows_at_once(x.device)) for x in flat), strict=True)]
    return torch.cat(parts).reshape(batch, length).cpu().numpy()


def _reroll(model: DynamicsEnsemble, limit: float, rows: DecodedRows, lengths: IntArray) -> Refined:
    """Roll the actions from s_1 through the one-step model, then read rewards and terminals off the whole roll.

    A window ends before the row in which the members disagree or the data's range is left, but its first row stays.
    """
    roll = Roll(model, rows)
    lost_at = roll.move(torch.as_tensor(lengths, device=roll.states.device), limit)
    gap = roll.states.cpu().numpy()[:, 1:] - rows.states[:, 1:]
    gap = np.sqrt(np.square(gap * model.delta_inverse.cpu().numpy()).sum(-1) / model.moving)
    return roll.refined(lost_at, gap)


def _project(model: DynamicsEnsemble, limit: float, rows: DecodedRows, lengths: IntArray, steps: int) -> Refined:
    """Move states and actions towards the one-step model, then read rewards and terminals off them.

    A window ends where a re-rolled one would, and for the same reasons.
    """
    roll = Roll(model, rows)
    wanted = torch.as_tensor(lengths, device=roll.states.device)
    roll.project(wanted, steps)
    lost_at, gap = roll.inspect(wanted, limit)
    return roll.refined(lost_at, gap.cpu().numpy())


class Roll:
    """Windows as they are re-rolled or projected, on the model's device.

    Next states of a roll are needed row by row; rewards and terminals are not, and cost half as much in one pass over
    all rows. What is rolled past a terminal row is wasted, but few windows have one.
    """

    def __init__(self, model: DynamicsEnsemble, rows: DecodedRows) -> None:
        self._model, self._rows = model, rows
        device, (batch, length) = model.state_mean.device, rows.rewards.shape
        self.states = torch.zeros(rows.states.shape, device=device)
        self.states[:, 0] = torch.as_tensor(rows.states[:, 0], device=device)
        self.scaled = torch.zeros((batch, length, rows.states.shape[2]), device=device)
        self.actions = torch.as_tensor(rows.actions, device=device)
        self.tasks = None if rows.tasks is None else torch.as_tensor(rows.tasks, device=device)
        self.rewards = torch.zeros((batch, length), device=device)
        self.terminated = torch.zeros((batch, length), dtype=torch.bool, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.left_data = torch.zeros(batch, dtype=torch.bool, device=device)
        self._columns = torch.arange(length, device=device)

    def move(self, wanted: Tensor, limit: float, choose: Callable[[Tensor, int], Tensor] | None = None) -> Tensor:
        """Next states of up to ``wanted`` (B,) rows; returns the row (B,) at which each window got lost.

        ``choose`` is asked for the actions of each row in the states (N, S) that were reached; None: they are there.
        """
        lost_at = torch.full_like(wanted, _NEVER)
        alive = torch.arange(len(wanted), device=wanted.device)
        for j in range(self.rewards.shape[1]):
            alive = alive[wanted[alive] > j]
            if not len(alive):
                break
            here = self.states[alive, j]
            if choose is not None:
                self.actions[alive, j] = choose(here, j)
            moves = self._model.move(here, self.actions[alive, j], self._tasks_of(alive))
            following = here + moves.deltas
            left = self._model.leaves_data(following)
            lost = (moves.disagreement > limit) | left
            lost_at[alive[lost]], self.left_data[alive] = j, left
            written = ~lost | (j == 0)
            self.states[alive[written], j + 1] = following[written]
            self.scaled[alive[written], j] = moves.scaled[written]
            self.lengths[alive[written]] = j + 1
            alive = alive[~lost]
        return lost_at

    def project(self, wanted: Tensor, steps: int) -> None:
        """Take the diffused states, projected together with their actions over ``wanted`` (B,) rows."""
        planned, diffused = torch.as_tensor(self._rows.states, device=wanted.device), self.actions
        real, self.actions = self._columns < wanted[:, None], torch.empty_like(diffused)
        at_once = max(_rows_at_once(wanted.device) // real.shape[1], 1)
        for part in torch.arange(len(wanted), device=wanted.device).split(at_once):
            self.states[part], self.actions[part] = project(
                self._model, planned[part], diffused[part], real[part], self._tasks_of(part), steps
            )

    def inspect(self, wanted: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        """The row (B,) at which each window gets lost, and the gap (B, K) between its states and the model's."""
        gap, lost, left = (
            torch.zeros_like(self.rewards, dtype=kind) for kind in (torch.float32, torch.bool, torch.bool)
        )
        for at in self._places(wanted):
            here, following = self.states[at], self.states[at[0], at[1] + 1]
            moves = self._model.move(here, self.actions[at], self._tasks_of(at[0]))
            self.scaled[at] = (following - here) * self._model.delta_inverse
            gap[at] = ((self.scaled[at] - moves.scaled).square().sum(-1) / self._model.moving).sqrt()
            left[at] = self._model.leaves_data(following)
            lost[at] = (moves.disagreement > limit) | left[at]
        lost_at = torch.where(lost, self._columns, _NEVER).amin(1)
        self.left_data = (left & (self._columns == lost_at[:, None])).any(1)
        self.lengths = torch.minimum(wanted, lost_at.clamp(min=1))
        return lost_at, gap

    def refined(self, lost_at: Tensor, gap: FloatArray) -> Refined:
        """The windows, up to where they get lost (B,) or terminate; ``gap`` (B, K) is reported of their rows."""
        ends_at = self._read_outcomes()
        kept = torch.minimum(self.lengths, ends_at + 1).cpu().numpy()
        stopped = (lost_at <= ends_at) & (lost_at < _NEVER)
        left = stopped & self.left_data
        return Refined(self._decoded(), kept, stopped.cpu().numpy(), _mean_over(gap, kept), left.cpu().numpy())

    def _read_outcomes(self) -> Tensor:
        """Rewards and terminals of all rows that are there; returns the first terminal row (B,) of each window."""
        for at in self._places(self.lengths):
            outcomes = self._model.outcomes(self.states[at], self.actions[at], self.scaled[at], self._tasks_of(at[0]))
            self.rewards[at], self.terminated[at] = outcomes
        return torch.where(self.terminated, self._columns, _NEVER).amin(1)

    def _places(self, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(windows, rows) of the first ``lengths`` (B,) rows of each window, a chunk at a time."""
        window, row = torch.nonzero(self._columns < lengths[:, None], as_tuple=True)
        at_once = _rows_at_once(lengths.device)
        yield from zip(window.split(at_once), row.split(at_once), strict=True)

    def _decoded(self) -> DecodedRows:
        states, actions, rewards, ends = (
            x.cpu().numpy() for x in (self.states, self.actions, self.rewards, self.terminated)
        )
        return replace(self._rows, states=states, actions=actions, rewards=rewards, terminated=ends)

    def _tasks_of(self, windows: Tensor) -> Tensor | None:
        return None if self.tasks is None else self.tasks[windows]


def _rows_at_once(device: torch.device) -> int:
    return GPU_CHUNK if device.type == "cuda" else _CHUNK


def _mean_over(values: FloatArray, lengths: IntArray) -> FloatArray:
    """(B,) mean of the first ``lengths`` columns."""
    real = np.arange(values.shape[1]) < lengths[:, None]
    return (np.where(real, values, 0).sum(1) / lengths).astype(np.float32)
