"""Coarse, then fine: a model plans every tenth state, another fills in the rows from one key state to the next.

A probe of what such a plan is worth for the same budget, not a generator of the library.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from atradiff.calibrate import calibrate
from atradiff.config import DiffuserConfig, FitConfig, Refine, SamplingOptions
from atradiff.data.normalize import DecodedRows, Normalizer
from atradiff.data.row_codecs import row_codec
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import Windows, WindowSampler, history_of
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.sample import sample_rows
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.imagine import Ending, imagine
from atradiff.lengths import round_up
from atradiff.refine import Thresholds
from atradiff.schedule import learning_rate_share
from atradiff.trainer import OfflineMaterial, Trainer
from atradiff.types import ActionArray, BoolArray, FloatArray, IntArray, SyntheticTrajectories
from benchmarks.horizon_probes import every_nth

KEY_ROWS = 10
"""Rows from one key state to the next."""

_KEYS_SHARE = 0.35
"""Of the budget, for the model of key states."""

_TOLD = 0.85
"""Share of training windows that are told where they end."""


@dataclass(frozen=True)
class KeyedModel:
    """Two diffusers that shared one budget."""

    keys: TrajectoryDiffuser
    rows: TrajectoryDiffuser

    def generate(
        self, states: FloatArray, *, generator_seed: int, horizon: int, length: int, refine: Refine, temperature: float
    ) -> SyntheticTrajectories:
        """Chains of ``horizon`` rows: key states first, then windows towards the next key, planned anew every
        ``length`` rows.
        """
        sparse, longest = -(-horizon // KEY_ROWS), self.keys.config.longest
        plain: SamplingOptions = {"refine": "none", "prune": "none", "temperature": temperature}
        whole: SamplingOptions = {"horizon": sparse, "length": min(longest, sparse), **plain}
        plan = self.keys.generate(states, generator_seed=generator_seed, **whole)
        model, limits = self.rows, self.rows.calibration
        thresholds = Thresholds(limits.residual_limit, limits.disagreement_limit)
        ending = Ending("none", refine, model.codec.normalizer.delta_scale, limits.noise, thresholds)
        source = _TowardsKeys(model, plan, length, temperature, generator_seed)
        return imagine(source, model.dynamics, ending, model.spaces, states, horizon, chained=True, version=0)[0]


class _TowardsKeys:
    """An :class:`atradiff.imagine.WindowSource` that tells each window the key state that lies ahead."""

    history = 0

    def __init__(
        self, model: TrajectoryDiffuser, plan: SyntheticTrajectories, length: int, temperature: float, seed: int
    ) -> None:
        self._model, self._plan, self._length, self._temperature = model, plan, length, temperature
        self._done = np.zeros(len(plan), np.int64)
        self._generator = torch.Generator().manual_seed(seed)

    def lengths_for(self, states: FloatArray, rows: IntArray) -> tuple[IntArray, BoolArray]:  # noqa: ARG002
        """See :class:`atradiff.imagine.WindowSource`."""
        left = KEY_ROWS - self._done[rows] % KEY_ROWS
        return np.minimum(left, self._length), np.zeros(len(rows), np.bool_)

    def windows_for(
        self,
        states: FloatArray,
        lengths: IntArray,
        rows: IntArray,
        history: Windows | None,  # noqa: ARG002
    ) -> DecodedRows:
        """See :class:`atradiff.imagine.WindowSource`."""
        codec, done = self._model.codec, self._done[rows]
        left = KEY_ROWS - done % KEY_ROWS
        key = done // KEY_ROWS + 1
        at_end = self._plan.terminated[rows, self._plan.lengths[rows] - 1]
        known = key <= self._plan.lengths[rows] - at_end  # nobody knows in which row a plan's terminal state is reached
        goals = self._plan.observations[rows, np.where(known, key, 0)]
        told = codec.encode_history(way_to(states, goals, left, known, self._plan.actions[rows, :1]))
        asked = round_up(torch.as_tensor(left), self._model.config.lengths)
        condition = Condition(torch.as_tensor(codec.normalizer.states(states)), asked, history=torch.as_tensor(told))
        sampled = sample_rows(
            self._model.denoiser, self._model.config, condition, self._generator, temperature=self._temperature
        )
        self._done[rows] += lengths
        return self._model.decoder.decode(states, sampled[:, : int(lengths.max())].numpy())


class _GoalSampler(WindowSampler):
    """Windows that are told, as their history, the way to their last state."""

    def sample(self, length: int, batch: int, rng: np.random.Generator) -> Windows:
        """See :class:`WindowSampler`."""
        windows, told = super().sample(length, batch, rng), rng.random(batch) < _TOLD
        way = way_to(windows.states[:, 0], windows.states[:, -1], np.full(batch, length), told, windows.actions[:, :1])
        return replace(windows, history=way)


class _GoalMaterial(OfflineMaterial):
    """Whole episodes whose windows know where they end."""

    def __init__(self, data: Trajectories, config: DiffuserConfig) -> None:
        super().__init__(data, config)
        self.windows = _GoalSampler(data, config.lengths)


def way_to(states: FloatArray, goals: FloatArray, rows: IntArray, known: BoolArray, actions: ActionArray) -> Windows:
    """The way to ``goals`` (B, S), ``rows`` (B,) away, as one row of history: over the square root of ``rows``, which
    is as far as steps go that cancel out. ``actions`` (B, 1, ...) lend their shape.
    """
    near = states + (goals - states) / np.sqrt(rows, dtype=np.float32)[:, None]
    still = np.zeros((len(states), 1), np.float32)
    return history_of(np.stack([states, near], axis=1), np.zeros_like(actions), still, known[:, None])


def fit_keyed(data: Trajectories, config: DiffuserConfig, settings: FitConfig, folder: Path) -> KeyedModel:
    """Both models for the budget of ``settings`` together, kept in ``folder``, or looked up there."""
    train, held_out = data.split(settings.held_out, settings.seed)
    light = replace(config, dynamics_models=1, dynamics_width=8)  # of key states, nobody asks for dynamics
    part = replace(_part(settings, _KEYS_SHARE), held_out=0.05, dynamics_updates=1, dynamics_batch=8)
    sparse = every_nth(train, KEY_ROWS)
    keys = fit(sparse, folder / "keys", config=light, settings=part, device="cpu", quiet=True)
    if not (folder / "rows").is_dir():
        told = replace(config, history=1, width=keys.config.width, depth=keys.config.depth)
        rows = _fit_rows(train, told, _part(settings, 1 - _KEYS_SHARE))
        rows.calibration = calibrate(rows, data, held_out, settings.seed)
        rows.save_pretrained(folder / "rows")
    return KeyedModel(keys, TrajectoryDiffuser.from_pretrained(folder / "rows", device="cpu"))


def _fit_rows(train: Trajectories, config: DiffuserConfig, settings: FitConfig) -> TrajectoryDiffuser:
    codec = row_codec(config.rows, train.spaces, Normalizer.fit(train))
    trainer = Trainer(_GoalMaterial(train, config), codec, config, settings, torch.device("cpu"))
    started, step, share = time.process_time(), 0, 0.0
    while share < 1:
        trainer.step(step, learning_rate_share(step, share, settings.warmup_steps))
        step += 1
        minutes = (time.process_time() - started) / 60
        share = step / settings.steps if settings.steps else minutes / (settings.cpu_minutes or minutes)
    trainer.networks.diffuser.load_state_dict(trainer.average.module.state_dict())
    return TrajectoryDiffuser(config, codec, trainer.networks, device="cpu")


def _part(settings: FitConfig, share: float) -> FitConfig:
    if settings.steps is not None:
        return replace(settings, steps=max(round(share * settings.steps), 1))
    return replace(settings, cpu_minutes=share * (settings.cpu_minutes or 0))
