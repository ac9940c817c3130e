"""The PointMaze controller: shortest way through the cells, then proportional-derivative control to the next one."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]


class WaypointController:
    """Drives the ball of gymnasium-robotics' PointMaze to the goal in its observation, wherever that is.

    The flattened observation is ``achieved_goal (2), desired_goal (2), x, y, vx, vy``.
    """

    def __init__(self, env: gym.Env[Any, Any], stiffness: float = 10.0, damping: float = 1.5) -> None:
        maze = getattr(env.unwrapped, "maze", None)
        if maze is None:
            raise ValueError(f"{env} has no maze: the waypoint controller drives gymnasium-robotics' PointMaze family.")
        self._maze = maze
        self._free = {(i, j) for i, row in enumerate(maze.maze_map) for j, struct in enumerate(row) if struct != 1}
        self._stiffness, self._damping = stiffness, damping
        self._ways: dict[Cell, dict[Cell, Cell]] = {}

    def act(self, observation: NDArray[Any], env: gym.Env[Any, Any]) -> NDArray[np.float32]:  # noqa: ARG002
        """The force (2,) in [-1, 1] towards the next waypoint, from the flattened observation (8,)."""
        goal, position, velocity = observation[2:4], observation[4:6], observation[6:8]
        error = self._waypoint(position, goal) - position
        force = self._stiffness * error - self._damping * velocity
        return np.clip(force, -1.0, 1.0).astype(np.float32)

    def _waypoint(self, position: NDArray[Any], goal: NDArray[Any]) -> NDArray[Any]:
        """The goal itself from within its cell, else the centre of the next cell on the way."""
        here, there = self._cell(position), self._cell(goal)
        following = self._way(there).get(here)
        if following is None or following == here:
            return goal
        return np.asarray(self._maze.cell_rowcol_to_xy(np.array(following)))

    def _cell(self, position: NDArray[Any]) -> Cell:
        i, j = self._maze.cell_xy_to_rowcol(position)
        return int(i), int(j)

    def _way(self, goal: Cell) -> dict[Cell, Cell]:
        """For every cell the next one on a shortest way to ``goal`` (breadth first from the goal)."""
        if goal not in self._ways:
            following = {goal: goal}
            queue = deque([goal])
            while queue:
                cell = queue.popleft()
                for near in self._neighbours(cell):
                    if near not in following:
                        following[near] = cell
                        queue.append(near)
            self._ways[goal] = following
        return self._ways[goal]

    def _neighbours(self, cell: Cell) -> list[Cell]:
        i, j = cell
        return [near for near in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)) if near in self._free]
