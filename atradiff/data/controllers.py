"""Energy controllers of the two classic swing-up tasks."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class MountainCarController:
    """Pushes in the direction of motion, so that every push adds energy, until the car is over the hill.

    ``push`` in (0, 1]: weaker pushes cost less action penalty and need more swings.
    """

    def __init__(self, push: float = 1.0) -> None:
        if not 0 < push <= 1:
            raise ValueError(f"push must lie in (0, 1], got {push}.")
        self._push = push

    def act(self, observation: NDArray[Any], env: gym.Env[Any, Any]) -> NDArray[np.float32]:  # noqa: ARG002
        """Push the way the car rolls: the swing grows until it leaves the valley."""
        velocity = float(observation[1])
        return np.array([self._push if velocity >= 0 else -self._push], np.float32)


class PendulumController:
    """Swings up by energy (Astrom and Furuta, 2000) and balances by a linear law near the top.

    Gymnasium's Pendulum has g = 10, m = l = 1: with the angle th from upright, th'' = 15 sin th + 3 u, so that the
    energy E = th'^2 / 2 + 15 (cos th - 1) is 0 at rest on top and changes by 3 u th'.
    """

    _CATCH_ANGLE = 0.35  # rad; beyond it the torque limit 2 cannot hold the pendulum (15 sin th < 6)
    _GAIN_ANGLE, _GAIN_SPEED, _GAIN_ENERGY = 12.0, 3.0, 0.5

    def act(self, observation: NDArray[Any], env: gym.Env[Any, Any]) -> NDArray[np.float32]:  # noqa: ARG002
        """The torque (1,) in [-2, 2] for ``observation`` (3,): cosine, sine and speed of the angle."""
        cos, sin, speed = (float(x) for x in observation)
        angle = math.atan2(sin, cos)
        energy = speed**2 / 2 + 15.0 * (cos - 1.0)
        if abs(angle) < self._CATCH_ANGLE and abs(speed) < 2.5:
            torque = -self._GAIN_ANGLE * angle - self._GAIN_SPEED * speed
        else:
            torque = -self._GAIN_ENERGY * energy * (speed if speed != 0 else 1.0)
        return np.array([np.clip(torque, -2.0, 2.0)], np.float32)
