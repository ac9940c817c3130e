"""Stock RLlib configs, unmodified but for being tiny."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.tqc import TQCConfig
from toy_worlds import ConstantGenerator, CountingWorld, spaces_of

CONFIGS: dict[str, type[AlgorithmConfig]] = {"SAC": SACConfig, "TQC": TQCConfig, "DQN": DQNConfig}
ENV_ACTION: dict[str, Any] = {"SAC": [1.0, 10.0], "TQC": [1.0, 10.0], "DQN": 2}
"""One action in the environment's own scale; (1, 10) is (0.5, 1) in RLlib's."""

Change = Callable[[AlgorithmConfig], Any]


def env_config(name: str, **more: Any) -> dict[str, Any]:
    return {"discrete": name == "DQN", **more}


def generator(name: str, **options: Any) -> ConstantGenerator:
    return ConstantGenerator(spaces_of(CountingWorld(env_config(name))), ENV_ACTION[name], **options)


def tiny_config(name: str, **env: Any) -> AlgorithmConfig:
    """Two updates per ten env steps after twenty, fifty env steps per iteration, capacity 500."""
    config = CONFIGS[name]().environment(CountingWorld, env_config=env_config(name, **env))
    config.env_runners(num_env_runners=0, rollout_fragment_length=5)
    config.training(
        train_batch_size_per_learner=32,
        num_steps_sampled_before_learning_starts=20,
        replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 500},
    )
    config.rl_module(model_config={"fcnet_hiddens": [16], "head_fcnet_hiddens": []})
    config.reporting(min_sample_timesteps_per_iteration=50, min_time_s_per_iteration=0)
    return config.debugging(seed=3)
