"""An arm's runs beside its baseline's of the same seed, which meet the same first steps and evaluation starts.

What a seed brings is in both runs of a pair and drops out of their difference, where :mod:`atradiff.report.aggregate`
holds all runs of one arm against all of the other's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from atradiff.report.aggregate import runs_interval
from atradiff.report.curves import RunCurve
from atradiff.report.stats import Interval


@dataclass(frozen=True)
class Ahead:
    """Of ``pairs`` pairs of runs, in how many the arm's is ahead by final return and by area; ties are not ahead."""

    pairs: int
    final: int
    area: int

    @classmethod
    def over(cls, parts: Iterable[Self]) -> Self:
        """The sum over tasks."""
        counts = [(part.pairs, part.final, part.area) for part in parts]
        return cls(*map(sum, zip(*counts, strict=True)))

    def __str__(self) -> str:
        return f"final {self.final}/{self.pairs}, area {self.area}/{self.pairs}"


@dataclass(frozen=True)
class SameSeed:
    """One arm on one task. What its run has more than the baseline's of the same seed: interquartile means over the
    pairs, which are redrawn for the intervals."""

    ahead: Ahead
    final_gain: Interval
    area_gain: Interval


def same_seed(
    ours: Mapping[int, RunCurve], theirs: Mapping[int, RunCurve], final_evaluations: int, *, seed: int
) -> SameSeed | None:
    """Hold runs by seed against each other; None where no seed is in both."""
    both = [(curve, theirs[number]) for number, curve in ours.items() if number in theirs]
    if not both:
        return None
    finals = [a.final_return(final_evaluations) - b.final_return(final_evaluations) for a, b in both]
    areas = [a.area - b.area for a, b in both]
    ahead = Ahead(len(both), sum(gain > 0 for gain in finals), sum(gain > 0 for gain in areas))
    return SameSeed(ahead, runs_interval(finals, seed=seed), runs_interval(areas, seed=seed))
