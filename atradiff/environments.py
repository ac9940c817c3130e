"""One way to make an environment from a string, for collecting, training, evaluating and measuring alike.

``Hopper-v5`` is Gymnasium's, ``PointMaze_UMaze-v3`` and ``FrankaKitchen-v1`` are gymnasium-robotics', and
``metaworld:reach-v3`` (or ``Meta-World/reach-v3``) is a Meta-World task over its 50 published goals,
``PointMazeShift-v0`` and ``HalfCheetahShift-v0`` are tasks of :mod:`atradiff.shifted`. Options follow a
question mark, as in ``PointMaze_UMaze-v3?continuing_task=false&max_episode_steps=150``: they are part of the id, so
that a data set's id says all that is needed to make its environment again.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import warnings
from typing import Any

import gymnasium as gym

_META_WORLD = ("metaworld:", "Meta-World/")

_OWN = {"PointMazeShift-v0": 100, "HalfCheetahShift-v0": 1000}
"""Tasks of :mod:`atradiff.shifted` and their horizons; what they are made of is loaded when one is made."""

for _name, _horizon in _OWN.items():
    gym.register(_name, entry_point=f"atradiff.shifted:{_name.partition('-')[0]}", max_episode_steps=_horizon)


def make_env(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """Make an environment whose observations are flat vectors (dictionaries are flattened by Gymnasium's own rule).

    ``options`` are keyword arguments of the environment and override those in ``env_id``. Raises ``ValueError`` for
    an id that nobody registered, options that the environment does not take, and where it needs what is not installed.
    """
    name, own = split_env_id(env_id)
    options = {**own, **options}
    try:
        return _make(name, options)
    except (gym.error.Error, ImportError, TypeError) as error:
        told = f" with the options {options}" if options else ""
        raise ValueError(f"environment '{name}' cannot be made{told}: {error}") from error


def split_env_id(env_id: str) -> tuple[str, dict[str, Any]]:
    """``"Name-v1?a=1&b=true"`` -> ``("Name-v1", {"a": 1, "b": True})``; values are JSON, or else plain strings."""
    name, _, query = env_id.partition("?")
    pairs = [part.partition("=") for part in query.split("&") if part]
    wrong = [key for key, equals, _ in pairs if not (key and equals)]
    if wrong:
        raise ValueError(f"options of an environment are written key=value and joined by '&', got '{query}'.")
    return name, {key: _value(text) for key, _, text in pairs}


def meta_world_task(env_id: str) -> str | None:
    """``reach-v3`` for ``metaworld:reach-v3`` and ``Meta-World/reach-v3``; None for any other id."""
    name = env_id.split("?")[0]
    prefix = next((p for p in _META_WORLD if name.startswith(p)), None)
    return None if prefix is None else name.removeprefix(prefix)


def horizon_of(env: gym.Env[Any, Any]) -> int | None:
    """Steps after which ``env`` truncates an episode; None where it never does."""
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, gym.wrappers.TimeLimit):
            return int(layer._max_episode_steps)
        layer = layer.env
    if env.spec is not None and env.spec.max_episode_steps is not None:
        return int(env.spec.max_episode_steps)
    limit = getattr(env.unwrapped, "max_path_length", None)
    return None if limit is None else int(limit)


def _make(name: str, options: dict[str, Any]) -> gym.Env[Any, Any]:
    task = meta_world_task(name)
    if task is not None:
        from atradiff.meta_world import make_meta_world

        return make_meta_world(task, **options)
    _require_registered(name)
    return _flat(gym.make(name, **options))


def _flat(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    space = env.observation_space
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return env
    return gym.wrappers.FlattenObservation(env)


def is_registered(name: str) -> bool:
    """Whether Gymnasium or gymnasium-robotics (loaded when first asked for) has an environment ``name``."""
    if name not in gym.registry or name in _OWN:
        # It greets with notices about environments nobody asked for.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import gymnasium_robotics

            gym.register_envs(gymnasium_robotics)
    return name in gym.registry


def _require_registered(name: str) -> None:
    if is_registered(name) or ":" in name:
        return
    near = difflib.get_close_matches(name, gym.registry, n=3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(
        f"there is no environment '{name}' in Gymnasium or gymnasium-robotics. {hint}Meta-World tasks are written "
        "metaworld:reach-v3, environments of your own module mymodule:MyEnv-v0."
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
