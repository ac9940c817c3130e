"""Real windows of different lengths in one place, as training draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from atradiff.data.windows import Remaining, Windows, history_of
from atradiff.types import BoolArray, FloatArray, IntArray, Transitions

_ROW_COLUMNS = ("actions", "rewards", "terminated", "padding")
"""Columns of windows that have an entry for each row; states have one more, tasks one for each window."""


class RealWindows(Protocol):
    """What is asked of the replay: :class:`atradiff.replay.mixed.MixedReplay` has it."""

    def windows(self, row_ids: IntArray, length: int) -> tuple[Windows, BoolArray, IntArray]: ...


@dataclass(frozen=True)
class WindowPool:
    """M windows of which the first ``available`` (M,) rows are drawn; in the environment's action scale.

    A window's first k rows are the window of k rows from the same place, so that each serves all shorter lengths.
    Satisfies :class:`atradiff.trainer.WindowDraws`.
    """

    windows: Windows  # (M, K)
    available: IntArray  # (M,) one of the lengths that were asked for
    path: IntArray  # (M, K) the replay's ids of the rows; -1 where the replay had no more
    asked: tuple[int, ...]

    @property
    def row_ids(self) -> IntArray:
        """Of each window's first row (M,)."""
        return self.path[:, 0]

    def __len__(self) -> int:
        return len(self.available)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Those of the lengths asked for that at least one window has."""
        longest = self.available.max(initial=0)
        return tuple(k for k in self.asked if k <= longest)

    def sample(self, length: int, batch: int, rng: np.random.Generator) -> Windows:
        """``batch`` windows of ``length`` rows, uniformly among those that are long enough."""
        rows = np.flatnonzero(self.available >= length)
        if len(rows) == 0:
            raise ValueError(f"length must be one of {self.lengths}, got {length}.")
        return _first_rows(self.windows, rows[rng.integers(len(rows), size=batch)], length)

    def split(self, share: float, rng: np.random.Generator) -> tuple[WindowPool, WindowPool]:
        """(the most, about ``share``) without a common row; none is empty if M > 1.

        Neighbouring rows, whose windows overlap, go to one side together. Windows that run into the other side's rows
        end before them, at one of the lengths asked for, or are left out; where that would leave none they stay as they
        are. How many rows an episode had left is told of the window as it was (:meth:`remaining`).
        """
        block = min(max(round(share * len(self)), 1), max(len(self) // 2, 1), 50)
        blocks = np.unique(self.row_ids // block)
        chosen = rng.choice(blocks, min(max(round(share * len(blocks)), 1), max(len(blocks) - 1, 1)), replace=False)
        aside = np.isin(self.row_ids // block, chosen)
        most, rest = self._only(~aside), self._only(aside)
        apart = most._before(rest._drawn_rows())
        return apart if len(apart) else most, rest

    def transitions(self) -> Transitions:
        """See :meth:`Windows.transitions`."""
        return self.windows.transitions(self._drawn())

    def remaining(self, longest: int) -> Remaining:
        """Of the windows' first states, as :func:`atradiff.lengths.remaining_rows` counts."""
        w = self.windows
        rows = np.where(w.terminated.any(1), w.terminated.argmax(1) + 1, longest)
        return Remaining(w.states[:, 0], np.minimum(rows, longest).astype(np.int64), w.tasks)

    def of_task(self, task: FloatArray | None) -> WindowPool:
        """The same windows as those of the task (T,) that an agent works at."""
        tasks = None if task is None else np.tile(np.asarray(task, np.float32), (len(self), 1))
        return replace(self, windows=replace(self.windows, tasks=tasks))

    def scored(self, scores: FloatArray) -> WindowPool:
        """The same windows with ``scores`` (M,) that guide."""
        return replace(self, windows=replace(self.windows, scores=scores))

    def _only(self, rows: BoolArray) -> WindowPool:
        return WindowPool(_each(self.windows, lambda x: x[rows]), self.available[rows], self.path[rows], self.asked)

    def _drawn(self) -> BoolArray:
        return np.arange(self.path.shape[1]) < self.available[:, None]

    def _drawn_rows(self) -> IntArray:
        return self.path[self._drawn()]

    def _before(self, rows: IntArray) -> WindowPool:
        """Each window as far as it has none of ``rows``; those that are shorter then than the shortest are left out."""
        taken = np.isin(self.path, rows)
        until = np.where(taken.any(1), taken.argmax(1), self.available)
        lengths = np.array([0, *self.asked])
        available = np.minimum(lengths[np.searchsorted(lengths, until, side="right") - 1], self.available)
        return replace(self, available=available)._only(available > 0)


