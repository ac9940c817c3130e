"""Steps ratios with fewer environment steps: what is the gain worth to somebody who can afford half of a run?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atradiff.report.curves import RunCurve
from atradiff.report.steps_ratio import StepsRatio, steps_ratio

SHARES = (0.4, 0.6, 0.8)
"""Of the shortest run: the budgets that a report tells of besides the whole."""


@dataclass(frozen=True)
class AtBudget:
    """The steps ratio of runs that end after ``env_steps``."""

    env_steps: float
    steps: StepsRatio


def budgets(curves: Sequence[RunCurve], final_evaluations: int) -> list[float]:
    """The last evaluation within each of :data:`SHARES` of the shortest curve, where every curve has as many by then as
    a final return is a mean of; rising, in environment steps.
    """
    shortest = min(curves, key=lambda curve: float(curve.steps[-1]))
    limits = [round(share * float(shortest.steps[-1])) for share in SHARES]
    ends = {float(shortest.steps[shortest.steps <= limit][-1]) for limit in limits if shortest.steps[0] <= limit}
    return sorted(end for end in ends if all((c.steps <= end).sum() >= final_evaluations for c in curves))


def ratios_at(
    ends: Sequence[float], ours: Sequence[RunCurve], theirs: Sequence[RunCurve], final_evaluations: int, seed: int
) -> tuple[AtBudget, ...]:
    """:func:`steps_ratio` of both arms' runs, cut at each of ``ends``, to what the baseline has by then.

    What was scheduled over the steps of a whole run (a share of imagined rows that falls) is as it was in that one.
    """
    return tuple(
        AtBudget(
            end,
            steps_ratio(
                [curve.until(end) for curve in ours],
                [curve.until(end) for curve in theirs],
                final_evaluations=final_evaluations,
                seed=seed,
            ),
        )
        for end in ends
    )
