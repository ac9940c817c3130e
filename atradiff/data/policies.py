"""Who acts while data are collected: the protocol, and how a policy is found by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from atradiff.environments import meta_world_task


class Policy(Protocol):
    """Anything that acts. Controllers that need the simulator's map or model find it in ``env``."""

    def act(self, observation: NDArray[Any], env: gym.Env[Any, Any]) -> Any:
        """The action for ``observation`` (S,), in the environment's own scale: (A,) floats, or an integer."""
        ...


NAMED = ("scripted", "random")
"""Policies that go by a name; any other is the path of a checkpoint."""

PolicyLoader = Callable[[str, gym.Env[Any, Any]], Policy]
"""Turns the path of a checkpoint into a policy for the environment; given from above, where RLlib is known."""


class RandomPolicy:
    """Uniform actions over the action space."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def act(self, observation: NDArray[Any], env: gym.Env[Any, Any]) -> Any:  # noqa: ARG002 - the protocol's arguments
        return random_action(env.action_space, self._rng)


def random_action(space: gym.Space[Any], rng: np.random.Generator) -> Any:
    """A uniform draw from a Discrete or bounded Box space; unbounded dimensions are drawn from [-1, 1]."""
    if isinstance(space, gym.spaces.Discrete):
        return int(rng.integers(space.n))
    if isinstance(space, gym.spaces.Box):
        low, high = np.where(np.isfinite(space.low), space.low, -1), np.where(np.isfinite(space.high), space.high, 1)
        return rng.uniform(low, high).astype(np.float32)
    raise ValueError(f"action space {space} is not supported: use a Box or a Discrete space.")


def find_policy(name: str, env_id: str, env: gym.Env[Any, Any], seed: int, load: PolicyLoader | None) -> Policy:
    """The policy called ``name``: ``scripted``, ``random`` or a checkpoint's path, which ``load`` reads.

    Raises ``ValueError`` where there is no scripted policy for the environment, or nothing to load a checkpoint with.
    """
    if name == "random":
        return RandomPolicy(seed)
    if name == "scripted":
        return _scripted(env_id, env)
    if load is None:
        raise ValueError(
            f"policy '{name}' is neither 'scripted' nor 'random', and nothing was given that could load it as a "
            "checkpoint: use the command `atradiff data collect`, or pass load_policy."
        )
    return load(name, env)


def _scripted(env_id: str, env: gym.Env[Any, Any]) -> Policy:
    from atradiff.data.controllers import MountainCarController, PendulumController
    from atradiff.data.waypoints import WaypointController

    task = meta_world_task(env_id)
    if task is not None:
        return meta_world_expert(task)
    controllers: dict[str, Callable[[], Policy]] = {
        "MountainCarContinuous": MountainCarController,
        "Pendulum": PendulumController,
        "PointMaze": lambda: WaypointController(env),
    }
    for prefix, make in controllers.items():
        if env_id.startswith(prefix):
            return make()
    raise ValueError(
        f"there is no scripted policy for '{env_id}': there is one for MountainCarContinuous, Pendulum, the PointMaze "
        "family and Meta-World (metaworld:reach-v3). Use --policy random or a checkpoint."
    )


class _MetaWorldExpert:
    def __init__(self, expert: Any) -> None:
        self._expert = expert

    def act(self, observation: NDArray[Any], env: gym.Env[Any, Any]) -> Any:
        return np.clip(self._expert.get_action(observation), env.action_space.low, env.action_space.high)


def meta_world_expert(task: str) -> Policy:
    """Meta-World's own scripted expert for ``task``, its actions clipped to the space as the environment would do."""
    from metaworld.policies import ENV_POLICY_MAP

    # The experts know that the environment clips them, and say so at every step.
    warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
    return _MetaWorldExpert(ENV_POLICY_MAP[task]())
