"""How far are chained trajectories true? Errors, survivors and distance from the data, link by link."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.trajectories import Trajectories
from atradiff.imagine import GenerationReport
from atradiff.report import metrics
from atradiff.report.fidelity_windows import FidelityModel, imagine_variant, mean_length, require_known, with_room
from atradiff.report.judge import Judge
from atradiff.types import IntArray, SyntheticTrajectories, Transitions

CHAINED = ("raw", "cut", "project", "dynamics")
"""Variants that are chained by default."""

_LEAST_ROWS = 200
"""Rows of each link that are stepped in the environment, where there are as many."""


@dataclass(frozen=True)
class LinkFigures:
    """One stretch of the chains: rows ``start`` to ``stop`` - 1 of each that comes as far. Figures as in RowFigures."""

    start: int
    stop: int
    running: float  # share of the chains that have row ``start``
    learned_running: float | None  # the same of the training data; None where those are not known
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
    ended_still: float  # standing still, without a terminal row
    ended_estimate: float  # at the estimated length
    full_length: float  # as long as the horizon, and ended by none of these
    reward_per_row: float
    real_reward_per_row: float  # of the data from the same states, at most ``horizon`` rows
    compared: int  # chains from states after which no time-out cuts the data short: of these
    mean_return: float | None
    real_mean_return: float | None
    real_ended_terminal: float | None  # share of the data that terminates within ``horizon`` rows
    real_episodes: int  # that these two are of: few say little
    learned_ended_terminal: float | None  # the same share of the training data; None where those are not known
    transitions_per_cpu_second: float
    links: tuple[LinkFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """All figures by the names of the fields, those of the links as a list."""
        return asdict(self)


def chain_fidelity(
    model: FidelityModel,
    held_out: Trajectories,
    judge: Judge,
    train: Trajectories | None = None,
    *,
    horizon: int,
    length: int | None = None,
    stretch: int | None = None,
    longest: int = 25,
    trajectories: int = 256,
    variants: Sequence[str] = CHAINED,
) -> dict[str, ChainFidelity]:
    """Chained trajectories of ``horizon`` rows at most, from held-out states (:func:`chain_starts`), by variant.

    ``train`` (what the model learned from) says how often those episodes end: a share of few held-out ones is a guess.
    Links are stretches of ``stretch`` rows; by default of ``length``, and where that is None, too (windows are as long
    as the length estimator says), of ``longest``.
    """
    require_known(variants)
    starts = chain_starts(held_out, horizon, trajectories, judge.seed)
    real = _Continuations(held_out, starts, horizon)
    learned = None if train is None else _continuations_of_all(train, horizon)
    found = {}
    for name in variants:
        states = held_out.columns.observations[starts]
        started = time.process_time()
        imagined, account = imagine_variant(model, name, states, seed=judge.seed, length=length, horizon=horizon)
        made = _Made(imagined, account, max(time.process_time() - started, 1e-9))
        links = tuple(_links(imagined, held_out, learned, judge, stretch or length or longest))
        found[name] = _chains(made, real, learned, links, horizon, length)
    return found


@dataclass(frozen=True)
class _Made:
    """Chains of one variant, with what happened on the way."""

    imagined: SyntheticTrajectories
    account: GenerationReport
    cpu_seconds: float


def _chains(
    made: _Made,
    real: _Continuations,
    learned: _Continuations | None,
    links: tuple[LinkFigures, ...],
    horizon: int,
    length: int | None,
) -> ChainFidelity:
    imagined, account = made.imagined, made.account
    windows = account.windows / len(imagined)  # shares of windows become shares of trajectories: one ends in one window
    ended = {
        "ended_terminal": float(imagined.terminated[np.arange(len(imagined)), imagined.lengths - 1].mean()),
        "ended_disagreement": (account.disagreement - account.left_data) * windows,
        "ended_range": account.left_data * windows,
        "ended_residual": account.cut * windows,
        "ended_still": account.still * windows,
        "ended_estimate": account.estimated * windows,
    }
    return ChainFidelity(
        horizon=horizon,
        length=length,
        trajectories=len(imagined),
        mean_length=mean_length(imagined),
        **ended,
        full_length=max(1 - sum(ended.values()), 0.0),
        reward_per_row=float(imagined.rewards[imagined.mask].mean()),
        real_reward_per_row=real.reward_per_row,
        compared=int(real.known.sum()),
        mean_return=real.mean_of(np.where(imagined.mask, imagined.rewards, 0).sum(1, dtype=np.float64)),
        real_mean_return=real.mean_of(real.returns),
        real_ended_terminal=real.mean_of(real.terminated),
        real_episodes=real.episodes,
        learned_ended_terminal=None if learned is None else learned.mean_of(learned.terminated),
        transitions_per_cpu_second=float(imagined.lengths.sum()) / made.cpu_seconds,
        links=links,
    )


def chain_starts(data: Trajectories, horizon: int, count: int, seed: int) -> IntArray:
    """(count,) rows to start from, each as often as the others: those at least ``horizon`` rows before a time limit.

    The limit is the longest episode's length. Where none has so much room, all rows; the data then say nothing of how
    whole trajectories end.
    """
    room = with_room(data, horizon)
    pool = np.flatnonzero(room) if room.any() else np.arange(data.n_transitions)
    return np.sort(np.resize(np.random.default_rng([seed, 1]).permutation(pool), count))


class _Continuations:
    """How the data go on from the rows ``starts`` (B,): ``horizon`` rows, or less where an episode ends.

    ``known`` (B,), of ``episodes`` episodes, had room for ``horizon`` rows and were not cut short by a time-out.
    """

    def __init__(self, data: Trajectories, starts: IntArray, horizon: int) -> None:
        left = np.repeat(data.offsets[1:], data.lengths)[starts] - starts
        self.rows = rows = np.minimum(left, horizon)
        total = np.concatenate([[0], np.cumsum(data.columns.rewards, dtype=np.float64)])
        self.returns = total[starts + rows] - total[starts]
        self.terminated = data.columns.terminated[starts + rows - 1]
        self.known = (self.terminated | (left >= horizon)) & with_room(data, horizon)[starts]
        self.episodes = len(np.unique(np.searchsorted(data.offsets, starts[self.known], side="right")))
        self.reward_per_row = float(self.returns.sum() / rows.sum())

    def mean_of(self, values: NDArray[Any]) -> float | None:
        """Mean of ``values`` (B,) over the known ones; None where none is."""
        return float(values[self.known].mean()) if self.known.any() else None


def _continuations_of_all(data: Trajectories, horizon: int) -> _Continuations | None:
    """From all rows with room for ``horizon`` rows; None where there are none."""
    starts = np.flatnonzero(with_room(data, horizon))
    return _Continuations(data, starts, horizon) if len(starts) else None


def _links(
    imagined: SyntheticTrajectories, held_out: Trajectories, learned: _Continuations | None, judge: Judge, stretch: int
) -> list[LinkFigures]:
    total = int(imagined.lengths.max())
    starts = range(0, total, stretch)
    limit = max(judge.simulated_rows // len(starts), _LEAST_ROWS)
    usual = float(metrics.step_sizes(held_out.columns, judge.scales).mean())
    return [_link(imagined, start, min(start + stretch, total), learned, judge, limit, usual) for start in starts]


def _link(
    imagined: SyntheticTrajectories,
    start: int,
    stop: int,
    learned: _Continuations | None,
    judge: Judge,
    limit: int,
    usual_step: float,
) -> LinkFigures:
    rows = rows_between(imagined, start, stop)
    figures = judge.simulated(rows, {}, limit)
    return LinkFigures(
        start=start,
        stop=stop,
        running=float((imagined.lengths > start).mean()),
        learned_running=None if learned is None else learned.mean_of(learned.rows > start),
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
