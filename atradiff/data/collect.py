"""Record episodes of a policy in an environment into the trajectory store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from atradiff.data.errors import DataError
from atradiff.data.policies import Policy, PolicyLoader, find_policy, random_action
from atradiff.data.schema import INFO, StoreInfo
from atradiff.data.store import write_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.environments import make_env
from atradiff.progress_bar import ProgressBar
from atradiff.staging import refuse_existing
from atradiff.types import Spaces, Transitions

RANDOM_SHARE = 0.2
"""Of an episode's noise level, the share of steps that take a uniformly random action."""


@dataclass(frozen=True)
class _Episode:
    columns: Transitions
    success: bool | None


def collect(
    env: str,
    policy: str | Policy,
    episodes: int,
    out: str | Path,
    *,
    seed: int = 0,
    noise: float = 0.0,
    max_steps: int | None = None,
    load_policy: PolicyLoader | None = None,
    licence: str = "made by the user",
    overwrite: bool = False,
    progress: bool = True,
) -> StoreInfo:
    """Run ``episodes`` episodes of ``policy`` in the environment ``env`` and write them to the store ``out``.

    Args:
        env: environment id, as :func:`atradiff.environments.make_env` takes it.
        policy: ``scripted``, ``random``, a checkpoint's path (read by ``load_policy``), or a policy object.
        episodes: how many.
        out: folder of the store; it appears whole, at the end.
        seed: of resets, random actions and noise: the same seed gives the same data.
        noise: in [0, 1]. Each episode draws its own level uniformly from [0, noise]; at that level, actions get
            Gaussian noise of that share of their half-range, and a fifth of that share of steps is random.
        max_steps: truncate episodes there; needed where the environment never ends one.
        load_policy: reads checkpoints.
        licence: of the data made.
        overwrite: replace a store that stands at ``out``; it stays until the new one is whole.
        progress: show a bar.

    Raises:
        ValueError: for a setting out of range, an unknown environment or policy.
        DataError: when ``out`` exists.
    """
    _check(episodes, noise, max_steps)
    refuse_existing(Path(out), overwrite=overwrite, ours=INFO)
    environment = make_env(env)
    try:
        spaces = Spaces.from_gymnasium(environment.observation_space, environment.action_space)
        actor = find_policy(policy, env, environment, seed, load_policy) if isinstance(policy, str) else policy
        recorder = _Recorder(environment, actor, noise, max_steps, env, seed)
        recorded = recorder.record(episodes, progress)
    finally:
        environment.close()
    name = policy if isinstance(policy, str) else type(policy).__name__
    return _write(Path(out), recorded, spaces, env, name, (seed, noise), licence, overwrite)


class _Recorder:
    """Plays episodes one after the other with one noise generator."""

    def __init__(
        self, env: gym.Env[Any, Any], policy: Policy, noise: float, max_steps: int | None, env_id: str, seed: int
    ) -> None:
        self._env, self._policy, self._env_id, self._seed = env, policy, env_id, seed
        self._noise, self._max_steps = noise, max_steps
        self._rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))

    def record(self, episodes: int, progress: bool) -> list[_Episode]:
        """Play ``episodes`` episodes, each from a seed of its own."""
        seeds = np.random.SeedSequence(self._seed).generate_state(episodes)
        played: list[_Episode] = []
        with ProgressBar(
            total=episodes, desc=f"collecting {self._env_id}", unit="episode", disable=not progress
        ) as bar:
            for seed in seeds:
                played.append(self._play(int(seed)))
                bar.update()
        return played

    def _play(self, seed: int) -> _Episode:
        level = self._rng.uniform(0.0, self._noise) if self._noise > 0 else 0.0
        observation, _ = self._env.reset(seed=seed)
        rows: list[tuple[Any, Any, float, Any, bool, bool]] = []
        success: bool | None = None
        while not rows or not (rows[-1][4] or rows[-1][5]):
            action = self._act(observation, level)
            following, reward, terminated, truncated, info = self._env.step(action)
            truncated = truncated or len(rows) + 1 == self._max_steps
            rows.append((observation, action, float(reward), following, bool(terminated), bool(truncated)))
            success = _either(success, _success(info))
            observation = following
        if success is None and self._env_id.startswith("MountainCar"):
            success = rows[-1][4]
        return _Episode(_columns(rows, self._env_id), success)

    def _act(self, observation: NDArray[Any], level: float) -> Any:
        action = self._policy.act(observation, self._env)
        space: Any = self._env.action_space
        if level > 0 and self._rng.random() < RANDOM_SHARE * level:
            return random_action(space, self._rng)
        if isinstance(space, gym.spaces.Discrete):
            return int(action)
        moved = np.asarray(action, dtype=np.float64)
        if level > 0:
            half_range = np.where(np.isfinite(space.high - space.low), (space.high - space.low) / 2, 1.0)
            moved = moved + self._rng.normal(size=moved.shape) * level * half_range
        return np.clip(moved, space.low, space.high).astype(np.float32)


def _success(info: dict[str, Any]) -> bool | None:
    value = info.get("success", info.get("is_success"))
    return None if value is None else bool(value)


def _either(before: bool | None, now: bool | None) -> bool | None:
    """Success at any step counts: scripted experts drift off the goal after reaching it."""
    return before if now is None else bool(before) or now


def _columns(rows: list[tuple[Any, Any, float, Any, bool, bool]], env_id: str) -> Transitions:
    observations, actions, rewards, following, terminated, truncated = (list(c) for c in zip(*rows, strict=True))
    columns = Transitions(
        observations=np.asarray(observations, np.float32),
        actions=np.asarray(actions, np.int64 if isinstance(actions[0], int) else np.float32),
        rewards=np.asarray(rewards, np.float32),
        next_observations=np.asarray(following, np.float32),
        terminated=np.asarray(terminated),
        truncated=np.asarray(truncated),
    )
    for name, column in columns.items():
        if not np.isfinite(column).all():
            row = int(np.argwhere(~np.isfinite(column))[0][0])
            raise DataError(
                "the environment returned a number that is not finite.",
                "The simulation became unstable: use milder actions or less noise.",
                file=env_id,
                field=name,
                row=f"{row} of the episode",
            )
    return columns


def _write(
    out: Path,
    recorded: list[_Episode],
    spaces: Spaces,
    env: str,
    policy: str,
    settings: tuple[int, float],
    licence: str,
    overwrite: bool,
) -> StoreInfo:
    offsets = np.concatenate([[0], np.cumsum([len(e.columns) for e in recorded])]).astype(np.int64)
    columns = Transitions.concatenate([e.columns for e in recorded])
    known = [e.success for e in recorded if e.success is not None]
    notes = []
    if known:
        notes.append(f"{sum(known)} of {len(known)} episodes succeeded (at any step)")
    return write_trajectories(
        out,
        Trajectories(spaces, columns, offsets, env_id=env),
        source=f"collected: {policy} policy in {env}, seed {settings[0]}, noise {settings[1]}",
        licence=licence,
        episode_columns={"success": np.array(known)} if len(known) == len(recorded) else {},
        notes=notes,
        overwrite=overwrite,
    )


def _check(episodes: int, noise: float, max_steps: int | None) -> None:
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}.")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise must lie in [0, 1] (a share of the actions' half-range), got {noise}.")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}.")
