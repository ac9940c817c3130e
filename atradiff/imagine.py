"""From states to trajectories: windows are sampled, ended, refined, and chained where a horizon asks for more.

s_1 -> length -> rows -> end (d > 0, pruning) -> refine -> [last state is the next s_1] -> ...
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from atradiff.config import PROJECTION_STEPS, Prune, Refine
from atradiff.data.alive_box import AliveBox, leaves_box
from atradiff.data.normalize import DecodedRows
from atradiff.data.windows import Windows, history_of
from atradiff.dynamics import DynamicsEnsemble
from atradiff.pruning import kept_rows
from atradiff.refine import Thresholds, refine_windows
from atradiff.types import BoolArray, FloatArray, IntArray, Spaces, SyntheticTrajectories


@dataclass(frozen=True)
class GenerationReport:
    """What happened on the way to one batch of trajectories. Shares are of windows, lengths in rows."""

    windows: int
    pruned: float
    """Share shortened by pruning, beyond what the terminal flag d > 0 ended."""
    cut: float
    """Share ended by the consistency cut (``refine: cut``)."""
    disagreement: float
    """Share ended by ensemble disagreement or by leaving the data's range (``refine: dynamics`` and ``project``)."""
    mean_window_length: float
    """Before the end, pruning and refinement were applied."""
    mean_length: float
    """Of the finished trajectories; chaining makes it longer than a window."""
    terminated: float
    """Share of trajectories that end in a terminal row."""
    residual: float
    """Mean gap between diffused and one-step next states, in units of the differences' scale; 0 if not asked."""
    left_data: float = 0.0
    """The part of ``disagreement`` that left the data's range."""
    still: float = 0.0
    """Share after which nothing follows since they stand still without being terminal."""
    denied: float = 0.0
    """Share cut short by d > 0 where the box, or the one-step model, sees no end; a chain goes on from there."""
    estimated: float = 0.0
    """Share after which a chain has come to its estimated length."""


@dataclass(frozen=True)
class Ending:
    """How windows are brought to their end."""

    prune: Prune
    refine: Refine
    delta_scale: FloatArray  # (S,)
    noise: float
    thresholds: Thresholds
    alive: AliveBox | None = None
    """None where states do not tell the task's end."""
    projection_steps: int = PROJECTION_STEPS


@dataclass(frozen=True)
class Link:
    """One finished window per running trajectory."""

    rows: DecodedRows
    asked: IntArray  # (B,) rows before the end, pruning and refinement were applied
    lengths: IntArray  # (B,)
    ended: BoolArray  # (B,) nothing may follow
    final: BoolArray  # (B,) the estimated length is reached
    pruned: BoolArray  # (B,)
    denied: BoolArray  # (B,) cut short by d > 0, and no end by what tells them
    stands_still: BoolArray  # (B,) ended by pruning, and by nothing else
    stopped: BoolArray  # (B,) by refinement
    residual: FloatArray  # (B,)
    left_data: BoolArray  # (B,) of those stopped


class WindowSource(Protocol):
    """What chaining needs of a diffuser."""

    def lengths_for(self, states: FloatArray, rows: IntArray) -> tuple[IntArray, BoolArray]:
        """(B,) lengths for windows from ``states``, and whether each is the estimated end of its trajectory."""

    @property
    def history(self) -> int:
        """H, how many rows before a window it is told of."""
        ...

    def windows_for(
        self, states: FloatArray, lengths: IntArray, rows: IntArray, history: Windows | None
    ) -> DecodedRows:
        """Windows (B, K) from ``states`` that go on from ``history`` (B, H), None where H = 0; ``rows`` (B,) are their
        places in the request.
        """


@dataclass(frozen=True)
class EndedWindows:
    """B windows with their ends."""

    rows: DecodedRows
    lengths: IntArray  # (B,) rows that are kept
    pruned: BoolArray  # (B,) where it begins to stand still, before d > 0 or the box ended it
    flagged: BoolArray  # (B,) after a row with d > 0, or one that leaves the box, that is not its last anyway


