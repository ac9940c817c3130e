"""What an update did, for the log and for TensorBoard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from atradiff.types import FloatArray, IntArray

Outcome = Literal["accepted", "rolled_back", "no_drift", "too_few_windows"]

_NAN = float("nan")


@dataclass(frozen=True)
class AdaptationReport:
    """One attempt at an update. Losses are the diffuser's, of its averaged weights, or those of the one-step model
    where that alone learns; NaN where none was measured.

    ``new`` are windows of this pick from whose rows the diffuser did not learn, ``held_out`` offline windows; both
    with the same windows and noise before and after. ``drift`` is the loss on the newest windows over its reference.
    """

    outcome: Outcome
    number: int
    """Attempts so far, this one included."""
    env_steps: int
    version: int
    """Of the weights after the attempt."""
    windows: int = 0
    steps: int = 0
    cpu_seconds: float = 0.0
    new_before: float = _NAN
    new_after: float = _NAN
    held_out_before: float = _NAN
    held_out_after: float = _NAN
    held_out_fitted: float = _NAN
    """Of the model as it was fitted: what forgetting is measured against."""
    drift: float = _NAN
    ages: IntArray = field(default_factory=lambda: np.empty(0, np.int64), compare=False)
    """(N,) of the picked rows, in env steps."""
    importance: FloatArray = field(default_factory=lambda: np.empty(0, np.float32), compare=False)
    """(N,) of the picked rows, by their indicator."""

    @property
    def accepted(self) -> bool:
        return self.outcome == "accepted"

    def metrics(self) -> dict[str, float]:
        """The figures, by the names of TensorBoard; those that were not measured are left out."""
        figures = {
            "accepted": float(self.accepted),
            "version": float(self.version),
            "windows": float(self.windows),
            "steps": float(self.steps),
            "cpu_seconds": self.cpu_seconds,
            "new_loss_before": self.new_before,
            "new_loss_after": self.new_after,
            "held_out_loss_before": self.held_out_before,
            "held_out_loss_after": self.held_out_after,
            "drift": self.drift,
            "age_mean": float(self.ages.mean()) if len(self.ages) else _NAN,
            "importance_mean": float(self.importance.mean()) if len(self.importance) else _NAN,
        }
        return {name: value for name, value in figures.items() if np.isfinite(value)}
