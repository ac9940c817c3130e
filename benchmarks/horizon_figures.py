"""How the truth, the length and the behaviour of chained trajectories hold along the way, against real episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from atradiff.data.normalize import inverse
from atradiff.data.trajectories import Trajectories
from atradiff.report import metrics
from atradiff.report.fidelity_chains import rows_between
from atradiff.report.fidelity_windows import real_windows
from atradiff.report.judge import Judge
from atradiff.types import FloatArray, SyntheticTrajectories

_LEAST_CHAINS = 10
"""Fewer whole chains than this have no correlation worth a name."""


@dataclass(frozen=True)
class ChainFigures:
    """What chains were found to be; similarities are one minus a Kolmogorov-Smirnov statistic, 1 is alike."""

    name: str
    errors: tuple[float | None, ...]  # relative dynamics error between one mark and the next
    running: tuple[float, ...]  # share of the chains that have as many rows as each mark
    cut: tuple[float, ...]  # share that ended before each mark, and not by a terminal row
    mean_length: float
    reward_per_row: float
    return_similarity: float  # of undiscounted returns
    late_similarity: float | None  # of the columns of rows beyond the last mark but one
    persistence: float | None  # correlation over whole chains of mean rewards, first against last quarter
    spread: float | None  # how far two chains from one state part, over how far two real ones from any two states lie
    transitions_per_cpu_second: float | None = None


@dataclass(frozen=True)
class ChainStudy:
    """Real episodes from the states that chains start at; ``marks`` (rows, rising) end with the horizon."""

    judge: Judge
    truth: SyntheticTrajectories
    marks: tuple[int, ...]

    @classmethod
    def over(
        cls, held_out: Trajectories, env_id: str | None, marks: Sequence[int], chains: int, seed: int
    ) -> ChainStudy:
        """Starts are drawn where an episode goes on for the whole horizon, or terminates within it."""
        judge = Judge.over(held_out, None, env_id, simulated_rows=2000, seed=seed)
        return cls(judge, real_windows(held_out, max(marks), chains, seed), tuple(sorted(marks)))

    @property
    def starts(self) -> FloatArray:
        """(B, S) states that chains start at."""
        return self.truth.observations[:, 0]

    def real(self) -> ChainFigures:
        """The episodes themselves, held to the same measures."""
        return self.figures("real", self.truth, None)

    def figures(
        self,
        name: str,
        chains: SyntheticTrajectories,
        twins: SyntheticTrajectories | None,
        transitions_per_cpu_second: float | None = None,
    ) -> ChainFigures:
        """All figures of ``chains`` (B); ``twins`` (B) are from the same states by another seed."""
        lengths = chains.lengths
        terminal = chains.terminated[np.arange(len(lengths)), lengths - 1]
        return ChainFigures(
            name=name,
            errors=tuple(self._error(chains, start, stop) for start, stop in pairwise((0, *self.marks))),
            running=tuple(float((lengths >= mark).mean()) for mark in self.marks),
            cut=tuple(float(((lengths < mark) & ~terminal).mean()) for mark in self.marks),
            mean_length=float(lengths.mean()),
            reward_per_row=float(returns(chains).sum() / lengths.sum()),
            return_similarity=_similarity(returns(chains)[:, None], returns(self.truth)[:, None]),
            late_similarity=self._late(chains),
            persistence=persistence(chains, self.marks[-1]),
            spread=None if twins is None else self._spread(chains, twins),
            transitions_per_cpu_second=transitions_per_cpu_second,
        )

    def _error(self, chains: SyntheticTrajectories, start: int, stop: int) -> float | None:
        rows = rows_between(chains, start, stop)
        error = self.judge.simulated(rows, {}).get("relative_dynamics_error") if len(rows) else None
        return None if error is None else float(error)

    @property
    def _late_row(self) -> int:
        return self.marks[-2] if len(self.marks) > 1 else 0

    def _late(self, chains: SyntheticTrajectories) -> float | None:
        both = [rows_between(x, self._late_row, self.marks[-1]) for x in (chains, self.truth)]
        if not all(len(rows) for rows in both):
            return None
        ours, theirs = (metrics.row_features(rows, self.judge.spaces) for rows in both)
        return _similarity(ours, theirs)

    def _spread(self, chains: SyntheticTrajectories, twins: SyntheticTrajectories) -> float | None:
        """At the last mark but one; root mean squares over columns in units of the states' spread."""
        row, weight = self._late_row, inverse(self.judge.scales.state_scale)
        both = (chains.lengths >= row) & (twins.lengths >= row)
        real = self.truth.observations[self.truth.lengths >= row, row] * weight
        apart = 2 * real.var(axis=0).mean() if len(real) else 0  # of two independent draws, squared
        if not both.any() or apart == 0:
            return None
        gap = (chains.observations[both, row] - twins.observations[both, row]) * weight
        return float(np.sqrt(np.square(gap).mean() / apart))


def returns(chains: SyntheticTrajectories) -> FloatArray:
    """(B,) undiscounted sums of rewards."""
    return np.where(chains.mask, chains.rewards, 0).sum(axis=1)


def persistence(chains: SyntheticTrajectories, horizon: int) -> float | None:
    """Correlation over chains of ``horizon`` rows of the mean reward in their first and in their last quarter: 1 where
    each keeps up what it began, 0 where its end has forgotten its beginning. None for too few chains, or equal ones.
    """
    whole = chains.rewards[chains.lengths >= horizon, :horizon]
    quarter = max(horizon // 4, 1)
    first, last = whole[:, :quarter].mean(axis=1), whole[:, -quarter:].mean(axis=1)
    if len(whole) < _LEAST_CHAINS or np.ptp(first) == 0 or np.ptp(last) == 0:
        return None
    return float(np.corrcoef(first, last)[0, 1])


def _similarity(ours: FloatArray, theirs: FloatArray) -> float:
    return float(metrics.marginal_similarity(ours, theirs).mean())
