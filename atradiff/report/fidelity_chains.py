"""How far are chained trajectories true? Errors, survivors and distance from the data, link by link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atradiff.data.trajectories import Trajectories
from atradiff.imagine import GenerationReport
from atradiff.report import metrics
from atradiff.report.fidelity_windows import FidelityModel, imagine_variant, mean_length, require_known
from atradiff.report.judge import Judge
from atradiff.types import IntArray, SyntheticTrajectories, Transitions

CHAINED = ("raw", "cut", "dynamics")
"""Variants that are chained by default."""

_LEAST_ROWS = 200
"""Rows of each link that are stepped in the environment, where there are as many."""


@dataclass(frozen=True)
class LinkFigures:
    """One stretch of the chains: rows ``start`` to ``stop`` - 1 of each that comes as far. Figures as in RowFigures."""

    start: int
    stop: int
    running: float  # share of the chains that have row ``start``
    rows: int
    relative_dynamics_error: float | None
    relative_reward_error: float | None
    step_size: float | None  # mean size of a step, over that of held-out rows
    state_distance: float | None  # of the states reached from training states, over that of held-out states


@dataclass(frozen=True)
class ChainFidelity:
    """Whole trajectories of one variant. Shares are of trajectories; returns are undiscounted."""

    horizon: int
    length: int | None  # rows per window; None: as the length estimator says
    trajectories: int
    mean_length: float
    ended_terminal: float  # ended by a terminal row
    ended_disagreement: float  # where the one-step models disagree
    ended_range: float  # where they leave the data's range
    ended_residual: float  # by the consistency cut
    full_length: float  # as long as the horizon, not terminated
    mean_return: float  # over the rows of ``compared_length``
    real_mean_return: float  # of the data from the same states, over as many rows
    real_ended_terminal: float | None  # of the data within ``horizon`` rows, where no time-out ends them before
    compared_length: float  # mean rows for which the data go on: the shorter of both, of each pair
    reward_per_row: float
    real_reward_per_row: float
    links: tuple[LinkFigures, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def chain_fidelity(
    model: FidelityModel,
    held_out: Trajectories,
    judge: Judge,
    *,
    horizon: int,
    length: int | None = None,
    longest: int = 25,
    trajectories: int = 256,
    variants: Sequence[str] = CHAINED,
) -> dict[str, ChainFidelity]:
    """Chained trajectories of ``horizon`` rows at most, from held-out states, by variant.

    Links are stretches of ``length`` rows; where that is None (windows are as long as the length estimator says), of
    ``longest`` rows.
    """
    require_known(variants)
    rng = np.random.default_rng([judge.seed, 1])
    count = min(trajectories, held_out.n_transitions)
    starts = np.sort(rng.choice(held_out.n_transitions, count, replace=False))
    found = {}
    for name in variants:
        states = held_out.columns.observations[starts]
        imagined, account = imagine_variant(model, name, states, seed=judge.seed, length=length, horizon=horizon)
        found[name] = _chains(imagined, account, held_out, starts, judge, horizon, length, longest)
    return found


def _chains(
    imagined: SyntheticTrajectories,
    account: GenerationReport,
    held_out: Trajectories,
    starts: IntArray,
    judge: Judge,
    horizon: int,
    length: int | None,
    longest: int,
) -> ChainFidelity:
    real = _Continuations(held_out, starts, imagined.lengths, horizon)
    windows = account.windows / len(imagined)  # shares of windows become shares of trajectories: one ends in one window
    at_end = imagined.terminated[np.arange(len(imagined)), imagined.lengths - 1]
    return ChainFidelity(
        horizon=horizon,
        length=length,
        trajectories=len(imagined),
        mean_length=mean_length(imagined),
        ended_terminal=float(at_end.mean()),
        ended_disagreement=(account.disagreement - account.left_data) * windows,
        ended_range=account.left_data * windows,
        ended_residual=account.cut * windows,
        full_length=float(np.mean((imagined.lengths == horizon) & ~at_end)),
        mean_return=real.imagined_return(imagined),
        real_mean_return=real.mean_return,
        real_ended_terminal=real.ended_terminal,
        compared_length=float(real.rows.mean()),
        reward_per_row=float(imagined.rewards[imagined.mask].mean()),
        real_reward_per_row=float(real.mean_return / real.rows.mean()),
        links=tuple(_links(imagined, held_out, judge, length or longest)),
    )


class _Continuations:
    """How the data go on from the rows ``starts`` (B,): at most ``lengths`` (B,) rows, less where an episode ends."""

    def __init__(self, data: Trajectories, starts: IntArray, lengths: IntArray, horizon: int) -> None:
        after = np.repeat(data.offsets[1:], data.lengths)[starts]
        self.rows = np.minimum(lengths, after - starts)
        total = np.concatenate([[0], np.cumsum(data.columns.rewards, dtype=np.float64)])
        self.mean_return = float(np.mean(total[starts + self.rows] - total[starts]))
        ends = (after - starts <= horizon) & data.columns.terminated[after - 1]
        self.ended_terminal = metrics.share(ends, ends | (after - starts >= horizon))

    def imagined_return(self, imagined: SyntheticTrajectories) -> float:
        """Mean over the chains of their rewards, each over as many rows as the data go on."""
        compared = np.arange(imagined.rewards.shape[1]) < self.rows[:, None]
        return float(np.where(compared, imagined.rewards, 0).sum(1, dtype=np.float64).mean())


def _links(imagined: SyntheticTrajectories, held_out: Trajectories, judge: Judge, length: int) -> list[LinkFigures]:
    total = int(imagined.lengths.max())
    starts = range(0, total, length)
    limit = max(judge.simulated_rows // len(starts), _LEAST_ROWS)
    usual = float(metrics.step_sizes(held_out.columns, judge.scales).mean())
    return [_link(imagined, start, min(start + length, total), judge, limit, usual) for start in starts]


def _link(
    imagined: SyntheticTrajectories, start: int, stop: int, judge: Judge, limit: int, usual_step: float
) -> LinkFigures:
    rows = rows_between(imagined, start, stop)
    figures = judge.simulated(rows, {}, limit)
    return LinkFigures(
        start=start,
        stop=stop,
        running=float((imagined.lengths > start).mean()),
        rows=len(rows),
        relative_dynamics_error=figures.get("relative_dynamics_error"),
        relative_reward_error=figures.get("relative_reward_error"),
        step_size=float(metrics.step_sizes(rows, judge.scales).mean()) / usual_step if usual_step > 0 else None,
        state_distance=judge.state_distance(rows.next_observations),
    )


def rows_between(trajectories: SyntheticTrajectories, start: int, stop: int) -> Transitions:
    """Rows ``start`` to ``stop`` - 1 of each trajectory that has them."""
    inside = trajectories.mask.copy()
    inside[:, :start] = inside[:, stop:] = False
    return trajectories.to_transitions()[inside[trajectories.mask]]
