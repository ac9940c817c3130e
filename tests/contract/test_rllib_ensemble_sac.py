"""Facts about RLlib that EnsembleSAC, its env runner and its checkpoints lean on; each names what broke."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.connectors.module_to_env import GetActions
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_ext import EnsembleSACConfig
from rllib_ext.ensemble_sac.state import plain


@pytest.fixture(scope="module")
def algorithm(local_ray: None) -> Iterator[Any]:  # noqa: ARG001
    config = EnsembleSACConfig().environment("Pendulum-v1").training(hidden_sizes=(8,), learning_starts=50)
    built = config.debugging(seed=0).build_algo()
    built.train()
    yield built
    built.stop()


def test_env_runner_class_of_the_config_is_the_one_that_is_built(algorithm: Algorithm) -> None:
    assert type(algorithm.env_runner) is algorithm.config.env_runner_cls
    assert issubclass(type(algorithm.env_runner), SingleAgentEnvRunner)


def test_env_runner_calls_the_private_sample_with_these_arguments() -> None:
    names = {"num_timesteps", "num_episodes", "explore", "random_actions", "force_reset"}
    added = {"self", "_ray_trace_ctx"}  # the second by Ray, in a process where the class was made an actor before
    assert names == set(inspect.signature(SingleAgentEnvRunner._sample).parameters) - added


def test_only_the_initial_reset_is_seeded_with_the_runners_seed(algorithm: Algorithm) -> None:
    runner = algorithm.env_runner
    runner.start_over(1, 2)
    first = runner.sample(num_timesteps=3, random_actions=True)[0].get_observations()[0]
    runner.start_over(1, 2)
    again = runner.sample(num_timesteps=3, random_actions=True)[0].get_observations()[0]
    unseeded = runner.sample(num_timesteps=3, random_actions=True, force_reset=True)[0].get_observations()[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, unseeded)


def test_vector_environments_reset_in_the_step_after_the_last(algorithm: Algorithm) -> None:
    mode = algorithm.env_runner.env.unwrapped.metadata["autoreset_mode"]
    assert mode == gym.vector.AutoresetMode.NEXT_STEP


def test_a_config_without_connectors_holds_none() -> None:
    config = AlgorithmConfig()
    assert config._env_to_module_connector is None
    assert config._module_to_env_connector is None


def test_stock_random_actions_are_stored_in_the_environments_scale(local_ray: None) -> None:  # noqa: ARG001
    """The reason why our runner draws its own: the learner would take them for actions in [-1, 1]."""
    runner = SingleAgentEnvRunner(config=SACConfig().environment("Pendulum-v1"))
    actions = np.concatenate([e.get_actions() for e in runner.sample(num_timesteps=50, random_actions=True)])
    assert 1 < np.abs(actions).max() <= 2
    assert "random_actions" in inspect.signature(synchronous_parallel_sample).parameters


def test_actions_of_the_module_are_not_drawn_again() -> None:
    batch = {Columns.ACTIONS: torch.ones(1, 2), Columns.ACTION_DIST_INPUTS: torch.zeros(1, 4)}
    episode = SingleAgentEpisode()
    out = GetActions()(rl_module=None, batch=batch, episodes=[episode], explore=True)
    torch.testing.assert_close(out[Columns.ACTIONS], torch.ones(1, 2))


def test_env_runners_get_the_module_without_what_learning_needs(algorithm: Any) -> None:
    assert set(algorithm.get_module().get_state()) < set(
        algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].get_state()
    )
    assert not hasattr(algorithm.get_module(), "critics")


def test_a_batch_reaches_the_local_learner_as_it_is(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        type(algorithm.learner_group._learner), "update", lambda _, **kwargs: seen.append(kwargs["training_data"])
    )
    batch = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch({"rewards": np.zeros(4)})}, env_steps=4)
    algorithm.learner_group.update(batch=batch)
    assert seen[0].batch is batch
    assert isinstance(algorithm.learner_group, LearnerGroup)


def test_env_runners_refuse_weights_that_are_not_newer(algorithm: Any) -> None:
    """The reason for ``expect_any_weights`` when a run is taken back to an older checkpoint."""
    runner = algorithm.env_runner
    state = runner.get_state(components="rl_module")
    changed = {k: v + 1 for k, v in state["rl_module"].items()}
    runner._weights_seq_no = 5

    def offer(number: int) -> bool:
        runner.set_state({"rl_module": changed, "weights_seq_no": number})
        return np.array_equal(runner.module.get_state()["actor.layers.0.bias"], changed["actor.layers.0.bias"])

    assert not offer(4)
    runner.expect_any_weights()
    assert offer(4)
    runner.set_state({"rl_module": state["rl_module"], "weights_seq_no": 0})


class Part(Checkpointable):
    """A component with parts of its own; what RLlib asks of it goes into ``calls``."""

    def __init__(self, name: str, calls: list[tuple[str, str]], parts: tuple[Part, ...] = ()) -> None:
        self.name, self.calls, self.parts = name, calls, parts

    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        return [(part.name, part) for part in self.parts]

    def get_state(self, components: Any = None, *, not_components: Any = None, **_: Any) -> dict:
        return {part.name: {} for part in self.parts if self._check_component(part.name, components, not_components)}

    def set_state(self, state: dict) -> None:  # noqa: ARG002
        self.calls.append(("set", self.name))

    def get_ctor_args_and_kwargs(self) -> tuple:
        return (self.name,), {}


class Leaf(Part):
    def save_to_path(self, path: Any = None, *, filesystem: Any = None, **_: Any) -> str:
        assert filesystem is not None
        self.calls.append(("save", self.name))
        Path(path).mkdir()
        return str(path)

    def restore_from_path(self, path: Any, *, filesystem: Any = None, **_: Any) -> None:  # noqa: ARG002
        assert filesystem is not None
        self.calls.append(("restore", self.name))


def test_components_are_saved_and_restored_by_their_own_methods_in_their_order(tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []
    whole = Part("whole", calls, (Leaf("one", calls), Leaf("two", calls)))
    whole.save_to_path(tmp_path)
    whole.restore_from_path(tmp_path)
    assert calls == [("save", "one"), ("save", "two"), ("restore", "one"), ("restore", "two"), ("set", "whole")]


def test_statistics_survive_json(algorithm: Any) -> None:
    state = plain(algorithm.metrics.get_state())
    copy = MetricsLogger(root=True, stats_cls_lookup=algorithm.config.stats_cls_lookup)
    copy.set_state(json.loads(json.dumps(state)))
    np.testing.assert_equal(plain(copy.get_state()), state)
