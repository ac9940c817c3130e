"""Offline data in memory (or memory-mapped): whole episodes laid end to end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from atradiff.types import FloatArray, IntArray, Spaces, Transitions


@dataclass(frozen=True)
class Trajectories:
    """E episodes of one task as N contiguous transitions; episode i is the rows ``offsets[i]:offsets[i + 1]``.

    The last row of each episode is ``terminated`` or ``truncated``; no other row is either.
    """

    spaces: Spaces
    columns: Transitions
    offsets: IntArray  # (E + 1,), offsets[0] == 0, offsets[-1] == N
    env_id: str | None = None
    content_hash: str = ""
    tasks: FloatArray | None = None
    """(E, T) a vector for each episode's task, one-hot or an embedding; None: all are of one task."""

    def __post_init__(self) -> None:
        ends = np.asarray(self.offsets)
        if len(ends) < 2 or ends[0] != 0 or ends[-1] != len(self.columns) or np.any(np.diff(ends) < 1):
            raise ValueError(
                f"episode offsets must rise from 0 to the number of transitions ({len(self.columns)}) with at least "
                f"one episode and none empty, got {ends[:3]}...{ends[-3:]}."
            )

        self._require_tasks()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def task_size(self) -> int:
        """T; 0 without task vectors."""
        return 0 if self.tasks is None else self.tasks.shape[1]

    @property
    def n_transitions(self) -> int:
        """N, rows of all episodes."""
        return len(self.columns)

    @property
    def lengths(self) -> IntArray:
        """(E,) transitions per episode."""
        return np.diff(self.offsets)

    @property
    def returns(self) -> FloatArray:
        """(E,) undiscounted sum of rewards of each episode."""
        return np.add.reduceat(self.columns.rewards.astype(np.float64), self.offsets[:-1]).astype(np.float32)

    def episode(self, index: int) -> Transitions:
        """The rows of one episode, in order."""
        return self.columns[slice(self.offsets[index], self.offsets[index + 1])]

    def select(self, episodes: IntArray) -> Trajectories:
        """The given episodes, copied, in the given order; they are other data, so the content hash is left empty.

        Raises ``ValueError`` when ``episodes`` is empty.
        """
        if len(episodes) == 0:
            raise ValueError("no episode was selected: a data set needs at least one.")
        columns = Transitions.concatenate([self.episode(int(i)) for i in episodes])
        offsets = np.concatenate([[0], np.cumsum(self.lengths[episodes])]).astype(np.int64)
        tasks = None if self.tasks is None else self.tasks[episodes]
        return replace(self, columns=columns, offsets=offsets, content_hash="", tasks=tasks)

    def split(self, held_out: float, seed: int) -> tuple[Trajectories, Trajectories]:
        """(training, held-out) split by whole episodes; each side gets at least one (E = 1: both are that one)."""
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie strictly between 0 and 1, got {held_out}.")
        if len(self) == 1:
            return self, self
        order = np.random.default_rng(seed).permutation(len(self))
        n = min(max(round(held_out * len(self)), 1), len(self) - 1)
        return self.select(np.sort(order[n:])), self.select(np.sort(order[:n]))

    def _require_tasks(self) -> None:
        if self.tasks is None:
            return
        shape = self.tasks.shape
        if len(shape) != 2 or shape[0] != len(self) or shape[1] == 0 or not np.isfinite(self.tasks).all():
            raise ValueError(
                f"tasks must be one vector of finite numbers for each of the {len(self)} episodes, got shape {shape}."
            )
