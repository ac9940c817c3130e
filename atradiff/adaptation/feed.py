"""Between a replay and an adapter: what an update learns from, picked where the rows are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from atradiff.adaptation.config import PickUpConfig
from atradiff.adaptation.pickup import Picked, PickUp
from atradiff.adaptation.td_index import TdErrorPickUp
from atradiff.adaptation.windows import WindowPool, pool_windows
from atradiff.config import Guide
from atradiff.ports import Score
from atradiff.quantiles import quantiles
from atradiff.replay.mixed import MixedReplay
from atradiff.types import FloatArray, IntArray, Transitions


@dataclass(frozen=True)
class PickedWindows:
    """Windows from the picked rows that still gave one, and all that were ``picked``."""

    pool: WindowPool
    picked: Picked

    def scored_pool(self, guide: Guide) -> WindowPool:
        """The pool with the scores that a model with ``guide`` learns. Relevance is the importance of a window's first
        row among all picked ones; the return to go is unknown, since a window is shorter than its episode.
        """
        if guide == "none":
            return self.pool
        picked, wanted = self.picked, self.pool.row_ids
        if guide == "return":
            return self.pool.scored(np.full(len(wanted), np.nan, np.float32))
        order = np.argsort(picked.row_ids)
        places = order[np.searchsorted(picked.row_ids, wanted, sorter=order)]
        return self.pool.scored(quantiles(picked.importance)[places])


class WindowFeed(Protocol):
    """Where an adapter gets its windows: beside it, or from the replay's actor."""

    def picked(self, count: int, lengths: tuple[int, ...]) -> PickedWindows:
        """From ``count`` rows of the pick-up strategy; counts as their use."""
        ...

    def newest(self, count: int, lengths: tuple[int, ...]) -> WindowPool:
        """From the ``count`` newest rows."""
        ...


@dataclass(frozen=True)
class Question:
    """Asked of a replay where it is: picklable if ``to_environment`` is, whose action scale the answers have."""

    count: int
    lengths: tuple[int, ...]
    to_environment: Callable[[Transitions], Transitions]


@dataclass(frozen=True)
class PickQuestion(Question):
    """Which windows the next update should learn from."""

    def __call__(self, replay: MixedReplay) -> PickedWindows:
        picked = pick_up_of(replay).pick(self.count)
        return PickedWindows(pool_windows(replay, picked.row_ids, self.lengths, self.to_environment), picked)


@dataclass(frozen=True)
class NewestQuestion(Question):
    """The windows that the agent made last."""

    def __call__(self, replay: MixedReplay) -> WindowPool:
        total = replay.real.total_added
        rows = np.arange(max(total - self.count, total - len(replay.real)), total)
        return pool_windows(replay, rows, self.lengths, self.to_environment)


class LocalFeed:
    """A :class:`WindowFeed` over a replay in the same process.

    ``score`` gives |TD| (N,) of transitions by the learner's current networks: a TD-error index is renewed by it before
    each pick. None: the errors of the learner's own updates stand.
    """

    def __init__(
        self,
        replay: MixedReplay,
        to_environment: Callable[[Transitions], Transitions],
        score: Callable[[Transitions], FloatArray] | None = None,
    ) -> None:
        self._replay, self._to_environment, self._score = replay, to_environment, score

    def picked(self, count: int, lengths: tuple[int, ...]) -> PickedWindows:
        """As :class:`WindowFeed`; the index is scored anew first, where ``score`` was given."""
        if self._score is not None:
            rescore(self._replay, self._score)
        return PickQuestion(count, lengths, self._to_environment)(self._replay)

    def newest(self, count: int, lengths: tuple[int, ...]) -> WindowPool:
        """As :class:`WindowFeed`."""
        return NewestQuestion(count, lengths, self._to_environment)(self._replay)


def pick_up_of(replay: MixedReplay) -> PickUp:
    """The replay's watcher, which must be a pick-up strategy; ``ValueError`` where it is none."""
    if not hasattr(replay.watcher, "pick"):
        raise ValueError(f"the replay's watcher must be a pick-up strategy, got {replay.watcher!r}: see make_pick_up.")
    return replay.watcher  # type: ignore[return-value]


@dataclass(frozen=True)
class ScoreQuestion:
    """Which rows a learner far away should score anew: all of a TD-error index, none for other strategies."""

    def __call__(self, replay: MixedReplay) -> tuple[IntArray, Transitions]:
        pick_up = pick_up_of(replay)
        row_ids = pick_up.row_ids if isinstance(pick_up, TdErrorPickUp) else np.empty(0, np.int64)
        return row_ids, rows_of(replay, row_ids)


@dataclass(frozen=True)
class ScoreAnswer:
    """What the learner says to a :class:`ScoreQuestion`; rows that were overwritten meanwhile are passed over."""

    row_ids: IntArray  # (N,)
    td_errors: FloatArray  # (N,)

    def __call__(self, replay: MixedReplay) -> None:
        pick_up_of(replay).scored(self.row_ids, self.td_errors)


def rescore(replay: MixedReplay, score: Callable[[Transitions], FloatArray]) -> None:
    """Renew a TD-error index in one pass of ``score`` over its rows; nothing for other strategies."""
    pick_up = pick_up_of(replay)
    if isinstance(pick_up, TdErrorPickUp):
        pick_up.rescore(lambda row_ids: score(rows_of(replay, row_ids)))


def scorer(score: Score | None, config: PickUpConfig) -> Callable[[Transitions], FloatArray] | None:
    """What re-scores as ``config`` says; None where that asks for no re-scoring, or the learner cannot."""
    if score is None or not (config.indicator == "td" and config.rescore):
        return None
    return lambda rows: score(rows, config.draws)


def rows_of(replay: MixedReplay, row_ids: IntArray) -> Transitions:
    """Real rows by their ids; they must still be in the ring."""
    slots = row_ids % replay.real.capacity
    return Transitions(**{name: replay.real[name][slots] for name in replay.real.columns})
