"""A policy in the learned one-step model: where its own actions lead from given states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from atradiff.data.normalize import DecodedRows
from atradiff.dynamics import DynamicsEnsemble
from atradiff.refine import Refined, Roll
from atradiff.types import ActionArray, FloatArray, SyntheticTrajectories

Choose = Callable[[FloatArray, int], ActionArray]
"""Actions, in the environment's scale, of the j-th rows in states (N, S); asked with j."""


def rollout(
    model: DynamicsEnsemble,
    limit: float,
    states: FloatArray,
    act: Choose,
    rows: int,
    tasks: FloatArray | None,
    version: int,
) -> SyntheticTrajectories:
    """Trajectories of at most ``rows`` rows from ``states`` (B, S), by the actions of ``act``.

    One ends with a terminal row, and before the row in which the members disagree by more than ``limit`` or the data's
    range is left; its first row stays, as in ``refine: dynamics``. ``tasks`` (B, T) where the model is of tasks.
    """
    roll = Roll(model, _started(model, states, rows, tasks))

    def choose(here: Tensor, j: int) -> Tensor:
        return torch.as_tensor(act(here.cpu().numpy(), j), dtype=roll.actions.dtype, device=here.device)

    wanted = torch.full((len(states),), rows, dtype=torch.int64, device=roll.states.device)
    lost_at = roll.move(wanted, limit, choose)
    return _padded(roll.refined(lost_at, np.zeros((len(states), rows), np.float32)), version)


def _started(model: DynamicsEnsemble, states: FloatArray, rows: int, tasks: FloatArray | None) -> DecodedRows:
    """Windows of which nothing but the first state is known."""
    batch, width = states.shape
    every = np.zeros((batch, rows + 1, width), np.float32)
    every[:, 0] = states
    discrete = model.spaces.discrete
    actions = np.zeros((batch, rows), np.int64) if discrete else np.zeros((batch, rows, model.spaces.action_size), "f4")
    return DecodedRows(every, actions, np.zeros((batch, rows), np.float32), np.zeros((batch, rows), np.bool_), tasks)


def _padded(refined: Refined, version: int) -> SyntheticTrajectories:
    """What was rolled past a trajectory's end becomes zero."""
    rows, lengths = refined.rows, refined.lengths
    place = np.arange(rows.rewards.shape[1] + 1)
    there = place[:-1] < lengths[:, None]
    actions = np.where(there if rows.actions.ndim == 2 else there[..., None], rows.actions, 0)
    return SyntheticTrajectories(
        observations=np.where((place <= lengths[:, None])[..., None], rows.states, np.float32(0)),
        actions=actions.astype(rows.actions.dtype),
        rewards=np.where(there, rows.rewards, np.float32(0)),
        terminated=rows.terminated & there,
        lengths=lengths,
        generator_version=version,
    )
