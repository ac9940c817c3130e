"""Where a replay buffer of one's own can be put into RLlib 2.60, and what is asked of it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.cql import CQL, CQLConfig
from ray.rllib.algorithms.dqn import DQN
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.algorithms.sac import SAC, SACConfig
from ray.rllib.algorithms.tqc import TQC
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import TD_ERROR_KEY
from ray.rllib.utils.replay_buffers import EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer
from ray.rllib.utils.replay_buffers.utils import update_priorities_in_episode_replay_buffer
from stock_configs import stock_config

Build = Callable[[Any], Algorithm]


class Spy(PrioritizedEpisodeReplayBuffer):
    """Writes down what the training step asks for."""

    def __init__(self) -> None:
        super().__init__(capacity=200)
        self.calls: list[tuple[str, Any]] = []

    def add(self, episodes: Any, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("add", (episodes, args, kwargs)))
        super().add(episodes)

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("sample", (args, kwargs)))
        return super().sample(*args, **kwargs)

    def update_priorities(self, priorities: Any, module_id: Any = None) -> None:
        self.calls.append(("update_priorities", (priorities, module_id)))
        super().update_priorities(priorities, module_id)

    def get_metrics(self) -> Any:
        self.calls.append(("get_metrics", None))
        return {}


def test_the_buffer_may_be_replaced_when_the_algorithm_is_built(stock: str, build: Build) -> None:
    class Replace(RLlibCallback):
        def on_algorithm_init(self, *, algorithm: Algorithm, **_: Any) -> None:
            assert algorithm.learner_group._learner is not None
            assert algorithm.training_iteration == 0
            algorithm.local_replay_buffer = Spy()

    algorithm = build(stock_config(stock).callbacks(Replace))
    algorithm.train()
    calls = algorithm.local_replay_buffer.calls
    assert [name for name, _ in calls] == ["add", "sample", "get_metrics", "update_priorities"]

    episodes, args, kwargs = calls[0][1]
    assert isinstance(episodes, list)
    assert all(isinstance(episode, SingleAgentEpisode) for episode in episodes)
    assert sum(map(len, episodes)) == 10
    assert (args, kwargs) == ((), {})
    args, kwargs = calls[1][1]
    assert args == ()
    assert kwargs["num_items"] == 8
    assert kwargs["n_step"] == 1
    assert set(kwargs) == {
        *("num_items", "n_step", "batch_length_T", "lookback", "min_batch_length_T", "gamma", "beta"),
        "sample_episodes",
    }
    td_errors, module_id = calls[3][1]
    assert np.shape(td_errors) == (8,)
    assert module_id == DEFAULT_MODULE_ID


def test_the_config_does_not_take_a_class_for_a_buffer() -> None:
    config = stock_config("SAC").training(replay_buffer_config={"type": Spy, "capacity": 200})
    with pytest.raises(ValueError, match="must be of type"):
        config.build_algo()


def test_td_errors_go_to_prioritised_buffers_alone() -> None:
    told: list[Any] = []

    class Plain(EpisodeReplayBuffer):
        def update_priorities(self, *args: Any) -> None:
            told.append(args)

    class Prioritised(PrioritizedEpisodeReplayBuffer):
        def __init__(self) -> None:
            """Nothing of the base class is set up."""

        def update_priorities(self, *args: Any) -> None:
            told.append(args)

    for buffer in (Plain(), Prioritised()):
        update_priorities_in_episode_replay_buffer(
            replay_buffer=buffer, td_errors={DEFAULT_MODULE_ID: {TD_ERROR_KEY: np.arange(3.0)}}
        )
    assert len(told) == 1
    np.testing.assert_array_equal(told[0][0], np.arange(3.0))


def test_which_algorithms_share_the_training_step() -> None:
    assert SAC.training_step is TQC.training_step is DQN.training_step
    assert not issubclass(PPO, DQN)
    # CQL is a SAC by class, but learns offline: that is how to tell.
    assert issubclass(CQL, SAC)
    assert CQLConfig().offline_data(input_="somewhere").is_offline
    assert not SACConfig().is_offline


def test_callbacks_are_made_without_arguments_and_may_add_to_the_result(build: Build) -> None:
    made: list[tuple[Any, ...]] = []

    class First(RLlibCallback):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append((args, kwargs))

        def on_train_result(self, *, result: dict[str, Any], **_: Any) -> None:
            result["ours"] = {"number": 7}

    class Second(RLlibCallback):
        pass

    algorithm = build(stock_config("DQN").callbacks([First, Second]))
    assert algorithm.train()["ours"] == {"number": 7}
    assert set(map(str, made)) == {"((), {})"}
    assert len(made) >= 2  # the algorithm's and the local env runner's


def test_episodes_hold_actions_before_they_are_scaled_to_the_environment(build: Build) -> None:
    """Pendulum takes torques in [-2, 2]; a saturated policy of RLlib stores +-1."""
    algorithm = build(stock_config("SAC"))
    (episode,) = algorithm.env_runner.sample(num_timesteps=200, explore=True)[:1]
    actions = np.asarray(episode.get_actions())
    assert np.abs(actions).max() <= 1
    infos = algorithm.config.normalize_actions, algorithm.env_runner.env.single_action_space.high.tolist()
    assert infos == (True, [2.0])
