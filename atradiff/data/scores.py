"""D4RL-normalised scores: 0 is a random policy's mean return, 100 an expert's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atradiff.data.d4rl_table import DATASETS
from atradiff.data.d4rl_tasks import TASKS, D4RLTask
from atradiff.data.errors import DataError


def normalized_score(name: str, returns: ArrayLike) -> NDArray[np.float64]:
    """``100 (R - random) / (expert - random)`` for each return, on the 0-100 scale of published tables.

    ``name`` is a D4RL data set (``hopper-medium-v2``), a D4RL task (``hopper``) or an environment id
    (``Hopper-v5``). Raises :class:`DataError` where the task has no reference returns.
    """
    task = find_task(name)
    if task is None or task.random_return is None or task.expert_return is None:
        raise DataError(
            f"'{name}' has no D4RL reference returns.",
            f"Reference returns are known for {sorted(n for n, t in TASKS.items() if t.expert_return is not None)}.",
        )
    values: NDArray[Any] = np.asarray(returns, dtype=np.float64)
    return 100.0 * (values - task.random_return) / (task.expert_return - task.random_return)


def has_score(name: str | None) -> bool:
    """Whether :func:`normalized_score` knows ``name``."""
    task = find_task(name) if name else None
    return task is not None and task.expert_return is not None


def find_task(name: str) -> D4RLTask | None:
    """The D4RL task behind a data set name, a task name or an environment id of any version; None if there is none.

    An environment made with options (``PointMaze_UMaze-v3?continuing_task=false``) is another task.
    """
    if name in DATASETS:
        return DATASETS[name].task
    if name in TASKS:
        return TASKS[name]
    bare = _unversioned(name)
    return next((t for t in TASKS.values() if t.environment and _unversioned(t.environment) == bare), None)


def _unversioned(env_id: str) -> str:
    return re.sub(r"-v\d+$", "", env_id)
