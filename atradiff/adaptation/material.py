"""What an update learns from: picked real windows, mixed with offline ones against forgetting (ATraDiff, 4.3)."""

from __future__ import annotations

import numpy as np

from atradiff.adaptation.windows import WindowPool, concatenate_windows
from atradiff.data.windows import Windows
from atradiff.trainer import OfflineMaterial, WindowDraws
from atradiff.types import FloatArray, IntArray, Transitions


class RehearsalMaterial:
    """A :class:`atradiff.trainer.Material`: ``rehearsal`` of everything drawn is offline, the rest new."""

    def __init__(
        self, new: WindowPool, offline: OfflineMaterial, rehearsal: float, longest: int, rng: np.random.Generator
    ) -> None:
        self.windows = _MixedWindows(new, offline.windows, rehearsal)
        self.transitions = _mixed_rows(new.transitions(), offline.transitions, rehearsal, rng)
        self._offline, self._rehearsal = offline, rehearsal
        self._states, self._remaining = new.remaining(longest)

    def remaining(self, batch: int, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
        """See :class:`atradiff.trainer.Material`."""
        old = round(self._rehearsal * batch)
        states, remaining = self._offline.remaining(old, rng)
        rows = rng.integers(len(self._states), size=batch - old)
        return np.concatenate([states, self._states[rows]]), np.concatenate([remaining, self._remaining[rows]])


class _MixedWindows:
    def __init__(self, new: WindowPool, offline: WindowDraws, rehearsal: float) -> None:
        self.lengths = offline.lengths
        self._new, self._offline, self._rehearsal = new, offline, rehearsal
        self._served = set(new.lengths)

    def sample(self, length: int, batch: int, rng: np.random.Generator) -> Windows:
        """Lengths that no new window has are drawn from the offline ones alone."""
        old = round(self._rehearsal * batch) if length in self._served else batch
        parts = [self._offline.sample(length, old, rng)]
        if old < batch:
            parts.append(self._new.sample(length, batch - old, rng))
        return concatenate_windows(parts)


def _mixed_rows(new: Transitions, offline: Transitions, rehearsal: float, rng: np.random.Generator) -> Transitions:
    old = round(len(new) * rehearsal / (1 - rehearsal))
    return Transitions.concatenate([new, offline[rng.integers(len(offline), size=old)]])
