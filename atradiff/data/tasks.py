"""Task vectors: what tells the episodes of one task from those of another, where a data set holds several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from atradiff.data.trajectories import Trajectories
from atradiff.types import FloatArray, IntArray, Transitions

Tasks = Literal["none", "one_hot"] | Sequence[Sequence[float]]
"""How joined data sets are told apart: not at all, by their number, or by a vector (T,) for each of them."""


@dataclass(frozen=True)
class TaskRows:
    """The task vector of each of N rows, without a copy for each: ``task_rows[rows]`` is (..., T)."""

    vectors: FloatArray  # (M, T)
    which: IntArray  # (N,) into vectors

    @classmethod
    def of(cls, data: Trajectories) -> TaskRows | None:
        """Of all rows of ``data``; None where its episodes carry no task vectors."""
        if data.tasks is None:
            return None
        return cls(data.tasks, np.repeat(np.arange(len(data), dtype=np.int32), data.lengths))

    @classmethod
    def same(cls, task: FloatArray, rows: int) -> TaskRows:
        """One task (T,) for all ``rows``."""
        return cls(np.asarray(task, np.float32)[None], np.zeros(rows, np.int32))

    def __getitem__(self, rows: IntArray) -> FloatArray:
        return self.vectors[self.which[rows]]

    def followed_by(self, other: TaskRows) -> TaskRows:
        """These rows, then the rows of ``other``."""
        which = np.concatenate([self.which, other.which + len(self.vectors)])
        return TaskRows(np.concatenate([self.vectors, other.vectors]), which)


def episodes_of(data: Trajectories, task: Sequence[float]) -> Trajectories:
    """The episodes of ``data`` whose vector is ``task`` (T,); ``ValueError`` where there are none."""
    known = np.zeros((len(data), 0), np.float32) if data.tasks is None else data.tasks
    wanted = np.asarray(task, np.float32)
    found = (known == wanted).all(1) if known.shape[1] == len(wanted) else np.zeros(len(data), np.bool_)
    if not found.any():
        vectors = ", ".join(str(vector.tolist()) for vector in np.unique(known, axis=0)[:5])
        raise ValueError(f"the data have no episode of task {wanted.tolist()}: theirs are {vectors}.")
    return data.select(np.flatnonzero(found))


def join_tasks(parts: Sequence[Trajectories], tasks: Tasks) -> Trajectories:
    """The episodes of several data sets as one, those of each with its task vector.

    Raises ``ValueError`` for parts whose spaces differ and for vectors that are not one for each part, of one length.
    """
    if not parts:
        raise ValueError("there is nothing to join: give at least one data set.")
    for part in parts[1:]:
        part.spaces.require_equal(parts[0].spaces, "a data set to join", "the first one")
    vectors = _vectors(tasks, len(parts))
    ends = [part.offsets[1:] + before for part, before in zip(parts, _rows_before(parts), strict=True)]
    return replace(
        parts[0],
        columns=Transitions.concatenate([part.columns for part in parts]),
        offsets=np.concatenate([[0], *ends]).astype(np.int64),
        env_id=parts[0].env_id if len({part.env_id for part in parts}) == 1 else None,
        content_hash="",
        tasks=None if vectors is None else np.repeat(vectors, [len(part) for part in parts], axis=0),
    )


def _vectors(tasks: Tasks, count: int) -> FloatArray | None:
    if isinstance(tasks, str):
        if tasks not in ("none", "one_hot"):
            raise ValueError(f"tasks must be none, one_hot or a vector for each data set, got {tasks!r}.")
        return None if tasks == "none" else np.eye(count, dtype=np.float32)
    widths = {len(vector) for vector in tasks}
    if len(tasks) != count or len(widths) != 1 or 0 in widths:
        raise ValueError(
            f"{count} data sets need {count} task vectors of one length, got {len(tasks)} of lengths {sorted(widths)}."
        )
    return np.array(tasks, np.float32)


def _rows_before(parts: Sequence[Trajectories]) -> list[int]:
    return [0, *np.cumsum([part.n_transitions for part in parts])[:-1].tolist()]
