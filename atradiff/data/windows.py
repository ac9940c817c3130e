"""Windows of K rows cut from whole episodes, with the paper's padding (ATraDiff, section 4.1).

After the last state of an episode that *terminated*, K rows repeat it with a = 0, r = 0 and d = +1, so that every row
of the episode can start a window. An episode that was only *truncated* went on unseen: there is nothing true to pad
with, and padding would teach the model that a time limit is an end. Windows of such episodes lie inside them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from atradiff.data.tasks import TaskRows
from atradiff.data.trajectories import Trajectories
from atradiff.types import ActionArray, BoolArray, FloatArray, IntArray, Transitions


@dataclass(frozen=True)
class Windows:
    """B windows of K rows. ``terminated`` is true on a terminal row and on all the padding after it."""

    states: FloatArray  # (B, K + 1, S)
    actions: ActionArray  # (B, K, A) float32, or (B, K) int64
    rewards: FloatArray  # (B, K)
    terminated: BoolArray  # (B, K)
    padding: BoolArray  # (B, K), true on rows after the episode's end
    tasks: FloatArray | None = None  # (B, T)
    scores: FloatArray | None = None  # (B,) quantiles that guide, NaN where unknown (atradiff.guidance)
    history: Windows | None = None  # the H rows before each window; ``padding`` marks those that are not told

    def __len__(self) -> int:
        return len(self.rewards)

    def transitions(self, which: BoolArray | None = None) -> Transitions:
        """All rows, or those of ``which`` (B, K), that are no padding; rows that windows share come as often."""
        real = ~self.padding if which is None else which & ~self.padding
        return Transitions(
            observations=self.states[:, :-1][real],
            actions=self.actions[real],
            rewards=self.rewards[real],
            next_observations=self.states[:, 1:][real],
            terminated=self.terminated[real],
            truncated=np.zeros(int(real.sum()), np.bool_),
        )


@dataclass(frozen=True)
class Remaining:
    """B states and how many rows were left from each."""

    states: FloatArray  # (B, S)
    rows: IntArray  # (B,) in 1..K_max
    tasks: FloatArray | None = None  # (B, T)


class WindowSampler:
    """Draws windows of any of ``lengths`` uniformly over all rows where one may start; never crosses an episode."""

    def __init__(
        self, data: Trajectories, lengths: tuple[int, ...], scores: FloatArray | None = None, history: int = 0
    ) -> None:
        """``scores`` (N,) of the windows that start at each row, and how many rows of ``history`` go with a window.
        Leaves out lengths that fit nowhere; raises ``ValueError`` where none fits.
        """
        self._columns, self._tasks, self._scores = data.columns, TaskRows.of(data), scores
        self._history, self._first = history, np.repeat(data.offsets[:-1], data.lengths)
        rows = np.arange(data.n_transitions, dtype=np.int64)
        self._last = np.repeat(data.offsets[1:] - 1, data.lengths).astype(np.int64)
        self._padded = np.asarray(data.columns.terminated)[self._last]
        self._starts = {k: rows[self._padded | (rows + k - 1 <= self._last)] for k in lengths}
        self.lengths = tuple(k for k in lengths if len(self._starts[k]))
        if not self.lengths:
            raise ValueError(
                f"no window of {min(lengths)} rows fits the data: its longest episode has {data.lengths.max()} rows "
                "and none terminates. Give longer episodes or shorter lengths."
            )

    def starts(self, length: int) -> IntArray:
        """Rows at which a window of ``length`` may start, rising."""
        if length not in self.lengths:
            raise ValueError(f"length must be one of {self.lengths}, got {length}.")
        return self._starts[length]

    def sample(self, length: int, batch: int, rng: np.random.Generator) -> Windows:
        """``batch`` windows. How much history each is told is drawn, too: see :func:`told_rows`."""
        starts = self.starts(length)
        chosen = starts[rng.integers(len(starts), size=batch)]
        windows = self.at(chosen, length)
        if self._history == 0:
            return windows
        return replace(windows, history=self.before(chosen, told_rows(self._history, batch, rng)))

    def before(self, starts: IntArray, told: IntArray) -> Windows:
        """The H rows before each of ``starts`` (B,); those of another episode, and all but the last ``told`` (B,), are
        padding.
        """
        wanted = starts[:, None] + np.arange(-self._history, 0)
        known = wanted >= np.maximum(self._first[starts], starts - told)[:, None]
        rows = np.where(known, wanted, starts[:, None])
        states = self._columns.observations[np.concatenate([rows, starts[:, None]], axis=1)]
        return history_of(states, self._columns.actions[rows], self._columns.rewards[rows], known)

    def at(self, starts: IntArray, length: int) -> Windows:
        """The windows of ``length`` rows that start at the given rows."""
        wanted = starts[:, None] + np.arange(length)
        last = self._last[starts][:, None]
        rows, padding = np.minimum(wanted, last), wanted > last
        if np.any(padding & ~self._padded[rows]):
            raise ValueError(f"a window of {length} rows would run past the end of a truncated episode.")
        following = self._columns.next_observations[rows]
        actions = self._columns.actions[rows]
        actions[padding] = 0
        return Windows(
            states=np.concatenate([self._columns.observations[starts][:, None], following], axis=1),
            actions=actions,
            rewards=np.where(padding, np.float32(0), self._columns.rewards[rows]),
            terminated=padding | self._columns.terminated[rows],
            padding=padding,
            tasks=None if self._tasks is None else self._tasks[starts],
            scores=None if self._scores is None else self._scores[starts],
        )


def history_of(states: FloatArray, actions: ActionArray, rewards: FloatArray, known: BoolArray) -> Windows:
    """The H rows before windows, from states (B, H + 1, S), s_1 the last of them; rows that are not ``known`` (B, H)
    are padding, whatever the columns hold there.
    """
    shown = known.reshape(*known.shape, *[1] * (actions.ndim - known.ndim))
    told = np.where(shown, actions, actions.dtype.type(0))
    return Windows(states, told, np.where(known, rewards, np.float32(0)), np.zeros_like(known), ~known)


def told_rows(history: int, batch: int, rng: np.random.Generator) -> IntArray:
    """(B,) rows of history that windows are told in training: none, some or all, each a third.

    None is what a request from an agent's newest state is like, some what the first links of a chain are like.
    """
    some = rng.integers(history + 1, size=batch)
    return np.choose(rng.integers(3, size=batch), [0, some, history])
