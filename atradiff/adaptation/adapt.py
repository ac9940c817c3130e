"""The update of a diffuser on what the agent lived through (ATraDiff, section 4.3)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atradiff.adaptation.config import AdaptationConfig
from atradiff.adaptation.feed import PickedWindows, WindowFeed
from atradiff.adaptation.material import RehearsalMaterial
from atradiff.adaptation.report import AdaptationReport
from atradiff.adaptation.windows import WindowPool
from atradiff.config import FitConfig, require
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.generator import TrajectoryDiffuser
from atradiff.guidance import curiosity, guide_scores
from atradiff.schedule import learning_rate_share
from atradiff.staging import write_text
from atradiff.trainer import OfflineMaterial, Trainer, WindowDraws
from atradiff.training_state import STATE_FILE, Progress, fill_trainer, load_state, save_state, state_tensors
from atradiff.types import FloatArray
from atradiff.weights import first_not_finite

_logger = logging.getLogger(__name__)

_NEWEST = 512
"""Rows from which the newest windows are taken, to measure drift on."""

_WARMUP_STEPS = 10

Weights = dict[str, NDArray[Any]]


@dataclass
class _Ledger:
    """What is known beside the weights."""

    number: int = 0
    env_steps: int = 0
    accepted: int = 0
    rollbacks: int = 0
    steps: int = 0
    version: int = 0
    fitted_loss: float = float("nan")
    drift_reference: float = float("nan")


class Adapter:
    """A copy of a diffuser that goes on learning: raw weights, their average, optimisers, and offline data to rehearse.

    The same model, data, settings, seed and windows give the same versions, where updates are counted in steps.
    """

    def __init__(
        self,
        model: TrajectoryDiffuser,
        data: Trajectories,
        config: AdaptationConfig,
        seed: int,
        training_state: Path | None = None,
    ) -> None:
        """``data`` are offline episodes of the model's spaces. ``training_state`` is the file of the model's own fit:
        its raw weights and optimisers go on; without it both start from the model's weights.

        Raises ``ValueError`` for data of another task, and for a state of another model.
        """
        data.spaces.require_equal(model.spaces, "the offline data of the adaptation", "the model")
        self._task = _task(model, data)
        self.config, self.seed = config, seed
        train, held_out = model.provenance.split(data)
        if train is None:
            _logger.warning(
                "The model was not fitted on just these data: forgetting is measured on some of all of them."
            )
            train, held_out = data.split(config.held_out, seed)
        scores = guide_scores(train, model.config, lambda: curiosity(model.dynamics, train, model.config))
        self._offline = OfflineMaterial(train, model.config, scores)
        self._held_out = _measurable(held_out, train, model.config.lengths)
        fit = _fit_settings(config, model.precision, seed)
        self._trainer = Trainer(self._offline, model.codec, model.config, fit, model.device)
        _start_from(self._trainer, model, training_state)
        self._ledger = _Ledger(version=model.version, fitted_loss=self.loss(self._held_out))
        self._ledger.drift_reference = self._ledger.fitted_loss

    @classmethod
    def open(
        cls,
        folder: Path,
        data: Trajectories,
        config: AdaptationConfig,
        seed: int,
        *,
        task: Sequence[float] | None = None,
        device: str = "auto",
    ) -> Adapter:
        """From a model folder, with the training state of the fit where the folder has one; ``task`` is the agent's,
        for a model of tasks."""
        state = folder / STATE_FILE
        model = TrajectoryDiffuser.from_pretrained(folder, device=device)
        model.tell_task(task)
        return cls(model, data, config, seed, state if state.is_file() else None)

    @property
    def version(self) -> int:
        """Of the current weights: the model's own, plus one for each accepted update."""
        return self._ledger.version

    @property
    def number(self) -> int:
        """Attempts at an update so far."""
        return self._ledger.number

    @property
    def env_steps(self) -> int:
        """Of the last attempt."""
        return self._ledger.env_steps

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the windows that it learns from."""
        return self._offline.windows.lengths

    @property
    def updates(self) -> int:
        """Attempts whose result is kept."""
        return self._ledger.accepted

    @property
    def rollbacks(self) -> int:
        """Attempts whose result was taken back."""
        return self._ledger.rollbacks

    def weights(self) -> Weights:
        """What :meth:`TrajectoryDiffuser.load_weights` takes: averaged diffuser, length estimator, one-step model."""
        state = self._trainer.networks.state_dict()
        state |= {f"diffuser.{name}": value for name, value in self._trainer.average.module.state_dict().items()}
        return {name: value.detach().to("cpu", copy=True).numpy() for name, value in state.items()}

    def adopt(self, version: int, weights: Weights) -> None:
        """Go on from weights that somebody else kept, with fresh optimisers: when this adapter lost its own state."""
        tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
        _take_weights(self._trainer, tensors)
        for optimizer in self._trainer.optimizers.values():
            optimizer.state.clear()
        self._ledger.version = version

    def renumber(self, version: int) -> None:
        """Give the weights as they are another version: the next update makes the one after it."""
        self._ledger.version = version

    def update(self, feed: WindowFeed, env_steps: int) -> AdaptationReport:
        """One attempt at an update on what ``feed`` has; it may end with the weights unchanged (see the outcome)."""
        self._ledger.number += 1
        self._ledger.env_steps = env_steps
        started = time.process_time()
        drift = self._drift(self._newest(feed)) if self.config.trigger == "drift" else float("nan")
        if drift <= self.config.drift_ratio:
            return AdaptationReport("no_drift", self.number, env_steps, self.version, drift=drift)
        batch = feed.picked(self.config.pick_up.picked, self.lengths)
        batch = replace(batch, pool=batch.scored_pool(self._trainer.config.guide).of_task(self._task))
        if len(batch.pool) < self.config.min_windows:
            return AdaptationReport(
                "too_few_windows", self.number, env_steps, self.version, len(batch.pool), drift=drift
            )
        report = self._learn(batch, env_steps, drift, started)
        if report.accepted and self.config.trigger == "drift":
            self._note_reference(self._newest(feed))
        return report

    def loss(self, windows: WindowDraws) -> float:
        """Of the weights as they are, under fixed noise (see :class:`AdaptationReport`)."""
        return self._trainer.held_out_loss(windows, self.config.networks)

    def save(self, folder: Path) -> None:
        """Write weights, optimisers and counters into ``folder`` (made if absent), ``adapter.json`` last."""
        save_state(self._trainer, Progress(self._ledger.steps), folder / "state.safetensors")
        write_text(folder / "adapter.json", json.dumps(vars(self._ledger)))

    def load(self, folder: Path) -> None:
        """Become what an adapter of the same model, data and seed saved; ``ValueError`` where that is damaged."""
        path = folder / "adapter.json"
        try:
            ledger = _Ledger(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is missing or damaged ({error}): take another checkpoint.") from error
        load_state(self._trainer, folder / "state.safetensors")
        # What is held out may be other episodes than those of the version that saved it: this model's loss is known.
        self._ledger = replace(ledger, fitted_loss=self._ledger.fitted_loss)

    def _learn(self, batch: PickedWindows, env_steps: int, drift: float, started: float) -> AdaptationReport:
        """Train, measure, and take it back where too much was forgotten."""
        ledger = self._ledger
        rng = np.random.default_rng([self.seed, 4, ledger.number])
        new, aside = batch.pool.split(self.config.held_out, rng)
        before, taken_back = (self.loss(aside), self.loss(self._held_out)), state_tensors(self._trainer)
        self._trainer.networks.dynamics.seen.widen(new.transitions())
        steps = self._train(
            RehearsalMaterial(new, self._offline, self.config.rehearsal, self._trainer.config.longest, rng)
        )
        after = (self.loss(aside), self.loss(self._held_out))
        accepted = self._bearable(after[1]) and first_not_finite(self._trainer.networks.state_dict()) is None
        if accepted:
            ledger.version += 1
            ledger.accepted += 1
        else:
            ledger.rollbacks += 1
            fill_trainer(self._trainer, taken_back)
        return AdaptationReport(
            outcome="accepted" if accepted else "rolled_back",
            number=ledger.number,
            env_steps=env_steps,
            version=ledger.version,
            windows=len(batch.pool),
            steps=steps,
            cpu_seconds=time.process_time() - started,
            new_before=before[0],
            new_after=after[0],
            held_out_before=before[1],
            held_out_after=after[1],
            held_out_fitted=ledger.fitted_loss,
            drift=drift,
            ages=batch.picked.ages,
            importance=batch.picked.importance,
        )

    def _train(self, material: RehearsalMaterial) -> int:
        """Steps until the budget is used up; returns their number."""
        self._trainer.material = material
        started, done, share = time.process_time(), 0, 0.0
        while share < 1:
            rate_share = learning_rate_share(done, share, _WARMUP_STEPS)
            self._trainer.step(self._ledger.steps, rate_share, self.config.networks)
            self._ledger.steps += 1
            done += 1
            spent = time.process_time() - started
            share = done / self.config.steps if self.config.steps else spent / (self.config.cpu_seconds or spent)
        self._trainer.material = self._offline
        return done

    def _bearable(self, held_out_loss: float) -> bool:
        limit = self.config.max_forgetting
        if not np.isfinite(held_out_loss):
            return False
        return limit is None or held_out_loss <= (1 + limit) * self._ledger.fitted_loss

    def _newest(self, feed: WindowFeed) -> WindowPool:
        return feed.newest(_NEWEST, self.lengths).of_task(self._task)

    def _drift(self, newest: WindowPool) -> float:
        """Loss on the newest windows over its reference; 0 where there is no window yet."""
        return self.loss(newest) / self._ledger.drift_reference if newest.lengths else 0.0

    def _note_reference(self, newest: WindowPool) -> None:
        self._ledger.drift_reference = max(self._ledger.fitted_loss, self.loss(newest))


Publish = Callable[[int, Weights], None]
"""Takes a new version and its weights to whoever generates."""


def _fit_settings(config: AdaptationConfig, precision: Any, seed: int) -> FitConfig:
    return FitConfig(
        steps=config.steps or 1,
        tokens_per_step=config.tokens_per_step,
        learning_rate=config.learning_rate,
        mlp_rate=config.learning_rate,
        dynamics_rate=config.dynamics_rate,
        ema_decay=config.ema_decay,
        dynamics_updates=config.dynamics_updates,
        seed=seed,
        precision=precision,
    )


def _measurable(held_out: Trajectories, train: Trajectories, lengths: tuple[int, ...]) -> WindowSampler:
    """Windows of the held-out episodes, or, where those are too short for any, of the others."""
    usable = np.any(held_out.columns.terminated) or held_out.lengths.max() >= lengths[0]
    return WindowSampler(held_out if usable else train, lengths)


def _task(model: TrajectoryDiffuser, data: Trajectories) -> FloatArray | None:
    """The agent's task, which the windows that it makes are of; None for a model that is not told of tasks."""
    size = model.config.task_size
    if size == 0:
        return None
    require(data.task_size == size, "task vectors of the offline data", data.task_size, f"must be {size} long")
    return model.own_task()


def _start_from(trainer: Trainer, model: TrajectoryDiffuser, training_state: Path | None) -> None:
    weights = {name: value.detach().clone() for name, value in model.networks.state_dict().items()}
    if training_state is None:
        _take_weights(trainer, weights)
        return
    load_state(trainer, training_state)
    for name, value in trainer.average.module.state_dict().items():
        if not torch.equal(value, weights[f"diffuser.{name}"]):
            raise ValueError(
                f"{training_state} belongs to other weights than the model beside it ({name} differs): remove it, and "
                "the adaptation starts from the model's weights."
            )


def _take_weights(trainer: Trainer, weights: dict[str, torch.Tensor]) -> None:
    trainer.networks.load_state_dict(weights)
    diffuser = {name.removeprefix("diffuser."): v for name, v in weights.items() if name.startswith("diffuser.")}
    trainer.average.module.load_state_dict(diffuser)
    trainer.average.n_averaged.fill_(10**6)  # grown up: the average no longer forgets fast
