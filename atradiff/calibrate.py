"""Limits that the fitted parts set for themselves, measured on their data and on episodes held out."""

from __future__ import annotations

import numpy as np
import torch

from atradiff.data.tasks import TaskRows
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.generator import LIMIT_TIMES, Calibration, TrajectoryDiffuser
from atradiff.pruning import kept_rows, step_similarity
from atradiff.types import ActionArray, FloatArray, IntArray, Transitions

_ROWS = 4096
_WINDOWS = 256
_KEPT = 0.99
_FALLBACK_NOISE = 0.05
"""Noise assumed where data hold terminals but no sampled window reached one."""


def calibrate(model: TrajectoryDiffuser, data: Trajectories, held_out: Trajectories, seed: int) -> Calibration:
    """Thresholds of refinement and the diffuser's noise; ``data`` are all episodes, ``held_out`` those among them.

    Trajectories end where members disagree beyond what hardly a row of all the data makes them: held-out episodes alone
    may be too few to hold the rare and hard rows (an impact, a wall) that every plan has to pass.
    """
    rng = np.random.default_rng([seed, 3])
    return Calibration(
        noise=_harmless(_standing_noise(model, held_out, rng), model, held_out, rng),
        residual_limit=float(1.5 * np.quantile(_residuals(model, *_some_rows(model, held_out, rng)), 0.9)),
        disagreement_limit=float(
            LIMIT_TIMES * np.quantile(_disagreements(model, *_some_rows(model, data, rng)), 0.999)
        ),
    )


def _some_rows(
    model: TrajectoryDiffuser, data: Trajectories, rng: np.random.Generator
) -> tuple[Transitions, FloatArray | None]:
    """Rows, and their tasks for a model that is told of them."""
    rows = rng.choice(data.n_transitions, min(_ROWS, data.n_transitions), replace=False)
    return data.columns[rows], _tasks(model, data, rows)


def _tasks(model: TrajectoryDiffuser, data: Trajectories, rows: IntArray) -> FloatArray | None:
    tasks = TaskRows.of(data) if model.config.task_size else None
    return None if tasks is None else tasks[rows]


def _residuals(model: TrajectoryDiffuser, rows: Transitions, tasks: FloatArray | None) -> FloatArray:
    columns = _tensors(model, rows.observations, rows.actions, rows.next_observations, tasks)
    return model.dynamics.residual(*columns).cpu().numpy()


def _disagreements(model: TrajectoryDiffuser, rows: Transitions, tasks: FloatArray | None) -> FloatArray:
    step = model.dynamics.predict(*_tensors(model, rows.observations, rows.actions, tasks))
    return step.disagreement.cpu().numpy()


def _tensors(model: TrajectoryDiffuser, *columns: ActionArray | None) -> list[torch.Tensor]:
    return [torch.as_tensor(x, device=model.device) for x in columns if x is not None]


def _standing_noise(model: TrajectoryDiffuser, held_out: Trajectories, rng: np.random.Generator) -> float:
    """Mean size of the steps that should be zero: those after the first terminal row of windows that hold one."""
    if not np.any(held_out.columns.terminated):
        return _FALLBACK_NOISE
    longest = model.config.longest
    near_end = np.flatnonzero(held_out.columns.terminated)[:, None] - np.arange(longest // 2 + 1)
    starts = np.intersect1d(near_end, WindowSampler(held_out, (longest,)).starts(longest))
    chosen = rng.choice(starts, _WINDOWS)
    states, tasks = held_out.columns.observations[chosen], _tasks(model, held_out, chosen)
    rows = model.diffused(states, longest, tasks, generator_seed=int(rng.integers(2**31)))
    after = np.cumsum(rows.terminated, axis=1) > 1
    steps = -step_similarity(rows.states, model.codec.normalizer.delta_scale)
    return float(steps[after].mean()) if after.any() else _FALLBACK_NOISE


def _harmless(noise: float, model: TrajectoryDiffuser, held_out: Trajectories, rng: np.random.Generator) -> float:
    """``noise``, or the share of it at which pruning leaves nearly all real windows whole that have nothing to prune.

    A poorly fitted diffuser hardly stands still; taken at its word, it would have calm stretches of real motion pruned.
    """
    longest = model.config.longest
    if not np.any(held_out.columns.terminated) and held_out.lengths.max() < longest:
        return noise
    windows = WindowSampler(held_out, (longest,)).sample(longest, _WINDOWS, rng)
    whole = windows.states[~windows.terminated.any(axis=1)]
    lengths = np.full(len(whole), longest)
    scale = model.codec.normalizer.delta_scale
    for share in (1.0, 0.5, 0.25, 0.1):
        if len(whole) == 0 or (kept_rows("gated", whole, lengths, scale, share * noise) == lengths).mean() >= _KEPT:
            return share * noise
    return 0.0
