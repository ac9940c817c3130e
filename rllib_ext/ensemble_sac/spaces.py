"""What the ensemble SAC can learn in."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


def require_flat_continuous(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> tuple[int, int]:
    """S and A; raises ``ValueError`` naming the remedy where the spaces are not flat Box spaces."""
    if isinstance(action_space, gym.spaces.Discrete):
        raise ValueError(
            f"EnsembleSAC needs continuous actions, this environment has {action_space}: use RLlib's DQNConfig with "
            ".callbacks(ATraDiffCallback.using(...)), which brings the same augmentation to discrete actions."
        )
    if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
        raise ValueError(f"EnsembleSAC needs a one-dimensional Box of actions, this environment has {action_space}.")
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
        raise ValueError(
            f"EnsembleSAC squashes actions into the bounds of their space, this environment has none: {action_space}. "
            "Wrap it in gymnasium.wrappers.RescaleAction or give the space finite bounds."
        )
    if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
        raise ValueError(
            f"EnsembleSAC needs flat observations, this environment has {observation_space}: wrap it in "
            "gymnasium.wrappers.FlattenObservation."
        )
    return observation_space.shape[0], action_space.shape[0]
