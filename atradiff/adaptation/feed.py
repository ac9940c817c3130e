"""Between a replay and an adapter: what an update learns from, picked where the rows are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from atradiff.adaptation.pickup import Picked, PickUp
from atradiff.adaptation.td_index import TdErrorPickUp
from atradiff.adaptation.windows import WindowPool, pool_windows
from atradiff.replay.mixed import MixedReplay
from atradiff.types import FloatArray, IntArray, Transitions


@dataclass(frozen=True)
class PickedWindows:
    """Windows from the picked rows that still gave one, and all that were ``picked``."""

    pool: WindowPool
    picked: Picked


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
    """A :class:`WindowFeed` over a replay in the same process."""

    def __init__(self, replay: MixedReplay, to_environment: Callable[[Transitions], Transitions]) -> None:
        self._replay, self._to_environment = replay, to_environment

    def picked(self, count: int, lengths: tuple[int, ...]) -> PickedWindows:
        return PickQuestion(count, lengths, self._to_environment)(self._replay)

    def newest(self, count: int, lengths: tuple[int, ...]) -> WindowPool:
        return NewestQuestion(count, lengths, self._to_environment)(self._replay)


def pick_up_of(replay: MixedReplay) -> PickUp:
    """The replay's watcher, which must be a pick-up strategy; ``ValueError`` where it is none."""
    if not hasattr(replay.watcher, "pick"):
        raise ValueError(f"the replay's watcher must be a pick-up strategy, got {replay.watcher!r}: see make_pick_up.")
    return replay.watcher  # type: ignore[return-value]


def rows_to_score(replay: MixedReplay) -> tuple[IntArray, Transitions] | None:
    """All rows of a TD-error index, for re-scoring by the learner's current networks; None for other strategies.

    The learner answers with :meth:`MixedReplay.report_td_errors`, or at once through :meth:`TdErrorPickUp.rescore`.
    """
    pick_up = pick_up_of(replay)
    if not isinstance(pick_up, TdErrorPickUp):
        return None
    row_ids = pick_up.row_ids
    return row_ids, rows_of(replay, row_ids)


def rescore(replay: MixedReplay, score: Callable[[Transitions], FloatArray]) -> None:
    """Renew a TD-error index in one pass of ``score`` over its rows; nothing for other strategies."""
    pick_up = pick_up_of(replay)
    if isinstance(pick_up, TdErrorPickUp):
        pick_up.rescore(lambda row_ids: score(rows_of(replay, row_ids)))


def rows_of(replay: MixedReplay, row_ids: IntArray) -> Transitions:
    """Real rows by their ids; they must still be in the ring."""
    slots = row_ids % replay.real.capacity
    return Transitions(**{name: replay.real[name][slots] for name in replay.real.columns})
