"""Fitting a trajectory diffuser: offline data in, model folder out; can stop at any time and go on later."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from atradiff.calibrate import calibrate
from atradiff.config import DiffuserConfig, FitConfig
from atradiff.data.normalize import DifferenceRows, Normalizer
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.diffusion.sample import resolve_device
from atradiff.generator import Provenance, TrajectoryDiffuser
from atradiff.model_folder import load_model, write_model_files, write_text
from atradiff.trainer import StepLosses, Trainer
from atradiff.training_state import Progress, load_state, save_state

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
) -> TrajectoryDiffuser:
    """Fit a diffuser on ``data``; with ``out``, checkpoint there, resume from there and leave the model folder there.

    A folder that holds an unfinished fit of the same data and settings is resumed, a finished one is loaded. Raises
    ``FileExistsError`` where it holds anything else (unless ``overwrite``), ``ValueError`` for data too short to cut
    windows from.
    """
    chosen = resolve_device(device)
    train, held_out = data.split(settings.held_out, settings.seed)
    config = _completed(config or DiffuserConfig(), train, chosen)
    folder = None if out is None else _RunFolder(Path(out), config, settings, data)
    if folder is not None and folder.prepare(overwrite):
        return load_model(folder.path, device, settings.precision)
    with _threads(settings.threads):
        codec = DifferenceRows(train.spaces, Normalizer.fit(train))
        trainer = Trainer(train, codec, config, settings, chosen)
        progress, loss = _train(trainer, _held_out_windows(held_out, config), folder, quiet)
        model = _finished(trainer, data, progress, loss, device)
        model.calibration = calibrate(model, held_out, settings.seed)
    if folder is not None:
        write_model_files(model, folder.path)
    return model


def _completed(config: DiffuserConfig, train: Trajectories, device: torch.device) -> DiffuserConfig:
    """Fill in the size of the network, and leave out lengths that no episode can serve."""
    width, depth = (384, 8) if device.type == "cuda" else (128, 4)
    return replace(
        config,
        width=config.width or width,
        depth=config.depth or depth,
        lengths=WindowSampler(train, config.lengths).lengths,
    )


def _held_out_windows(held_out: Trajectories, config: DiffuserConfig) -> WindowSampler | None:
    """Windows to measure the loss on; ``None`` where the few held-out episodes are too short for any."""
    usable = np.any(held_out.columns.terminated) or held_out.lengths.max() >= config.lengths[0]
    return WindowSampler(held_out, config.lengths) if usable else None


def _train(
    trainer: Trainer, held_out: WindowSampler | None, folder: _RunFolder | None, quiet: bool
) -> tuple[Progress, float]:
    """Step until the budget is used up; returns how far it went and the last held-out loss."""
    settings, progress, loss = trainer.fit, Progress(), math.nan
    if folder is not None and folder.state.is_file():
        progress = load_state(trainer, folder.state)
    clock = time.process_time() - progress.cpu_seconds
    with ExitStack() as stack:
        board = stack.enter_context(_board(folder))
        bar = stack.enter_context(_Bar(settings, progress, quiet))
        while (share := _share_done(settings, progress)) < 1:
            losses = trainer.step(progress.steps, share)
            progress = Progress(progress.steps + 1, time.process_time() - clock)
            bar.show(progress, losses, trainer)
            if progress.steps % settings.checkpoint_every == 0:
                loss = _checkpoint(trainer, held_out, folder, progress, losses, board)
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
    folder: _RunFolder | None,
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


def data_fingerprint(data: Trajectories) -> str:
    """The data's own content hash, or one of its columns where it was never stored."""
    if data.content_hash:
        return data.content_hash
    digest = sha256(np.ascontiguousarray(data.offsets).tobytes())
    for _, column in data.columns.items():
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


class _RunFolder:
    """``out`` of a fit: the finished model, ``training/`` with what resuming needs, ``tensorboard/``."""

    def __init__(self, path: Path, config: DiffuserConfig, settings: FitConfig, data: Trajectories) -> None:
        self.path = path
        self.state = path / "training" / "state.safetensors"
        self._settings = path / "training" / "settings.json"
        self._wanted = {"config": config.to_json(), "fit": settings.to_json(), "data": data_fingerprint(data)}

    def prepare(self, overwrite: bool) -> bool:
        """Make the folder ready to fit into; true where it already holds the finished model that was asked for."""
        if self.path.exists() and any(self.path.iterdir()):
            found = self._found()
            if found == self._wanted and not overwrite:
                return (self.path / "config.json").is_file()
            if found is None or not overwrite:
                raise FileExistsError(_in_the_way(self.path, found, self._wanted))
            shutil.rmtree(self.path)
        self._settings.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._settings, json.dumps(self._wanted, indent=2))
        return False

    def _found(self) -> dict[str, Any] | None:
        return json.loads(self._settings.read_text(encoding="utf-8")) if self._settings.is_file() else None


def _in_the_way(path: Path, found: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    if found is None:
        return f"{path} is not empty and no fit made it: choose another folder."
    parts = [name for name in wanted if found.get(name) != wanted[name]]
    return f"{path} holds a fit with other {' and '.join(parts)}: choose another folder or overwrite it."


class Board(Protocol):
    """The one method of TensorBoard's writer that a fit uses."""

    def add_scalar(self, tag: str, value: float, step: int) -> object: ...


class _NoBoard:
    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Nothing is logged where there is no folder to log to."""


@contextmanager
def _board(folder: _RunFolder | None) -> Iterator[Board]:
    if folder is None:
        yield _NoBoard()
        return
    from torch.utils.tensorboard import SummaryWriter  # seconds of import

    with SummaryWriter(str(folder.path / "tensorboard")) as writer:
        yield writer


class _Bar(tqdm):
    """Steps, or CPU seconds of a budget, with the loss and windows per CPU second."""

    def __init__(self, settings: FitConfig, progress: Progress, quiet: bool) -> None:
        self._by_steps, self._start, self._losses = settings.steps is not None, progress, (math.nan, 0.0)
        total = settings.steps if settings.steps is not None else round(60 * (settings.cpu_minutes or 0))
        super().__init__(
            total=total,
            initial=progress.steps if self._by_steps else round(progress.cpu_seconds),
            disable=quiet,
            desc="fit",
            unit="step" if self._by_steps else "CPU s",
            mininterval=1.0,
        )

    def show(self, progress: Progress, losses: StepLosses, trainer: Trainer) -> None:
        mean, windows = self._losses
        mean = losses.diffuser if math.isnan(mean) else 0.98 * mean + 0.02 * losses.diffuser
        windows += trainer.fit.tokens_per_step / float(np.mean(trainer.windows.lengths))
        self._losses = mean, windows
        done = progress.steps if self._by_steps else round(progress.cpu_seconds)
        rate = windows / max(progress.cpu_seconds - self._start.cpu_seconds, 1e-9)
        self.set_postfix_str(f"loss {mean:.3f}, {rate:.0f} windows/CPU s", refresh=False)
        self.update(done - self.n)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
