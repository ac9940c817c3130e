"""Snapshots of policies: the learner's own actions, at the moment they were taken, from a seed of their own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ensemble_sac_worlds import tiny
from ray import cloudpickle
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from toy_configs import tiny_config
from toy_worlds import ConstantGenerator, CountingWorld, spaces_of

from atradiff.config import ServingConfig
from atradiff.replay.config import ReplayConfig
from atradiff.types import FloatArray, SyntheticTrajectories
from rllib_ext import ATraDiffCallback
from rllib_ext.stock_policy import StockPolicy

Build = Callable[[AlgorithmConfig], Any]
STATES = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


class Rolling(ConstantGenerator):
    """With a one-step model in which states count upwards; it keeps what it was told to do, in the env's scale."""

    def __init__(self, discrete: bool = False) -> None:
        super().__init__(spaces_of(CountingWorld({"discrete": discrete})), 2 if discrete else [1.0, 10.0], length=4)
        self.told: list[tuple[FloatArray, FloatArray]] = []

    def roll(self, states: FloatArray, act: Any, rows: int) -> SyntheticTrajectories:
        n = len(states)
        counted = (states[:, None] + np.arange(rows + 1)[None, :, None]).astype(np.float32)
        actions = np.stack([act(counted[:, j], j) for j in range(rows)], axis=1)
        self.told.append((counted, actions))
        nothing = np.zeros((n, rows), np.float32)
        return SyntheticTrajectories(counted, actions, nothing, nothing > 0, np.full(n, rows), self.version)


def own_rows(generator: Any, share: float, **training: Any) -> Any:
    serving = ServingConfig(requests_per_batch=2, own_share=share, own_length=2)
    return tiny(**training).augmentation(
        generator=generator, replay=ReplayConfig(capacity=1_000, rho=0.5), serving=serving
    )


def curve(algorithm: Any) -> list[Any]:
    results = [algorithm.train() for _ in range(3)]
    state = algorithm.learner_group._learner.module["default_policy"].state_dict()
    return [result["learner"] for result in results[1:]] + [{k: v.tolist() for k, v in state.items()}]


def test_a_snapshot_acts_as_the_actor_and_does_not_follow_it(build: Build) -> None:
    algorithm = build(tiny())
    algorithm.train()
    actor = copy.deepcopy(algorithm.learner_group._learner.module["default_policy"].actor)
    taken = algorithm.policy_snapshot()
    noise = torch.randn((50, 2), generator=torch.Generator().manual_seed(8))
    mean, log_std = actor(torch.as_tensor(STATES))
    expected = torch.tanh(mean + log_std.exp() * noise).detach().numpy()
    np.testing.assert_allclose(taken(STATES, 8), expected, atol=1e-6)
    assert not np.array_equal(taken(STATES, 8), taken(STATES, 9))
    for _ in range(2):
        algorithm.train()
    np.testing.assert_allclose(taken(STATES, 8), expected, atol=1e-6)
    assert not np.allclose(algorithm.policy_snapshot()(STATES, 8), expected, atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(taken))(STATES, 8), taken(STATES, 8))


