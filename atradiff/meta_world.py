"""Meta-World tasks as plain Gymnasium environments with reproducible goals."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium as gym
import numpy as np

GOAL_SEED = 0
"""Seed of the 50 goals of a task (Meta-World's MT1): the same goals in every process."""


def make_meta_world(task: str, *, max_episode_steps: int | None = None, **options: Any) -> gym.Env[Any, Any]:
    """One Meta-World 3 task; each reset draws one of its 50 goals.

    Raises ``ValueError`` for an unknown task, and for more ``max_episode_steps`` than the task itself allows.
    """
    import metaworld

    if task not in metaworld.MT1.ENV_NAMES:
        near = difflib.get_close_matches(task, metaworld.MT1.ENV_NAMES, n=3) or ["reach-v3"]
        raise ValueError(f"Meta-World has no task '{task}'. Did you mean {' or '.join(near)}?")
    benchmark = metaworld.MT1(task, seed=GOAL_SEED)
    sawyer = benchmark.train_classes[task](**options)
    longest = int(sawyer.max_path_length)
    if max_episode_steps is not None and not 1 <= max_episode_steps <= longest:
        raise ValueError(
            f"max_episode_steps of {task} must lie in 1..{longest}, where the task itself ends an episode, "
            f"got {max_episode_steps}."
        )
    env: gym.Env[Any, Any] = MetaWorldGoals(sawyer, benchmark.train_tasks)
    return env if max_episode_steps is None else gym.wrappers.TimeLimit(env, max_episode_steps)


class MetaWorldGoals(gym.Wrapper[Any, Any, Any, Any]):
    """Draws a goal at each reset from a generator that ``reset(seed=...)`` seeds.

    Meta-World's own wrapper draws before it seeds, so that two runs with the same seed would see other goals.
    """

    def __init__(self, env: gym.Env[Any, Any], tasks: list[Any]) -> None:
        super().__init__(env)
        self._tasks = tasks
        self._rng = np.random.default_rng(GOAL_SEED)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with the next goal; ``seed`` starts the sequence of goals anew."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        sawyer: Any = self.env.unwrapped
        sawyer.set_task(self._tasks[int(self._rng.integers(len(self._tasks)))])
        return self.env.reset(seed=seed, options=options)
