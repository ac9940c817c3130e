"""Scores that guidance steers by: what each row of data promises (return-to-go), or how much it can teach (relevance).

Scores are quantiles among the rows of the data, so that a target means the same for every task: 1 is the best that the
data show, 0.5 their median. NaN marks a score that nobody knows; training leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from atradiff.config import DiffuserConfig, require
from atradiff.data.normalize import RowCodec
from atradiff.data.tasks import TaskRows
from atradiff.data.trajectories import Trajectories
from atradiff.dynamics import DynamicsEnsemble
from atradiff.quantiles import quantiles
from atradiff.types import FloatArray, IntArray

_LARGEST_TAIL = 0.5
"""Of a row's discounted weights, so much may lie beyond a time-out before its return counts as unknown."""

_CURIOSITY_UPDATES = 500
_CHUNK = 4096


def guide_scores(data: Trajectories, config: DiffuserConfig, relevance: Callable[[], FloatArray]) -> FloatArray | None:
    """(N,) the score of the window that starts at each row, by the guide of ``config``; None for a model without one.

    ``relevance`` gives a number for each row (N,), whatever its unit. Raises ``ValueError`` where the scores tell no
    window from another.
    """
    if config.guide == "none":
        return None
    if config.guide == "return":
        raw = returns_to_go(data, config.guide_discount)
    else:
        raw = following_means(relevance(), data.offsets, config.longest)
    known = raw[np.isfinite(raw)]
    require(len(known) > 0, "guide: return", 0, _NO_RETURNS)
    require(known.min() < known.max(), "scores of the guide", float(known[0]), "must differ between rows of the data")
    return quantiles(raw)


_NO_RETURNS = (
    "must know the return-to-go of some row: every row is too near to a time-out; lower guide_discount (rows known)"
)


def returns_to_go(data: Trajectories, discount: float) -> FloatArray:
    """(N,) discounted rewards from each row to the end of its episode (Decision Diffuser, Ajay et al. 2023).

    An episode that was truncated would have gone on: its rows are taken to go on earning at the discounted rate of what
    was seen of them, G / (1 - discount^n) after n rows. Where half of the weights or more lie beyond the time-out
    (with a discount of 1 always), the return is unknown.
    """
    from scipy.signal import lfilter

    sums = np.empty(data.n_transitions)
    for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        backwards = data.columns.rewards[start:end][::-1].astype(np.float64)
        sums[start:end] = lfilter([1.0], [1.0, -discount], backwards)[::-1]
    last = np.repeat(data.offsets[1:] - 1, data.lengths)
    beyond = discount ** (last - np.arange(len(last)) + 1.0)
    beyond[np.asarray(data.columns.terminated)[last]] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(beyond < _LARGEST_TAIL, sums / (1 - beyond), np.nan).astype(np.float32)


def following_means(values: FloatArray, offsets: IntArray, rows: int) -> FloatArray:
    """(N,) mean of ``values`` (N,) over each row and those after it in its episode, ``rows`` of them or what is left.

    With the rows of the longest window: a shorter one that starts there has the same relevance.
    """
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    first = np.arange(len(values))
    end = np.minimum(first + rows, np.repeat(offsets[1:], np.diff(offsets)))
    return ((sums[end] - sums[first]) / (end - first)).astype(np.float32)


def fitted_curiosity(
    data: Trajectories, config: DiffuserConfig, codec: RowCodec, seed: int, device: torch.device
) -> FloatArray:
    """:func:`curiosity` of a one-step model that is fitted to ``data`` for it: a few seconds of CPU.

    The diffuser's own one-step model cannot serve: when a fit begins it knows nothing yet.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not the GPUs' generators, as torch.manual_seed does
        model = DynamicsEnsemble.of(config, codec).to(device)
    tasks = TaskRows.of(data) if config.task_size else None
    model.update(data.columns, _CURIOSITY_UPDATES, seed=seed, rate=1e-3, tasks=tasks)
    return curiosity(model, data, config)


def curiosity(model: DynamicsEnsemble, data: Trajectories, config: DiffuserConfig) -> FloatArray:
    """(N,) how wrong a one-step model is about each row: the relevance that needs no learner (Prioritized Generative
    Replay, Wang et al. 2024).
    """
    tasks, device = TaskRows.of(data) if config.task_size else None, model.state_mean.device
    errors = []
    for start in range(0, data.n_transitions, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, data.n_transitions))
        part = data.columns[rows]
        told = [part.observations, part.actions, part.next_observations] + ([] if tasks is None else [tasks[rows]])
        errors.append(model.residual(*(torch.as_tensor(x, device=device) for x in told)).cpu().numpy())
    return np.concatenate(errors)
