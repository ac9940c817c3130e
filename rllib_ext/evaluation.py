"""Evaluation apart from training: one environment, deterministic actions, given seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchSquashedGaussian
from ray.rllib.core.rl_module.rl_module import RLModule

from atradiff.types import ActionArray, FloatArray, Spaces
from rllib_ext.columns import ActionScale


def evaluate(
    policy: Algorithm | RLModule, env: gym.Env[Any, Any] | Callable[[], gym.Env[Any, Any]], episodes: int, seed: int
) -> NDArray[np.float64]:
    """Returns (episodes,) of the deterministic policy; episode i starts from ``env.reset(seed=seed + i)``.

    ``policy`` is an algorithm, or its module, that acts in [-1, 1] or in discrete actions (EnsembleSAC and RLlib's
    SAC, TQC and DQN with their default ``normalize_actions``). ``env`` must not be the one that training uses; where
    it is a function, the environment it makes is closed at the end. Nothing random is drawn outside the environment.
    """
    if episodes < 1:
        raise ValueError(f"an evaluation needs at least one episode, got {episodes}.")
    module = policy.get_module() if isinstance(policy, Algorithm) else policy
    if isinstance(env, gym.Env):
        act = deterministic_policy(module, env)
        return np.array([_run_episode(env, act, seed + i) for i in range(episodes)])
    made = env()
    try:
        return evaluate(module, made, episodes, seed)
    finally:
        made.close()


def _run_episode(env: gym.Env[Any, Any], act: Callable[[Any], Any], seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total += float(reward)
        done = terminated or truncated
    return total


def deterministic_policy(module: RLModule, env: gym.Env[Any, Any]) -> Callable[[Any], Any]:
    """A function from an observation (as ``env`` gives it) to the module's most likely action, as ``env`` takes it."""
    spaces = Spaces.from_gymnasium(env.observation_space, env.action_space)
    scale = ActionScale.of(spaces, normalize_actions=True)

    def act(observation: FloatArray) -> Any:
        """One action in the environment's own form."""
        flat = gym.spaces.flatten(env.observation_space, observation)
        batch = {Columns.OBS: torch.as_tensor(flat[None], dtype=torch.float32)}
        action = _deterministic(module, module.forward_inference(batch))[0]
        return int(action) if spaces.discrete else scale.to_environment(action)

    return act


def _deterministic(module: RLModule, out: dict[str, Any]) -> ActionArray:
    """The actions of the module, or the mode of the distribution that it gives."""
    if Columns.ACTIONS not in out:
        distribution = module.get_inference_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
        actions: ActionArray = mode(distribution).detach().numpy()
        return actions
    return out[Columns.ACTIONS].detach().numpy()


def mode(distribution: Any) -> torch.Tensor:
    """What a policy does without exploration, from its distribution: the squashed mean, or the likeliest action."""
    if isinstance(distribution, TorchSquashedGaussian):  # its own `to_deterministic` leaves the tanh out
        return torch.tanh(distribution.loc)
    actions: torch.Tensor = distribution.to_deterministic().sample()
    return actions
