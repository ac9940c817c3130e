"""Stock algorithms without anything of ours in them."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.tqc import TQCConfig

STOCK: dict[str, tuple[type[AlgorithmConfig], str]] = {
    "SAC": (SACConfig, "Pendulum-v1"),
    "TQC": (TQCConfig, "Pendulum-v1"),
    "DQN": (DQNConfig, "CartPole-v1"),
}


def stock_config(name: str, **training: Any) -> AlgorithmConfig:
    """Learns from the first fragment of ten steps on, batches of eight, tiny networks."""
    config_class, environment = STOCK[name]
    config = config_class().environment(environment).env_runners(num_env_runners=0, rollout_fragment_length=10)
    config.training(
        train_batch_size_per_learner=8,
        num_steps_sampled_before_learning_starts=0,
        replay_buffer_config={"type": "PrioritizedEpisodeReplayBuffer", "capacity": 200, "alpha": 0.6, "beta": 0.4},
        **training,
    )
    config.rl_module(model_config={"fcnet_hiddens": [8], "head_fcnet_hiddens": []})
    return config.reporting(min_sample_timesteps_per_iteration=10, min_time_s_per_iteration=0).debugging(seed=0)
