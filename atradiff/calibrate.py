"""Limits that the fitted parts set for themselves, measured on held-out episodes."""

from __future__ import annotations

import numpy as np
import torch

from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.generator import Calibration, TrajectoryDiffuser
from atradiff.pruning import kept_rows, step_similarity
from atradiff.types import Transitions

_ROWS = 4096
_WINDOWS = 256
_KEPT = 0.99
_FALLBACK_NOISE = 0.05
"""Noise assumed where data hold terminals but no sampled window reached one."""


def calibrate(model: TrajectoryDiffuser, held_out: Trajectories, seed: int) -> Calibration:
    """Thresholds of refinement and the diffuser's noise, from at most 4096 rows and 256 windows."""
    rng = np.random.default_rng([seed, 3])
    rows = held_out.columns[rng.choice(held_out.n_transitions, min(_ROWS, held_out.n_transitions), replace=False)]
    residual, disagreement = _one_step_spread(model, rows)
    return Calibration(
        noise=_harmless(_standing_noise(model, held_out, rng), model, held_out, rng),
        residual_limit=float(1.5 * np.quantile(residual, 0.9)),
        disagreement_limit=float(3 * np.quantile(disagreement, 0.99)),
    )


def _one_step_spread(model: TrajectoryDiffuser, rows: Transitions) -> tuple[np.ndarray, np.ndarray]:
    states, actions, following = (
        torch.as_tensor(x, device=model.device) for x in (rows.observations, rows.actions, rows.next_observations)
    )
    residual = model.dynamics.residual(states, actions, following)
    return residual.cpu().numpy(), model.dynamics.predict(states, actions).disagreement.cpu().numpy()


def _standing_noise(model: TrajectoryDiffuser, held_out: Trajectories, rng: np.random.Generator) -> float:
    """Mean size of the steps that should be zero: those after the first terminal row of windows that hold one."""
    if not np.any(held_out.columns.terminated):
        return _FALLBACK_NOISE
    longest = model.config.longest
    near_end = np.flatnonzero(held_out.columns.terminated)[:, None] - np.arange(longest // 2 + 1)
    starts = np.intersect1d(near_end, WindowSampler(held_out, (longest,)).starts(longest))
    states = held_out.columns.observations[rng.choice(starts, _WINDOWS)]
    rows = model.diffused(states, longest, generator_seed=int(rng.integers(2**31)))
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
