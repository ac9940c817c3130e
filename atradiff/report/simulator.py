"""The real environment as a function of (observation, action): the yardstick for imagined transitions.

Where the observation determines the environment's state, that state is set and the environment takes one step. The
step goes through the environment's own wrappers, so a wrapped reward is judged as the agent would see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from atradiff.environments import make_env
from atradiff.types import ActionArray, BoolArray, FloatArray, Spaces

Observation = NDArray[np.float64]  # (S,) one observation, as the setters see it


class UnsettableEnvironment(ValueError):
    """The environment's state cannot be recovered from its observation; the message says why."""


@dataclass(frozen=True)
class _Rule:
    """How to put one environment into the state that an observation describes."""

    set_state: Callable[[Any, Observation], None]
    check: Callable[[Any], None] = lambda _env: None  # raises UnsettableEnvironment for settings that hide the state
    velocity_limit: float = math.inf  # observed joint velocities are clipped here, so rows at the limit are ambiguous
    hidden_reward: str = ""  # why the reward does not follow from the observation, where it does not


@dataclass(frozen=True)
class SimulatedSteps:
    """What the real environment answers to N rows. Rows that are not ``valid`` hold NaN and say nothing.

    A row is invalid when its observation is clipped, so that the state behind it is unknown, or when the physics
    diverges from it (impossible postures).
    """

    next_observations: FloatArray  # (N, S)
    rewards: FloatArray  # (N,), meaningless where the simulator's ``hidden_reward`` says so
    terminated: BoolArray  # (N,)
    valid: BoolArray  # (N,)

    def only(self, rows: BoolArray) -> SimulatedSteps:
        """The same, with only ``rows`` (N,) of the valid ones valid."""
        return replace(self, valid=self.valid & rows)


class Simulator:
    """Steps a real environment from given observations, one row after the other."""

    def __init__(self, env: gym.Env[Any, Any], rule: _Rule) -> None:
        self._env = env
        self._rule = rule
        self._base = env.unwrapped
        env.reset(seed=0)  # wrappers refuse a step before the first reset

    @property
    def spaces(self) -> Spaces:
        return Spaces.from_gymnasium(self._env.observation_space, self._env.action_space)

    @property
    def hidden_reward(self) -> str:
        """Why rewards do not follow from observations in this environment; empty where they do."""
        return self._rule.hidden_reward

    def step(self, observations: FloatArray, actions: ActionArray) -> SimulatedSteps:
        """One step from each of ``observations`` (N, S) with ``actions`` (N, A), or int64 (N,) for discrete actions.

        The answer for a row depends on that row only. Raises ``ValueError`` for values that are not finite.
        """
        if not (np.isfinite(observations).all() and np.isfinite(actions).all()):
            raise ValueError("the simulator was given observations or actions that are NaN or infinite.")
        n, size = observations.shape
        out = np.full((n, size), np.nan, np.float32), np.full(n, np.nan, np.float32), np.zeros(n, np.bool_)
        valid = self._determined(observations)
        with _diverging_quietly(self._base):
            for row in np.flatnonzero(valid).tolist():
                valid[row] = self._step_row(np.asarray(observations[row], np.float64), actions[row], row, out)
        return SimulatedSteps(*out, valid=valid)

    def play(self, observation: FloatArray, actions: ActionArray) -> SimulatedSteps | None:
        """A run from ``observation`` (S,) under ``actions`` (K, A), or int64 (K,), up to its first terminal row.

        Only the first state is set, so that observations clipped on the way do no harm. None where the first one is,
        or where the physics diverges.
        """
        if not self._determined(observation[None])[0]:
            return None
        rows = []
        with _diverging_quietly(self._base):
            self._rule.set_state(self._base, np.asarray(observation, np.float64))
            for action in actions:
                answer = self._act(action)
                if answer is None:
                    return None
                rows.append(answer)
                if answer[2]:
                    break
        following, rewards, terminated = (np.stack(column) for column in zip(*rows, strict=True))
        return SimulatedSteps(following, rewards, terminated, valid=np.ones(len(rows), np.bool_))

    def _determined(self, observations: FloatArray) -> BoolArray:
        limit = self._rule.velocity_limit
        if math.isinf(limit):
            return np.ones(len(observations), np.bool_)
        start = self._base.model.nq - _skipped(self._base)
        velocities = observations[:, start : start + self._base.model.nv]
        return np.asarray((np.abs(velocities) < limit).all(axis=1))

    def _step_row(
        self, observation: Observation, action: Any, row: int, out: tuple[FloatArray, FloatArray, BoolArray]
    ) -> bool:
        self._rule.set_state(self._base, observation)
        answer = self._act(action)
        if answer is None:
            return False
        out[0][row], out[1][row], out[2][row] = answer
        return True

    def _act(self, action: Any) -> tuple[FloatArray, np.float32, bool] | None:
        """(next observation, reward, terminated) from where the environment is; None where its physics diverges."""
        answer, reward, terminated, _, _ = self._env.step(action)
        answer = gym.spaces.flatten(self._env.observation_space, answer)
        if not np.isfinite(answer).all() or _diverged(self._base):
            return None
        return np.asarray(answer, np.float32), np.float32(reward), bool(terminated)