def end_windows(rows: DecodedRows, lengths: IntArray, ending: Ending) -> EndedWindows:
    """Cut windows after the first row with d > 0, or where they begin to stand still.

    A tail that stands still is terminal where most of its rows say so; then the last kept row carries the flag.
    Where states tell the task's end, only a row that leaves the box is terminal; one with d > 0 is merely the last.
    """
    columns = np.arange(rows.terminated.shape[1])
    asked = columns < lengths[:, None]
    flags = rows.terminated & asked
    told = flags if ending.alive is None else leaves_box(rows.states[:, 1:], ending.alive) & asked
    either = flags | told
    flagged = np.where(either.any(1), either.argmax(1) + 1, lengths)
    pruned = kept_rows(ending.prune, rows.states, lengths, ending.delta_scale, ending.noise)
    kept = np.minimum(flagged, pruned)
    tail = (columns >= kept[:, None]) & asked
    says_so = ((flags & tail).sum(1) * 2 > tail.sum(1)) & (ending.alive is None)
    last = columns == kept[:, None] - 1
    terminated = last & (told | ((pruned < flagged) & says_so)[:, None])
    by_flag = (kept == flagged) & (kept < lengths)
    ended = replace(rows.ending(terminated), rewards_by_kind=None)  # refinement gives rows rewards of its own
    return EndedWindows(ended, kept, pruned < flagged, by_flag)


def make_link(
    source: WindowSource,
    model: DynamicsEnsemble,
    ending: Ending,
    states: FloatArray,
    rows: IntArray,
    history: Windows | None,
) -> Link:
    """One window from each of ``states`` after ``history``; ``rows`` (B,) are their places in the request."""
    lengths, final = source.lengths_for(states, rows)
    window = source.windows_for(states, lengths, rows, history)
    it = end_windows(window, lengths, ending)
    refined = refine_windows(ending.refine, model, ending.thresholds, it.rows, it.lengths, ending.projection_steps)
    at_end = refined.rows.terminated[np.arange(len(rows)), refined.lengths - 1]
    in_place = ending.refine in ("none", "cut")  # other states moved on: only their model may end them
    denied = it.flagged & ~at_end & ~refined.stopped
    return Link(
        rows=refined.rows,
        asked=lengths,
        lengths=refined.lengths,
        ended=at_end | refined.stopped | (it.pruned & in_place),
        final=final & ~denied,  # it has not come to its estimated length
        pruned=it.pruned,
        denied=denied,
        stands_still=it.pruned & in_place & ~at_end & ~refined.stopped,
        stopped=refined.stopped,
        residual=refined.residual,
        left_data=refined.left_data,
    )


def imagine(
    source: WindowSource,
    model: DynamicsEnsemble,
    ending: Ending,
    spaces: Spaces,
    states: FloatArray,
    total: int,
    chained: bool,
    version: int,
) -> tuple[SyntheticTrajectories, GenerationReport]:
    """Trajectories of at most ``total`` rows from ``states`` (B, S): one window each, or windows ``chained``.

    A chain goes on from its last state until it is terminated, stopped by refinement, stands still, has reached the
    estimated length, or is ``total`` rows long. The estimate is a quantile, so some run over: it takes two windows in a
    row that were to be the last one. Only running chains are sampled.
    """
    sheet = _Sheet(spaces, states, total)
    active, was_final = np.arange(len(states)), np.zeros(len(states), np.bool_)
    links: list[Link] = []
    estimated = 0
    while len(active):
        here = sheet.observations[active, sheet.lengths[active]]
        history = sheet.before(active, source.history) if source.history else None
        link = _within(make_link(source, model, ending, here, active, history), total - sheet.lengths[active])
        sheet.append(active, link)
        links.append(link)
        goes_on = ~link.ended & (sheet.lengths[active] < total)
        done = link.final & was_final[active]
        estimated += int((goes_on & done).sum())
        running = goes_on & ~done
        was_final[active] = link.final
        active = active[running] if chained else active[:0]
    trajectories = sheet.finish(version)
    return trajectories, _report(trajectories, links, ending, estimated)


