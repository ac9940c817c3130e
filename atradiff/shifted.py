"""Tasks that can be moved away from the data: the case for a diffuser that follows the agent.

``PointMazeShift-v0?goals=left`` and ``?goals=right`` differ in where the ball has to go, which it observes;
``HalfCheetahShift-v0`` in how fast it shall run (``target_velocity``, in m/s) and in how strong its front leg is
(``front_leg``, 1 as Gymnasium's, 0 for none), which it does not observe.
"""

from __future__ import annotations

from typing import Any, Literal

from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.utils import EzPickle
from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

FRONT_LEG = slice(3, 6)
"""Actuators of the cheetah's front thigh, shin and foot."""

_ARENA = {
    "left": [
        [1, 1, 1, 1, 1, 1, 1],
        [1, "g", "g", "r", "r", "r", 1],
        [1, "g", "g", "r", "r", "r", 1],
        [1, "g", "g", "r", "r", "r", 1],
        [1, 1, 1, 1, 1, 1, 1],
    ],
    "right": [
        [1, 1, 1, 1, 1, 1, 1],
        [1, "r", "r", "r", "g", "g", 1],
        [1, "r", "r", "r", "g", "g", 1],
        [1, "r", "r", "r", "g", "g", 1],
        [1, 1, 1, 1, 1, 1, 1],
    ],
}


class PointMazeShift(PointMazeEnv):
    """An arena of 5 x 3 cells; the reward of each step is exp(-distance to the goal), and only time ends an episode."""

    def __init__(self, goals: Literal["left", "right"] = "left", **options: Any) -> None:
        if goals not in _ARENA:
            raise ValueError(f"goals must be left or right, got {goals!r}.")
        super().__init__(maze_map=_ARENA[goals], reward_type="dense", reset_target=False, **options)
        EzPickle.__init__(self, goals=goals, **options)


class HalfCheetahShift(HalfCheetahEnv):
    """Gymnasium's HalfCheetah that is paid -abs(v - target_velocity), where that is given, and may limp."""

    def __init__(self, target_velocity: float | None = None, front_leg: float = 1.0, **options: Any) -> None:
        if not 0 <= front_leg <= 1:
            raise ValueError(f"front_leg must lie in 0..1 (a share of its full strength), got {front_leg}.")
        super().__init__(**options)
        EzPickle.__init__(self, target_velocity, front_leg, **options)
        self._target_velocity = target_velocity
        self.model.actuator_gear[FRONT_LEG] *= front_leg

    def _get_rew(self, x_velocity: float, action: Any) -> tuple[float, dict[str, float]]:
        if self._target_velocity is None:
            return super()._get_rew(x_velocity, action)
        forward, control = -abs(x_velocity - self._target_velocity), self.control_cost(action)
        return forward - control, {"reward_forward": forward, "reward_ctrl": -control}
