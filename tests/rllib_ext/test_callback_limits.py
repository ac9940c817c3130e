"""What cannot work is said before the first environment step, with what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentPendulum
from toy_configs import generator, tiny_config
from toy_worlds import ConstantGenerator, CountingWorld

from atradiff.types import Spaces
from rllib_ext import ATraDiffCallback
from rllib_ext.compatibility import UnsupportedConfigError

pytestmark = pytest.mark.usefixtures("local_ray")


class DictWorld(CountingWorld):
    """The counting world in a dictionary: time apart from the rest."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        self.observation_space = gym.spaces.Dict(
            {"time": gym.spaces.Box(-np.inf, np.inf, (1,)), "rest": gym.spaces.Box(-np.inf, np.inf, (2,))}
        )

    def _observe(self) -> Any:
        return {"time": np.array([self.t], np.float32), "rest": np.array([self.total, 1.0], np.float32)}


class ImageWorld(CountingWorld):
    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        self.observation_space = gym.spaces.Box(0, 1, (8, 8, 3), np.float32)


def _ppo() -> AlgorithmConfig:
    return PPOConfig().environment(CountingWorld).env_runners(num_env_runners=0)


def _pendulum() -> AlgorithmConfig:
    config = tiny_config("SAC").environment("Pendulum-v1")
    config.env_config = {}
    return config


def _old_stack() -> AlgorithmConfig:
    config = SACConfig().environment("Pendulum-v1").env_runners(num_env_runners=0)
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    return config.training(replay_buffer_config={"type": "MultiAgentReplayBuffer", "capacity": 100})


def _multi_agent() -> AlgorithmConfig:
    config = tiny_config("SAC").environment(MultiAgentPendulum, env_config={"num_agents": 2})
    config.multi_agent(policies={"p"}, policy_mapping_fn=lambda *_, **__: "p")
    return config.training(replay_buffer_config={"type": "MultiAgentEpisodeReplayBuffer", "capacity": 100})


def _flat(*_: Any, **__: Any) -> FlattenObservations:
    return FlattenObservations()


def _normalised(*_: Any, **__: Any) -> MeanStdFilter:
    return MeanStdFilter()


def _own_connector(*_: Any, **__: Any) -> list[Any]:
    return []


CASES: dict[str, tuple[Callable[[], AlgorithmConfig], str]] = {
    "algorithm": (_ppo, "SAC, TQC and DQN.*PPO does not"),
    "old stack": (_old_stack, r"new API stack\. Remove config\.api_stack"),
    "multi-agent": (_multi_agent, "single-agent environments"),
    "n-step": (lambda: tiny_config("DQN").training(n_step=3), r"n_step=3 does not.*training\(n_step=1\)"),
    "learner connector": (
        lambda: tiny_config("SAC").training(learner_connector=_own_connector),
        "learner_connector of your own",
    ),
    "moving scale": (
        lambda: tiny_config("SAC").env_runners(env_to_module_connector=_normalised),
        "MeanStdFilter changes the scale",
    ),
    "recurrent": (lambda: _recurrent(), "Remove use_lstm"),
    "pixels": (lambda: _with_world(tiny_config("SAC"), ImageWorld), "flat observations.*FlattenObservations"),
    "other observations": (
        _pendulum,
        r"action_low is .*the diffuser.*Fit a diffuser",
    ),
    "other actions": (lambda: tiny_config("DQN"), "action_kind is continuous in the diffuser and discrete"),
}


def _recurrent() -> AlgorithmConfig:
    model = {"fcnet_hiddens": [8], "use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 5}
    return tiny_config("DQN").rl_module(model_config=model)


def _with_world(config: AlgorithmConfig, world: type[CountingWorld]) -> AlgorithmConfig:
    conv = {"conv_filters": [[4, 4, 2]], "head_fcnet_hiddens": []}
    return config.environment(world).rl_module(model_config=conv)


@pytest.mark.parametrize("case", CASES)
def test_refused_before_any_step(case: str) -> None:
    make, message = CASES[case]
    gen = generator("SAC")
    config = make().callbacks(ATraDiffCallback.using(gen))
    with pytest.raises(UnsupportedConfigError, match=message):
        config.build_algo()
    assert gen.calls == []


def test_the_bare_class_says_what_to_give() -> None:
    with pytest.raises(UnsupportedConfigError, match=r"ATraDiffCallback\.using\(diffuser="):
        tiny_config("SAC").callbacks(ATraDiffCallback).build_algo()


def test_flattened_dictionaries_work_as_the_message_says() -> None:
    """RLlib flattens a Dict in the order of Gymnasium's own rule (keys sorted): rest, then time."""
    spaces = Spaces.from_gymnasium(DictWorld().observation_space, DictWorld().action_space)
    config = tiny_config("SAC").environment(DictWorld).env_runners(env_to_module_connector=_flat)
    config.callbacks(ATraDiffCallback.using(ConstantGenerator(spaces, [1.0, 10.0]), requests_per_batch=2))
    algorithm = config.build_algo()
    algorithm.train()
    observations = algorithm.local_replay_buffer.service.replay.real["observations"][:50]
    np.testing.assert_array_equal(observations[:, 2], np.arange(50) % 10)
    world = DictWorld()
    world.t = 3
    np.testing.assert_array_equal(
        gym.spaces.flatten(world.observation_space, world._observe()), np.array([0.0, 1.0, 3.0])
    )
    algorithm.stop()