def pool_windows(
    replay: RealWindows,
    row_ids: IntArray,
    lengths: tuple[int, ...],
    to_environment: Callable[[Transitions], Transitions],
) -> WindowPool:
    """For each of ``row_ids`` (N,) the longest of ``lengths`` (rising) that the replay can give; rows with none go."""
    left, parts, available, paths = row_ids, [], [], []
    for length in reversed(lengths):
        windows, whole, path = replay.windows(left, length)
        parts.append(_padded(in_environment_scale(windows, to_environment), lengths[-1]))
        available.append(np.full(len(windows), length, np.int64))
        paths.append(np.pad(path, [(0, 0), (0, lengths[-1] - length)], constant_values=-1))
        left = left[~whole]
    return WindowPool(concatenate_windows(parts), np.concatenate(available), np.concatenate(paths), lengths)


def in_environment_scale(windows: Windows, to_environment: Callable[[Transitions], Transitions]) -> Windows:
    """Windows of the learner's replay with their actions converted; those of padding stay zero."""
    shape = windows.rewards.shape
    flat = windows.actions.reshape(-1, *windows.actions.shape[2:])
    states = windows.states[:, :-1].reshape(-1, windows.states.shape[-1])
    following = windows.states[:, 1:].reshape(states.shape)
    flags = windows.terminated.reshape(-1)
    rows = to_environment(
        Transitions(states, flat, windows.rewards.reshape(-1), following, flags, np.zeros_like(flags))
    )
    actions = rows.actions.reshape(*shape, *flat.shape[1:]).copy()
    actions[windows.padding] = 0
    return replace(windows, actions=actions)


def concatenate_windows(parts: list[Windows]) -> Windows:
    """Windows of one length, one part after the other; where some have a history, that of the others is unknown."""
    told = max((part.history.rewards.shape[1] for part in parts if part.history is not None), default=0)
    if told:
        parts = [part if part.history is not None else _with_unknown_history(part, told) for part in parts]
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Windows)}
    known = {name: values for name, values in columns.items() if all(v is not None for v in values)}
    histories = known.pop("history", None)
    joined = {name: np.concatenate(values) for name, values in known.items()}
    return Windows(**joined, history=None if histories is None else concatenate_windows(histories))


def _with_unknown_history(windows: Windows, rows: int) -> Windows:
    shape = (len(windows), rows)
    actions = np.zeros((*shape, *windows.actions.shape[2:]), windows.actions.dtype)
    states = np.repeat(windows.states[:, :1], rows + 1, axis=1)
    return replace(windows, history=history_of(states, actions, np.zeros(shape, np.float32), np.zeros(shape, np.bool_)))


def _each(windows: Windows, change: Callable[[Any], Any]) -> Windows:
    columns = {f.name: getattr(windows, f.name) for f in fields(Windows)}
    return Windows(**{name: change(value) for name, value in columns.items() if value is not None})


def _first_rows(windows: Windows, rows: IntArray, length: int) -> Windows:
    chosen = _each(windows, lambda x: x[rows])
    cut = {name: getattr(chosen, name)[:, :length] for name in _ROW_COLUMNS}
    return replace(chosen, states=chosen.states[:, : length + 1], **cut)


def _padded(windows: Windows, length: int) -> Windows:
    """Zeros behind the rows of each window, so that there are ``length``."""

    missing = length - windows.rewards.shape[1]

    def widen(name: str) -> np.ndarray:
        values = getattr(windows, name)
        return np.pad(values, [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2))

    columns: dict[str, Any] = {name: widen(name) for name in ("states", *_ROW_COLUMNS)}
    return replace(windows, **columns)
