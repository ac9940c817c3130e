"""Fitting SynthER: once on offline data, or beside an agent again and again (Lu et al. 2023, sections 4.1 and 4.2)."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from atradiff.augment.synther import SyntherDiffuser, new_network, unconditional
from atradiff.augment.transition_rows import TransitionRows
from atradiff.config import SyntherConfig, SyntherFit
from atradiff.diffusion.edm import edm_loss
from atradiff.diffusion.sample import resolve_device, resolve_precision
from atradiff.progress_bar import ProgressBar
from atradiff.trainer import warmed_average
from atradiff.types import FloatArray, Spaces, SyntheticTrajectories, Transitions
from atradiff.weights import require_finite_weights


def fit_synther(
    spaces: Spaces,
    transitions: Transitions,
    config: SyntherConfig,
    settings: SyntherFit,
    *,
    version: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> SyntherDiffuser:
    """Fit SynthER on ``transitions`` from scratch.

    Raises ``FloatingPointError`` where the loss, or the weights after the last step, stop being finite.
    """
    trainer = _Trainer(spaces, transitions, config, settings, resolve_device(device))
    started, share = time.process_time(), 0.0
    with ProgressBar(total=100, desc="fit SynthER", unit="%", disable=quiet) as bar:
        while share < 1:
            trainer.step(share)
            share = _share_done(settings, trainer.steps, started)
            bar.update(min(round(100 * share), 100) - bar.n)
    if trainer.steps < settings.ema_every:
        trainer.take_average()
    trainer.network.load_state_dict(trainer.average.module.state_dict())
    require_finite_weights(trainer.network, "learning_rate")
    spent = {"steps_done": trainer.steps, "cpu_seconds": time.process_time() - started, "rows": len(transitions)}
    return SyntherDiffuser(
        config,
        trainer.codec,
        trainer.network,
        version=version,
        fit=settings.to_json() | spent,
        device=device,
        precision=settings.precision,
    )


class _Trainer:
    """Network, moving average and optimiser of one fit."""

    def __init__(
        self,
        spaces: Spaces,
        transitions: Transitions,
        config: SyntherConfig,
        settings: SyntherFit,
        device: torch.device,
    ) -> None:
        self.codec, self.settings, self.device, self.steps = (
            TransitionRows.fit(spaces, transitions),
            settings,
            device,
            0,
        )
        self.rows = torch.from_numpy(self.codec.encode(transitions))[:, None]
        self.network = new_network(config, self.codec, settings.seed).to(device)
        self.average = AveragedModel(self.network, multi_avg_fn=warmed_average(settings.ema_decay))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), betas=(0.9, 0.99), weight_decay=0)
        self.precision = resolve_precision(settings.precision, device)
        self.draws = torch.Generator().manual_seed(settings.seed)
        self.noise = torch.Generator(device).manual_seed(settings.seed + 1)

    def step(self, share: float) -> None:
        """One update, ``share`` in 0..1 through the fit."""
        size, settings = self.settings.batch, self.settings
        batch = self.rows[torch.randint(len(self.rows), (size,), generator=self.draws)].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            loss = edm_loss(self.network, batch, unconditional(size, self.device), self.noise)
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        if self.steps % settings.ema_every == 0:
            _require_finite(loss.item(), self.steps)
            self.take_average()

    def take_average(self) -> None:
        """Take the weights of this moment into their average; the first ones take the place of the untrained ones."""
        self.average.update_parameters(self.network)


def _share_done(settings: SyntherFit, steps: int, started: float) -> float:
    if settings.steps is not None:
        return steps / settings.steps
    return (time.process_time() - started) / (60 * (settings.cpu_minutes or 0))


def _require_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"SynthER's fit diverged at step {step}: its loss is {loss}. Lower learning_rate, or look for extreme "
            "values in the data (atradiff data info)."
        )


class OnlineSynther:
    """SynthER beside an agent: a new model from scratch every ``retrain_every`` env steps, on all real rows so far.

    Whoever trains asks :meth:`due`, hands over the rows by :meth:`retrain`, and then drops the synthetic rows of the
    model before, as its authors do. Satisfies :class:`atradiff.ports.TrajectoryGenerator` once :attr:`ready`.
    """

    starts_at_states = False

    def __init__(
        self,
        spaces: Spaces,
        config: SyntherConfig,
        settings: SyntherFit,
        *,
        first: SyntherDiffuser | None = None,
        device: str = "auto",
    ) -> None:
        """``first`` serves until the first retraining, say a model of offline data."""
        self._spaces, self._config, self._settings, self._device = spaces, config, settings, device
        self.model = first
        self.trained_at = 0
        """Env step of the newest fit."""

    @property
    def spaces(self) -> Spaces:
        return self._spaces

    @property
    def version(self) -> int:
        """Counts the fits, from the version of the model that was given; 0 where there is none yet."""
        return 0 if self.model is None else self.model.version

    def read(self, folder: Path) -> SyntherDiffuser:
        """A model that was saved, with the device and the precision of those that are fitted here."""
        return SyntherDiffuser.from_pretrained(folder, device=self._device, precision=self._settings.precision)

    @property
    def ready(self) -> bool:
        """Whether there is a model yet."""
        return self.model is not None

    def due(self, env_steps: int) -> bool:
        """Whether a retraining is due at this env step."""
        every = self._config.retrain_every
        return every is not None and env_steps // every > self.trained_at // every

    def retrain(self, real: Transitions, env_steps: int) -> None:
        """Fit a new model on ``real``; its version is one higher, its seed depends on the version."""
        version = self.version + 1
        seed = int(np.random.SeedSequence([self._settings.seed, version]).generate_state(1)[0])
        settings = replace(self._settings, seed=seed)
        self.model = fit_synther(
            self._spaces, real, self._config, settings, version=version, device=self._device, quiet=True
        )
        self.trained_at = env_steps

    def generate(
        self, states: FloatArray, task: FloatArray | None = None, *, generator_seed: int
    ) -> SyntheticTrajectories:
        """See :meth:`SyntherDiffuser.generate`; raises ``ValueError`` before the first model."""
        if self.model is None:
            raise ValueError(f"SynthER has no model before env step {self._config.retrain_every}: ask `ready` first.")
        return self.model.generate(states, task, generator_seed=generator_seed)
