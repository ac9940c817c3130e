"""What an update learns from: picked real windows, mixed with offline ones against forgetting (ATraDiff, 4.3)."""

from __future__ import annotations

import numpy as np

from atradiff.adaptation.windows import WindowPool, concatenate_windows
from atradiff.data.tasks import TaskRows
from atradiff.data.windows import Remaining, Windows
from atradiff.trainer import OfflineMaterial, WindowDraws
from atradiff.types import IntArray, Transitions


class RehearsalMaterial:
    """A :class:`atradiff.trainer.Material`: ``rehearsal`` of everything drawn is offline, the rest new."""

    def __init__(
        self, new: WindowPool, offline: OfflineMaterial, rehearsal: float, longest: int, rng: np.random.Generator
    ) -> None:
        self.windows = _MixedWindows(new, offline.windows, rehearsal)
        lived = new.transitions()
        old = rng.integers(len(offline.transitions), size=round(len(lived) * rehearsal / (1 - rehearsal)))
        self.transitions = Transitions.concatenate([lived, offline.transitions[old]])
        self.tasks = _mixed_tasks(new, len(lived), offline, old)
        self._offline, self._rehearsal = offline, rehearsal
        self._remaining = new.remaining(longest)

    def remaining(self, batch: int, rng: np.random.Generator) -> Remaining:
        """See :class:`atradiff.trainer.Material`."""
        old = self._offline.remaining(round(self._rehearsal * batch), rng)
        rows = rng.integers(len(self._remaining.rows), size=batch - len(old.rows))
        new = self._remaining
        tasks = None
        if old.tasks is not None and new.tasks is not None:
            tasks = np.concatenate([old.tasks, new.tasks[rows]])
        return Remaining(
            np.concatenate([old.states, new.states[rows]]), np.concatenate([old.rows, new.rows[rows]]), tasks
        )


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


def _mixed_tasks(new: WindowPool, lived: int, offline: OfflineMaterial, old: IntArray) -> TaskRows | None:
    """Of ``lived`` rows, all of the one task of ``new``, then of the ``old`` ones."""
    if new.windows.tasks is None or offline.tasks is None:
        return None
    theirs = TaskRows(offline.tasks.vectors, offline.tasks.which[old])
    return TaskRows.same(new.windows.tasks[0], lived).followed_by(theirs)