def test_taking_and_asking_one_leaves_all_random_state_as_it_is(build: Build) -> None:
    plain, watched = build(tiny()), build(tiny())
    plain.train()
    watched.train()
    before = torch.get_rng_state()
    watched.policy_snapshot()(STATES, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert plain.train()["learner"] == watched.train()["learner"]


def test_runs_of_own_rows_repeat_bit_for_bit(build: Build) -> None:
    generators = [Rolling() for _ in range(2)]
    one, again = (curve(build(own_rows(generator, 1.0))) for generator in generators)
    assert one == again
    for (_, ours), (_, theirs) in zip(generators[0].told, generators[1].told, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_of_own_rows_goes_on_from_a_checkpoint(build: Build, tmp_path: Path) -> None:
    through, again = build(own_rows(Rolling(), 0.5)), build(own_rows(Rolling(), 0.5))
    through.train()
    through.train()
    through.save_state(tmp_path)
    again.load_state(tmp_path)
    ours, theirs = ([algorithm.train() for _ in range(2)] for algorithm in (through, again))
    for one, other in zip(ours, theirs, strict=True):
        assert one["learner"] == other["learner"]
        assert one["replay"]["own_rows"] == other["replay"]["own_rows"] > 0


def test_the_replay_holds_the_policys_actions_in_the_learners_scale(build: Build) -> None:
    generator = Rolling()
    algorithm = build(own_rows(generator, 1.0))
    result = [algorithm.train() for _ in range(2)][-1]
    ring = algorithm.service.replay.synthetic
    n = len(ring)
    assert n == result["replay"]["own_rows"] == sum(actions[..., 0].size for _, actions in generator.told) > 20
    asked = np.concatenate([actions.reshape(-1, 2) for _, actions in generator.told])
    in_env_scale = [-2.0, 0.0] + (ring["actions"][:n] + 1) / 2 * [4.0, 10.0]
    np.testing.assert_allclose(in_env_scale, asked, atol=1e-4)
    assert np.abs(ring["actions"][:n]).max() <= 1


def test_share_zero_is_the_run_that_it_was(build: Build) -> None:
    generator = Rolling()
    with_roll = curve(build(own_rows(generator, 0.0)))
    without = curve(build(own_rows(ConstantGenerator(generator.spaces, [1.0, 10.0], 4), 0.0)))
    assert with_roll == without
    assert generator.told == []


def test_a_generator_without_a_one_step_model_is_refused_before_any_step(build: Build) -> None:
    with pytest.raises(ValueError, match="rolls the agent"):
        build(own_rows(ConstantGenerator(spaces_of(CountingWorld()), [1.0, 10.0]), 0.5))


def module_of(algorithm: Any) -> Any:
    return algorithm.learner_group._learner.module["default_policy"].unwrapped()


def test_stock_sac_is_asked_for_its_distribution(build: Build) -> None:
    algorithm = build(tiny_config("SAC"))
    before, module = torch.get_rng_state(), copy.deepcopy(module_of(algorithm))
    taken = StockPolicy(algorithm.learner_group)()
    actions = taken(STATES, 8)
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(8)
        mean, log_std = module.pi(module.pi_encoder({"obs": torch.as_tensor(STATES)})["encoder_out"]).chunk(2, -1)
        expected = torch.tanh(mean + log_std.exp() * torch.randn(mean.shape)).numpy()
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    for _ in range(2):
        algorithm.train()
    sent = cloudpickle.loads(cloudpickle.dumps(taken))  # as Ray does
    for each in (taken, sent):
        np.testing.assert_array_equal(each(STATES, 8), actions)
    assert not np.allclose(StockPolicy(algorithm.learner_group)()(STATES, 8), actions)


@pytest.mark.parametrize("name", ["SAC", "TQC", "DQN"])
def test_a_snapshot_holds_what_env_runners_hold_and_acts_when_sent(build: Build, name: str) -> None:
    algorithm = build(tiny_config(name))
    taken = StockPolicy(algorithm.learner_group)()
    networks = set(taken._module.state_dict())
    assert networks == set(module_of(algorithm).get_state(inference_only=True))
    assert networks < set(module_of(algorithm).state_dict())
    sent = cloudpickle.loads(cloudpickle.dumps(taken))
    np.testing.assert_array_equal(sent(STATES, 8), taken(STATES, 8))


def test_dqn_takes_the_best_action_and_discrete_sac_draws_one(build: Build) -> None:
    dqn = build(tiny_config("DQN"))
    with torch.no_grad():
        best = module_of(dqn).compute_q_values({"obs": torch.as_tensor(STATES)})["qf_preds"].argmax(-1).numpy()
    taken = StockPolicy(dqn.learner_group)()
    np.testing.assert_array_equal(taken(STATES, 1), best)
    assert taken(STATES, 1).dtype == np.int64

    sac = build(tiny_config("SAC", discrete=True))
    state = torch.as_tensor(STATES[:1])
    with torch.no_grad():
        odds = torch.softmax(module_of(sac).pi(module_of(sac).pi_encoder({"obs": state})["encoder_out"]), -1)[0]
    drawn = StockPolicy(sac.learner_group)()(np.repeat(STATES[:1], 4000, axis=0), 1)
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, odds, atol=0.04)


@pytest.mark.parametrize("name", ["SAC", "DQN"])
def test_the_callback_makes_own_rows_for_stock_algorithms(build: Build, name: str) -> None:
    generator = Rolling(name == "DQN")
    options = {"requests_per_batch": 4, "expected_length": 4, "own_share": 1.0, "own_length": 2}
    algorithm = build(tiny_config(name).callbacks(ATraDiffCallback.using(generator, **options)))
    result = algorithm.train()["atradiff"]
    ring = algorithm.local_replay_buffer.service.replay.synthetic
    assert (
        result["own_rows"]
        == len(ring)
        == sum(actions[..., 0].size if name == "SAC" else actions.size for _, actions in generator.told)
        > 0
    )
    assert name == "SAC" or set(np.unique(ring["actions"][: len(ring)])) <= {0, 1, 2}
