"""What a fit shows while it runs: a progress bar and TensorBoard curves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from atradiff.config import FitConfig
from atradiff.progress_bar import ProgressBar
from atradiff.trainer import StepLosses, Trainer
from atradiff.training_state import Progress


class Board(Protocol):
    """The one method of TensorBoard's writer that a fit uses."""

    def add_scalar(self, tag: str, value: float, step: int) -> object: ...


class _NoBoard:
    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Nothing is logged where there is no folder to log to."""


@contextmanager
def open_board(folder: Path | None) -> Iterator[Board]:
    """A TensorBoard writer into ``folder``, or one that logs nothing."""
    if folder is None:
        yield _NoBoard()
        return
    from torch.utils.tensorboard import SummaryWriter  # seconds of import

    with SummaryWriter(str(folder)) as writer:
        yield writer


class Bar(ProgressBar):
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
        )

    def tell(self, line: str) -> None:
        """Print ``line`` above the bar; nothing where the bar is off."""
        if not self.disable:
            self.write(line, file=self.fp)

    def show(self, progress: Progress, losses: StepLosses, trainer: Trainer) -> None:
        """Advance to ``progress``; the loss shown is a moving average of the diffuser's."""
        mean, windows = self._losses
        mean = losses.diffuser if math.isnan(mean) else 0.98 * mean + 0.02 * losses.diffuser
        windows += trainer.windows_per_step
        self._losses = mean, windows
        done = progress.steps if self._by_steps else round(progress.cpu_seconds)
        rate = windows / max(progress.cpu_seconds - self._start.cpu_seconds, 1e-9)
        self.set_postfix_str(f"loss {mean:.3f}, {rate:.0f} windows/CPU s", refresh=False)
        self.update(done - self.n)