def simulator_for(env_id: str, **options: Any) -> Simulator:
    """A simulator of the environment that :func:`~atradiff.environments.make_env` makes.

    Raises :class:`UnsettableEnvironment` where the observation does not determine the state.
    """
    env = make_env(env_id, **options)
    name = type(env.unwrapped).__name__
    if name not in _RULES:
        env.close()
        raise UnsettableEnvironment(
            f"{env_id} ({name}) cannot be set from an observation: no rule recovers its whole state. "
            f"Known: {', '.join(sorted(_RULES))}."
        )
    _RULES[name].check(env.unwrapped)
    return Simulator(env, _RULES[name])


def _skipped(base: Any) -> int:
    """Leading positions that a MuJoCo task keeps out of its observation (the way covered so far)."""
    if hasattr(base, "observation_structure"):
        return int(base.observation_structure.get("skipped_qpos", 0))
    # Before -v5 the tasks do not say: those that keep positions out at all have a flag for it.
    if not getattr(base, "_exclude_current_positions_from_observation", False):
        return 0
    return 2 if type(base).__name__ in ("AntEnv", "SwimmerEnv") else 1


def _set_mujoco(base: Any, observation: Observation) -> None:
    model, skipped = base.model, _skipped(base)
    positions = np.concatenate([np.zeros(skipped), observation[: model.nq - skipped]])
    _forward(base, positions, observation[model.nq - skipped :][: model.nv])


def _forward(base: Any, positions: Observation, velocities: Observation) -> None:
    # The solver's warm start is not part of an observation; left alone, it would let one row leak into the next.
    base.data.qacc_warmstart[:] = 0.0
    base.data.warning.number[:] = 0
    base.set_state(positions, velocities)


def _diverged(base: Any) -> bool:
    """Whether MuJoCo gave the step up and started over from its default posture."""
    return hasattr(base, "data") and bool(base.data.warning.number.any())


@contextmanager
def _diverging_quietly(base: Any) -> Iterator[None]:
    """Diverged rows are reported as invalid; without this MuJoCo would also print and log a line for each of them."""
    if not hasattr(base, "data"):
        yield
        return
    import mujoco

    mujoco.set_mju_user_warning(lambda _message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(None)


def _set_point_maze(base: Any, observation: Observation) -> None:
    """Gymnasium flattens dictionaries by key: achieved goal (2), desired goal (2), observation (4)."""
    base.goal = observation[2:4].copy()
    _forward(base.point_env, observation[4:6], observation[6:8])


def _check_point_maze(base: Any) -> None:
    if base.continuing_task and base.reset_target:
        raise UnsettableEnvironment("PointMaze with reset_target draws a new goal at random: its next state is open.")


def _set_pendulum(base: Any, observation: Observation) -> None:
    cosine, sine, velocity = observation
    base.state = np.array([math.atan2(sine, cosine), velocity])


def _set_mountain_car(base: Any, observation: Observation) -> None:
    base.state = observation.copy()


def _set_cart_pole(base: Any, observation: Observation) -> None:
    base.state = observation.copy()
    base.steps_beyond_terminated = None


_RULES: dict[str, _Rule] = {
    "HopperEnv": _Rule(_set_mujoco, velocity_limit=10.0),
    "Walker2dEnv": _Rule(_set_mujoco, velocity_limit=10.0),
    "HalfCheetahEnv": _Rule(_set_mujoco),
    "SwimmerEnv": _Rule(_set_mujoco),
    "InvertedPendulumEnv": _Rule(_set_mujoco),
    "AntEnv": _Rule(
        _set_mujoco,
        hidden_reward="Ant pays for the way from the torso's place one physics substep ago: no observation has it.",
    ),
    "PointMazeEnv": _Rule(_set_point_maze, _check_point_maze),
    "PendulumEnv": _Rule(_set_pendulum),
    "Continuous_MountainCarEnv": _Rule(_set_mountain_car),
    "MountainCarEnv": _Rule(_set_mountain_car),
    "CartPoleEnv": _Rule(_set_cart_pole),
}
