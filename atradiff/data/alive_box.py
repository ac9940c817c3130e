"""Where a task is lost, read off its data: many end as soon as a few state columns leave their bounds (a fall)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from atradiff.types import BoolArray, FloatArray, Transitions

NO_BOUND = float(np.finfo(np.float32).max)
"""Infinity would do, but is refused among the weights that a box travels with."""

_ENDS_PER_BOUND = 10
"""On average over the bounds of a box: with many bounds, any ends can be told from all other rows by chance. A single
bound may tell fewer, as most falls of a robot cross the same one."""

_LEAST_TOLD = 3
"""By a bound, beyond what the ones before it told. One odd end may well lie outermost in some column (a hard fall is
the fastest row of all); that as many do in the same one is hardly chance, however few of all ends they are."""

_MOST_UNTOLD = 0.05
"""Share of the ends that may lie inside. With more of them the task ends for another reason, too."""

AliveBox = tuple[FloatArray, FloatArray]
"""Lowest and highest state (S,) in which a task goes on: it ends exactly where a step leads out of the box."""


def alive_box(rows: Transitions) -> AliveBox:
    """The box that tells the ends of N rows from all others with a few bounds; unbounded where there is none.

    All other rows lie inside, and all ends outside but for a few odd ones. Bounds are taken greedily, the one that
    tells most ends first, each half-way between the states that it divides. Ends that pay are left alone: taken for a
    box, a goal would lie wherever nobody has been beyond it.
    """
    low, high = unbounded(rows.observations.shape[1])
    ends, others = rows.next_observations[rows.terminated], rows.next_observations[~rows.terminated]
    if len(ends) < _ENDS_PER_BOUND or len(others) == 0 or _pays(rows):
        return low, high
    left = np.ones(len(ends), np.bool_)
    for _ in range(len(ends) // _ENDS_PER_BOUND):
        column, below, told = _best_bound(ends, others, left)
        if (told & left).sum() < _LEAST_TOLD:
            break
        if below:
            low[column] = (others[:, column].min() + ends[told, column].max()) / 2
        else:
            high[column] = (others[:, column].max() + ends[told, column].min()) / 2
        left &= ~told
    return (low, high) if left.mean() <= _MOST_UNTOLD else unbounded(len(low))


def bounded(low: FloatArray | Tensor, high: FloatArray | Tensor) -> bool:
    """Whether a box of these bounds, which may be empty, tells an end at all."""
    return bool((low > -NO_BOUND).any() or (high < NO_BOUND).any())


def unbounded(size: int) -> AliveBox:
    """The box of a task whose states (S,) do not tell its end."""
    return np.full(size, -NO_BOUND, np.float32), np.full(size, NO_BOUND, np.float32)


def describe_box(box: AliveBox) -> str:
    """In words, where the states outside lie: ``state[0] < 0.7 or state[1] > 0.2``; empty for an unbounded box."""
    outside = [f"state[{column}] < {low:.3g}" for column, low in enumerate(box[0]) if low > -NO_BOUND]
    outside += [f"state[{column}] > {high:.3g}" for column, high in enumerate(box[1]) if high < NO_BOUND]
    return " or ".join(outside)


def leaves_box(states: FloatArray, box: AliveBox) -> BoolArray:
    """(...) whether states (..., S) lie outside."""
    return np.asarray(((states < box[0]) | (states > box[1])).any(-1))


def _pays(rows: Transitions) -> bool:
    """Whether most ends are worth more than nearly all other rows are: a goal's reward."""
    ends = rows.terminated
    return bool(np.median(rows.rewards[ends]) > np.quantile(rows.rewards[~ends], 0.99))


def _best_bound(ends: FloatArray, others: FloatArray, left: BoolArray) -> tuple[int, bool, BoolArray]:
    """(column, whether it is the lower bound, which of the ``ends`` lie beyond all ``others`` there).

    The one that tells most of those ``left``.
    """
    told = np.stack([ends > others.max(0), ends < others.min(0)])  # (2, ends, S)
    below, column = np.unravel_index((told & left[:, None]).sum(1).argmax(), (2, ends.shape[1]))
    return int(column), bool(below), np.asarray(told[below, :, column])