def _within(link: Link, room: IntArray) -> Link:
    """The link without what happens beyond the ``room`` (B,) that is left of a horizon: nobody gets there."""
    there = link.lengths <= room
    return replace(
        link,
        stopped=link.stopped & there,
        stands_still=link.stands_still & there,
        left_data=link.left_data & there,
        denied=link.denied & there,
    )


def require_finite(imagined: SyntheticTrajectories) -> None:
    """Raise ``FloatingPointError`` rather than let NaN or infinity into a replay buffer."""
    for name in ("observations", "actions", "rewards"):
        if not np.isfinite(getattr(imagined, name)).all():
            raise FloatingPointError(
                f"the model (version {imagined.generator_version}) imagined {name} that are NaN or infinite: its "
                "weights are damaged or its fit diverged. Load other weights or fit it again."
            )


class _Sheet:
    """Trajectories as they grow."""

    def __init__(self, spaces: Spaces, states: FloatArray, total: int) -> None:
        batch, width = len(states), total
        self.observations = np.zeros((batch, width + 1, spaces.observation_size), np.float32)
        self.observations[:, 0] = states
        self.actions = (
            np.zeros((batch, width), np.int64)
            if spaces.discrete
            else np.zeros((batch, width, spaces.action_size), np.float32)
        )
        self.rewards = np.zeros((batch, width), np.float32)
        self.terminated = np.zeros((batch, width), np.bool_)
        self.lengths = np.zeros(batch, np.int64)

    def append(self, active: IntArray, link: Link) -> None:
        """Write the kept rows of a link behind what each of the ``active`` trajectories has; drop what has no room."""
        kept = np.minimum(link.lengths, self.rewards.shape[1] - self.lengths[active])
        which, column = np.nonzero(np.arange(link.rows.rewards.shape[1]) < kept[:, None])
        target = active[which], self.lengths[active[which]] + column
        self.observations[target[0], target[1] + 1] = link.rows.states[which, column + 1]
        self.actions[target] = link.rows.actions[which, column]
        self.rewards[target] = link.rows.rewards[which, column]
        self.terminated[target] = link.rows.terminated[which, column]
        self.lengths[active] += kept

    def before(self, active: IntArray, count: int) -> Windows:
        """The last ``count`` rows of the ``active`` trajectories; padding where they are younger."""
        which, now = active[:, None], self.lengths[active][:, None]
        wanted = now + np.arange(-count, 0)
        known = wanted >= 0
        rows = np.where(known, wanted, now - 1)
        states = self.observations[which, np.concatenate([rows, now], axis=1)]
        return history_of(states, self.actions[which, rows], self.rewards[which, rows], known)

    def finish(self, version: int) -> SyntheticTrajectories:
        """The trajectories, as wide as the longest of them."""
        width = int(self.lengths.max())
        return SyntheticTrajectories(
            observations=self.observations[:, : width + 1],
            actions=self.actions[:, :width],
            rewards=self.rewards[:, :width],
            terminated=self.terminated[:, :width],
            lengths=self.lengths,
            generator_version=version,
        )


def _report(trajectories: SyntheticTrajectories, links: list[Link], ending: Ending, estimated: int) -> GenerationReport:
    stopped = float(np.concatenate([link.stopped for link in links]).mean())
    asked = np.concatenate([link.asked for link in links])
    return GenerationReport(
        windows=len(asked),
        pruned=float(np.concatenate([link.pruned for link in links]).mean()),
        cut=stopped if ending.refine == "cut" else 0.0,
        disagreement=stopped if ending.refine in ("project", "dynamics") else 0.0,
        mean_window_length=float(asked.mean()),
        mean_length=float(trajectories.lengths.mean()),
        terminated=float(trajectories.terminated.any(1).mean()),
        residual=float(np.concatenate([link.residual for link in links]).mean()),
        left_data=float(np.concatenate([link.left_data for link in links]).mean()),
        still=float(np.concatenate([link.stands_still for link in links]).mean()),
        denied=float(np.concatenate([link.denied for link in links]).mean()),
        estimated=estimated / len(asked),
    )
