"""Does a generator recite what it learned from? Imagined windows beside their nearest training windows.

Held-out real windows from the same start states are the yardstick: where the data repeat themselves, honest windows
lie near training windows, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.report import metrics
from atradiff.types import FloatArray, IntArray, Spaces, SyntheticTrajectories, Transitions

COMPARED_ROWS = 10
"""Leading rows of a window that are compared: who copies 25 rows has copied ten."""

NEAR = 1 / 3
"""A near copy lies within this share of the usual (median) distance of held-out windows from the training windows."""

QUERIES = 256
"""Windows that are looked for among the training windows, evenly spread over those at hand."""

REFERENCE_VALUES = 60_000_000
"""Numbers that the training windows may have in all; of more windows as many as fit are drawn at random."""

SUSPICIOUS_DISTANCE, SUSPICIOUS_SHARE, SUSPICIOUS_EXCESS = 0.5, 0.1, 3.0
"""Warned about: a median distance below this part of held-out windows', or this share of near copies if it is so many
times theirs."""


@dataclass(frozen=True)
class CopyFigures:
    """How near windows lie to training windows; ``held_out`` figures are those of real windows, row for row as long."""

    window_novelty: float | None  # median distance over that of held-out windows; None where that is 0
    near_copies: float  # share of windows within NEAR of the held-out windows' median distance
    held_out_near_copies: float

    @property
    def suspicious(self) -> bool:
        """Whether imagined windows lie nearer to training windows than held-out data explains."""
        near = self.window_novelty is not None and self.window_novelty < SUSPICIOUS_DISTANCE
        many = self.near_copies > max(SUSPICIOUS_SHARE, SUSPICIOUS_EXCESS * self.held_out_near_copies)
        return near or many

    @property
    def order(self) -> tuple[float, float]:
        """Sorts the nearest to copies first."""
        return -self.near_copies, self.window_novelty if self.window_novelty is not None else 0.0

    @property
    def sentence(self) -> str:
        """The figures in words, for a warning."""
        times = "-" if self.window_novelty is None else f"{self.window_novelty:.2f}"
        return (
            f"{self.near_copies:.1%} of them nearly repeat a training window, of held-out real windows "
            f"{self.held_out_near_copies:.1%}; their median distance to the training data is {times} times that of "
            "held-out real windows."
        )


@dataclass(frozen=True)
class TrainingWindows:
    """The leading rows of all training windows of one length. Build with :meth:`of`.

    A model may recite where training windows go or, from another start, how they move: windows are compared by their
    states and by their states' way from the first, beside actions and rewards, and the smaller distance counts.
    """

    spaces: Spaces
    rows: FloatArray  # (N, C) all training rows, in units of ``scale``
    windows: IntArray  # (M, K) row numbers
    origins: FloatArray  # (M, C) first states in the columns of states, zeros in the others
    scale: FloatArray  # (C,)

    @classmethod
    def of(cls, train: Trajectories, length: int, scale: FloatArray, seed: int) -> TrainingWindows:
        """Windows of ``length`` rows, of which the first :data:`COMPARED_ROWS` count; ``scale`` (C,) is of features."""
        rows = metrics.row_features(train.columns, train.spaces) / scale
        starts = WindowSampler(train, (length,)).starts(length)
        compared = min(length, COMPARED_ROWS)
        most = max(REFERENCE_VALUES // (compared * rows.shape[1]), 1)
        if len(starts) > most:
            starts = np.sort(np.random.default_rng(seed).choice(starts, most, replace=False))
        last = np.repeat(train.offsets[1:] - 1, train.lengths)[starts]
        windows = np.minimum(starts[:, None] + np.arange(compared), last[:, None])
        return cls(train.spaces, rows, windows, _origins(train.columns.observations[starts], scale), scale)

    def figures(self, imagined: SyntheticTrajectories, real: SyntheticTrajectories) -> CopyFigures:
        """``imagined`` and ``real`` windows (B) start at the same states; each pair is compared as far as both go."""
        compared = np.linspace(0, len(imagined) - 1, min(len(imagined), QUERIES)).astype(np.int64)
        lengths = np.minimum(np.minimum(imagined.lengths, real.lengths), self.windows.shape[1])[compared]
        ours, theirs = (self._distances(windows, compared, lengths) for windows in (imagined, real))
        usual = float(np.median(theirs))
        return CopyFigures(
            window_novelty=float(np.median(ours)) / usual if usual > 0 else None,
            near_copies=float(np.mean(ours <= NEAR * usual)),
            held_out_near_copies=float(np.mean(theirs <= NEAR * usual)),
        )

    def _distances(self, trajectories: SyntheticTrajectories, which: IntArray, lengths: IntArray) -> FloatArray:
        """Of the first ``lengths`` (B,) rows of the trajectories ``which`` (B,)."""
        states = np.zeros((len(lengths), self.windows.shape[1], self.rows.shape[1]), np.float32)
        for i, (place, length) in enumerate(zip(which.tolist(), lengths.tolist(), strict=True)):
            states[i, :length] = metrics.row_features(_rows(trajectories, place, length), self.spaces) / self.scale
        ways = states - _origins(trajectories.observations[which, 0], self.scale)[:, None]
        there = metrics.nearest_windows(states, lengths, self.rows, self.windows, np.zeros_like(self.origins))
        return np.minimum(there, metrics.nearest_windows(ways, lengths, self.rows, self.windows, self.origins))


def _origins(states: FloatArray, scale: FloatArray) -> FloatArray:
    """(B, C) states (B, S) in the columns of row features that hold them."""
    origins = np.zeros((len(states), len(scale)), np.float32)
    origins[:, : states.shape[1]] = states
    return origins / scale


def _rows(trajectories: SyntheticTrajectories, i: int, length: int) -> Transitions:
    """The first ``length`` rows of trajectory ``i``."""
    return Transitions(
        observations=trajectories.observations[i, :length],
        actions=trajectories.actions[i, :length],
        rewards=trajectories.rewards[i, :length],
        next_observations=trajectories.observations[i, 1 : length + 1],
        terminated=trajectories.terminated[i, :length],
        truncated=np.zeros(length, np.bool_),
    )
