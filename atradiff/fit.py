"""Fitting a trajectory diffuser: offline data in, model folder out; can stop at any time and go on later."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from atradiff.calibrate import calibrate
from atradiff.config import DiffuserConfig, FitConfig, require
from atradiff.data.fingerprint import data_fingerprint
from atradiff.data.normalize import Normalizer, RowCodec
from atradiff.data.row_codecs import row_codec
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.diffusion.sample import resolve_device
from atradiff.fit_folder import FitFolder
from atradiff.fit_progress import Bar, Board, open_board
from atradiff.generator import Provenance, TrajectoryDiffuser
from atradiff.guidance import fitted_curiosity, guide_scores
from atradiff.model_folder import load_model, read_scales, write_model_files, write_scales
from atradiff.schedule import learning_rate_share
from atradiff.trainer import OfflineMaterial, StepLosses, Trainer
from atradiff.training_state import Progress, load_state, save_state
from atradiff.types import FloatArray
from atradiff.weights import require_finite_weights

_SAVE_SECONDS = 30.0
"""At most so much work is lost where a fit is killed."""

_CLOSING_SHARE = 0.02
"""Share of a CPU budget kept back for calibration and for writing the model."""


def fit(
    data: Trajectories,
    out: str | Path | None = None,
    *,
    config: DiffuserConfig | None = None,
    settings: FitConfig,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = False,
    relevance: FloatArray | None = None,
) -> TrajectoryDiffuser:
    """Fit a diffuser on ``data``; with ``out``, checkpoint there, resume from there and leave the model folder there.

    A folder that holds an unfinished fit of the same data and settings is resumed, a finished one is loaded; while
    another process fits there, it is waited for, with a line to stderr unless ``quiet``. Raises
    ``FileExistsError`` where it holds anything else (unless ``overwrite``), ``ValueError`` for data too short to cut
    windows from and for a ``task_size`` that is not theirs (0 leaves their task vectors out).

    ``relevance`` (N,) are the scores of all rows for ``guide: relevance``, in any unit; None: the errors of a one-step
    model.
    """
    task_size, there = (config or DiffuserConfig()).task_size, data.task_size
    fits = task_size in (0, there)
    require(fits, "task_size", task_size, f"must be 0, or {there} as the task vectors of the data (0: they have none)")
    chosen = resolve_device(device)
    _require_learnable(data)
    _require_relevance(relevance, config or DiffuserConfig(), data)
    train, held_out = data.split(settings.held_out, settings.seed)
    config = sized(config or DiffuserConfig(), chosen)
    config = replace(config, lengths=WindowSampler(train, config.lengths).lengths)  # without those that none can serve
    folder = None if out is None else FitFolder(Path(out), config, settings, data, relevance)
    if folder is not None and folder.finished(overwrite):
        return load_model(folder.path, device, settings.precision)
    with nullcontext() if folder is None else folder.alone(quiet), _threads(settings.threads):
        if folder is not None and folder.prepare(overwrite):  # another process has finished it in the meantime
            return load_model(folder.path, device, settings.precision)
        begun = time.process_time()
        codec = _codec(train, data.columns.rewards, config, settings, folder, quiet)
        scores = guide_scores(
            train,
            config,
            lambda: (
                fitted_curiosity(train, config, codec, settings.seed, chosen)
                if relevance is None
                else _of_training(relevance, data, settings)
            ),
        )
        prepared = Progress(0, time.process_time() - begun)
        trainer = Trainer(OfflineMaterial(train, config, scores), codec, config, settings, chosen)
        progress, loss = _train(trainer, prepared, _held_out_windows(held_out, config), folder, quiet)
        model = _finished(trainer, data, progress, loss, device)
        model.calibration = calibrate(model, data, held_out, settings.seed)
        if folder is not None:
            write_model_files(model, folder.path)
    return model


def _codec(
    train: Trajectories,
    rewards: FloatArray,
    config: DiffuserConfig,
    settings: FitConfig,
    folder: FitFolder | None,
    quiet: bool,
) -> RowCodec:
    """With the scales of ``train``, and whatever its kind of row must learn first; ``rewards`` are also held-out ones.

    Kept in ``folder``: what another processor learned would not be the same to the last digit.
    """
    if folder is not None and folder.scales.is_file():
        return row_codec(config.rows, train.spaces, read_scales(folder.scales))
    normalizer = Normalizer.fit(train).with_levels(rewards)
    if config.ends == "networks":
        normalizer = normalizer.without_bounds()
    if config.condition == "none":
        normalizer = normalizer.with_starts(train.columns.observations, settings.seed)
    codec = row_codec(config.rows, train.spaces, normalizer)
    codec = codec.prepared(train, settings.updates_of_expectation, settings.seed, quiet)
    if folder is not None:
        write_scales(codec.normalizer, folder.scales)
    return codec


def _require_learnable(data: Trajectories) -> None:
    """Raise ``ValueError`` for values or episode ends that would spoil the fit without a word."""
    for name, column in data.columns.items():
        if not np.isfinite(column).all():
            row = int(np.flatnonzero(~np.isfinite(column).reshape(len(column), -1).all(1))[0])
            raise ValueError(f"{name} of the data are not finite in row {row}: repair or drop that episode.")
    inside = np.setdiff1d(np.flatnonzero(data.columns.terminated | data.columns.truncated), data.offsets[1:] - 1)
    if len(inside):
        raise ValueError(f"row {inside[0]} ends an episode but lies inside one: the episode offsets are wrong.")


def _require_relevance(relevance: FloatArray | None, config: DiffuserConfig, data: Trajectories) -> None:
    if relevance is None:
        return
    require(config.guide == "relevance", "guide", config.guide, "must be relevance where scores of relevance are given")
    dtype = np.asarray(relevance).dtype
    require(dtype.kind in "fiu", "relevance", str(dtype), "must be numbers")
    shape, wanted = np.shape(relevance), (data.n_transitions,)
    require(shape == wanted, "relevance", shape, f"must be one score for each row of the data, of shape {wanted}")
    require(bool(np.isfinite(relevance).all()), "relevance", "NaN or infinity", "must be finite")


def _of_training(relevance: FloatArray, data: Trajectories, settings: FitConfig) -> FloatArray:
    """Those of ``relevance`` (N,) that belong to the training episodes: split along with the data, as if rewards."""
    carrier = replace(data, columns=replace(data.columns, rewards=np.asarray(relevance, np.float32)))
    return carrier.split(settings.held_out, settings.seed)[0].columns.rewards


def _require_finite(losses: StepLosses, step: int) -> None:
    if not math.isfinite(losses.diffuser + losses.lengths + losses.dynamics):
        raise FloatingPointError(
            f"the fit diverged at step {step}: losses are {losses}. Lower learning_rate and dynamics_rate "
            "(generator.fit of a config, FitConfig in Python), or look for extreme values in the data (atradiff data "
            "info)."
        )


def sized(config: DiffuserConfig, device: torch.device) -> DiffuserConfig:
    """The same with the sizes of the networks that a fit on ``device`` gives them where they are left open."""
    width, depth, dynamics_width = (384, 8, 256) if device.type == "cuda" else (96, 3, 128)
    if config.network == "residual_mlp":
        width, depth = 1024, 6
    return replace(
        config,
        width=config.width or width,
        depth=config.depth or depth,
        dynamics_width=config.dynamics_width or dynamics_width,
    )


def _held_out_windows(held_out: Trajectories, config: DiffuserConfig) -> WindowSampler | None:
    """Windows to measure the loss on; ``None`` where the few held-out episodes are too short for any."""
    usable = np.any(held_out.columns.terminated) or held_out.lengths.max() >= config.lengths[0]
    return WindowSampler(held_out, config.lengths) if usable else None


def _train(
    trainer: Trainer, progress: Progress, held_out: WindowSampler | None, folder: FitFolder | None, quiet: bool
) -> tuple[Progress, float]:
    """Step on from ``progress`` until the budget is used up; returns how far it went and the last held-out loss."""
    settings, loss = trainer.fit, math.nan
    if folder is not None and folder.state.is_file():
        progress = load_state(trainer, folder.state)
    clock, saved = time.process_time() - progress.cpu_seconds, time.monotonic()
    with ExitStack() as stack:
        board = stack.enter_context(open_board(None if folder is None else folder.tensorboard))
        bar = stack.enter_context(Bar(settings, progress, quiet))
        bar.tell(f"The task ends {trainer.networks.dynamics.seen.end_in_words}.")
        if len(levels := trainer.codec.normalizer.reward_levels) == 1:
            bar.tell(f"Every reward of the data is {levels[0]:g}: no other is imagined before the model is adapted.")
        while (share := _share_done(settings, progress)) < 1:
            losses = trainer.step(progress.steps, learning_rate_share(progress.steps, share, settings.warmup_steps))
            _require_finite(losses, progress.steps)
            progress = Progress(progress.steps + 1, time.process_time() - clock)
            bar.show(progress, losses, trainer)
            if progress.steps % settings.checkpoint_every == 0:
                loss = _checkpoint(trainer, held_out, folder, progress, losses, board)
                saved = time.monotonic()
            elif folder is not None and time.monotonic() - saved > _SAVE_SECONDS:
                save_state(trainer, progress, folder.state)
                saved = time.monotonic()
        loss = _checkpoint(trainer, held_out, folder, progress, None, board)
    return progress, loss


def _share_done(settings: FitConfig, progress: Progress) -> float:
    if settings.steps is not None:
        return progress.steps / settings.steps
    budget = 60 * (settings.cpu_minutes or 0) * (1 - _CLOSING_SHARE)
    return progress.cpu_seconds / budget


def _checkpoint(
    trainer: Trainer,
    held_out: WindowSampler | None,
    folder: FitFolder | None,
    progress: Progress,
    losses: StepLosses | None,
    board: Board,
) -> float:
    loss = math.nan if held_out is None else trainer.held_out_loss(held_out)
    board.add_scalar("fit/held_out_loss", loss, progress.steps)
    if losses is not None:
        for name in ("diffuser", "lengths", "dynamics"):
            board.add_scalar(f"fit/{name}_loss", getattr(losses, name), progress.steps)
    if folder is not None:
        save_state(trainer, progress, folder.state)
    return loss


def _finished(trainer: Trainer, data: Trajectories, progress: Progress, loss: float, device: str) -> TrajectoryDiffuser:
    trainer.networks.diffuser.load_state_dict(trainer.average.module.state_dict())
    require_finite_weights(trainer.networks, "learning_rate and dynamics_rate")
    provenance = Provenance(
        env_id=data.env_id,
        data_hash=data_fingerprint(data),
        episodes=len(data),
        transitions=data.n_transitions,
        fit=trainer.fit.to_json(),
        steps=progress.steps,
        cpu_seconds=progress.cpu_seconds,
        held_out_loss=loss,
    )
    return TrajectoryDiffuser(
        trainer.config,
        trainer.codec,
        trainer.networks,
        provenance=provenance,
        device=device,
        precision=trainer.fit.precision,
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
