"""EnsembleSAC as an RLlib algorithm: what it stores, that it learns, that it repeats, what it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ensemble_sac_worlds import MatchOneState, MatchTheState, tiny
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from toy_configs import CONFIGS, tiny_config
from toy_worlds import HIGH, LOW, ConstantGenerator, CountingWorld, spaces_of

from atradiff.config import SamplingConfig, ServingConfig
from atradiff.replay.mixed import ReplayConfig
from rllib_ext.ensemble_sac import EnsembleSAC
from rllib_ext.ensemble_sac.networks import CriticEnsemble
from rllib_ext.evaluation import deterministic_policy, evaluate

Build = Callable[[AlgorithmConfig], Any]


def rows_of(algorithm: EnsembleSAC) -> dict[str, np.ndarray]:
    ring = algorithm.service.replay.real
    return {name: ring[name][: len(ring)] for name in ring.columns}


def learned(result: dict[str, Any]) -> dict[str, float]:
    return {**result["learner"], **result["replay"], "return": result["env_runners"]["episode_return_mean"]}


def own_connector(env: Any = None, spaces: Any = None, device: Any = None) -> FlattenObservations:  # noqa: ARG001
    return FlattenObservations()


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("runners", [{}, {"env_to_module_connector": own_connector}], ids=["direct", "own connector"])
def test_replay_holds_what_the_environment_saw(build: Build, truncate: bool, runners: dict[str, Any]) -> None:
    config = tiny().environment(env_config={"length": 7, "truncate": truncate}).env_runners(**runners)
    algorithm = build(config)
    for _ in range(4):
        algorithm.train()
    rows = rows_of(algorithm)
    assert algorithm.env_steps == len(rows["rewards"]) == 80
    assert np.abs(rows["actions"]).max() <= 1
    in_env_scale = LOW + (rows["actions"] + 1) / 2 * (HIGH - LOW)
    # CountingWorld adds up the actions that it was given.
    np.testing.assert_allclose(
        rows["next_observations"][:, 1] - rows["observations"][:, 1], in_env_scale.sum(1), atol=1e-3
    )
    np.testing.assert_array_equal(rows["next_observations"][:, 0], rows["observations"][:, 0] + 1)
    np.testing.assert_array_equal(rows["rewards"], rows["next_observations"][:, 0])
    ends = rows["next_observations"][:, 0] == 7
    np.testing.assert_array_equal(rows["truncated" if truncate else "terminated"], ends)
    assert not rows["terminated" if truncate else "truncated"].any()
    # Episodes of seven steps without gaps: each starts at t = 0 where the one before has ended.
    np.testing.assert_array_equal(np.sort(rows["observations"][:, 0]), np.sort(np.arange(80) % 7))


def test_one_update_per_step_after_the_random_ones(build: Build) -> None:
    algorithm = build(tiny(utd=0.5, learning_starts=40))
    counts = []
    for _ in range(4):
        algorithm.train()
        counts.append(algorithm.learners.updates)
    assert counts == [0, 0, 10, 20]


def test_same_seed_same_curve_and_another_seed_another(build: Build) -> None:
    def curve(seed: int) -> list[dict[str, float]]:
        algorithm = build(tiny(MatchTheState, seed=seed))
        algorithm.train()  # random actions only
        return [learned(algorithm.train()) for _ in range(3)]

    first, again, other = curve(1), curve(1), curve(2)
    assert first == again
    assert first != other


def test_learns_to_match_the_state(build: Build) -> None:
    algorithm = build(
        tiny(MatchTheState, hidden_sizes=(32, 32), batch_size=64, actor_lr=3e-3, critic_lr=3e-3, alpha_lr=3e-3)
    )
    before = evaluate(algorithm, MatchTheState, episodes=30, seed=0).mean()
    for _ in range(35):
        algorithm.train()
    after = evaluate(algorithm, MatchTheState, episodes=30, seed=0).mean()
    assert before < -0.15
    assert after > -0.05


def test_imagined_rows_are_mixed_in_at_rho_in_the_learners_scale(build: Build) -> None:
    generator = ConstantGenerator(spaces_of(CountingWorld()), action=[1.0, 10.0], length=4)
    config = tiny().augmentation(
        generator=generator, replay=ReplayConfig(capacity=1_000, rho=0.5), serving=ServingConfig(requests_per_batch=2)
    )
    algorithm = build(config)
    seen: list[tuple[int, int]] = []
    algorithm.service.report_td_errors = lambda batches, errors: seen.append((len(batches), errors.shape[1]))
    for _ in range(4):
        result = algorithm.train()
    ring = algorithm.service.replay.synthetic
    assert len(ring) == result["replay"]["synthetic_rows"] > 20
    np.testing.assert_allclose(ring["actions"][: len(ring)], [[0.5, 1.0]] * len(ring))
    assert set(ring["generator_version"][: len(ring)]) == {7}
    counters = algorithm.service.replay.counters
    assert 0.3 < counters.sampled_synthetic / (counters.sampled_real + counters.sampled_synthetic) < 0.7
    assert result["replay"]["synthetic_age_versions"] == 0
    assert seen == [(20, 16)] * 3


def test_without_a_generator_nothing_is_requested(build: Build) -> None:
    algorithm = build(tiny())
    for _ in range(2):
        result = algorithm.train()
    assert result["replay"]["requests"] == result["replay"]["synthetic_rows"] == 0


def test_remote_env_runners_feed_the_same_replay(build: Build) -> None:
    config = tiny().environment("Pendulum-v1")  # remote workers cannot import this folder's worlds
    algorithm = build(config.env_runners(num_env_runners=1, num_envs_per_env_runner=2))
    for _ in range(2):
        result = algorithm.train()
    rows = rows_of(algorithm)
    assert algorithm.env_steps == len(rows["rewards"]) == 80
    assert result["learner"]["updates"] == 60
    np.testing.assert_allclose(np.square(rows["observations"][:, :2]).sum(1), 1, atol=1e-5)
    assert np.abs(rows["actions"]).max() <= 1
    assert_runners_have_the_newest_weights(algorithm)


def test_weights_reach_a_runner_that_is_busy_with_older_ones(build: Build) -> None:
    algorithm = build(tiny().environment("Pendulum-v1").env_runners(num_env_runners=1))
    algorithm.train()
    runners = algorithm.env_runner_group
    runners.foreach_env_runner(lambda _: None, local_env_runner=False)  # it has done all that it was asked before
    runners.foreach_env_runner_async(lambda _: time.sleep(1), tag="busy")
    for batch in algorithm.service.sample(2, 16):
        algorithm.learners.update([batch.transitions])
        algorithm.learners.sync(runners)
    assert_runners_have_the_newest_weights(algorithm)


def assert_runners_have_the_newest_weights(algorithm: EnsembleSAC) -> None:
    learned_actor = algorithm.learner_group._learner.module["default_policy"].actor.state_dict()
    at_runner = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner.module.get_state(), local_env_runner=False
    )[0]
    np.testing.assert_array_equal(at_runner["actor.layers.0.weight"], learned_actor["layers.0.weight"].numpy())


def test_redq_is_a_setting(build: Build) -> None:
    algorithm = build(tiny(n_critics=5, target_subset=2, utd=3, actor_every=3, actor_reduce="mean", layer_norm=True))
    for _ in range(2):
        result = algorithm.train()
    assert result["learner"]["updates"] == 60
    critics = algorithm.learner_group._learner.module["default_policy"].critics
    assert isinstance(critics, CriticEnsemble)
    assert critics.weights[0].shape == (5, 3 + 2, 16)


def test_standardised_states_are_those_of_the_first_steps_for_all_networks(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rllib_ext.ensemble_sac.learner.STEPS_FOLLOWED", 60)
    algorithm = build(tiny(standardise_states=True))
    algorithm.train()
    assert algorithm.env_steps == 20  # acted at random, not learned yet
    module = algorithm.learner_group._learner.module["default_policy"]
    for steps in (40, 60):  # the updates owed for steps 20 to 40, then 40 to 60
        before = module.actor.scale.mean.clone()
        algorithm.train()
        assert not torch.equal(module.actor.scale.mean, before)
        assert algorithm.env_steps == steps
        rows = rows_of(algorithm)["observations"]  # what the updates drew from
        np.testing.assert_allclose(module.actor.scale.mean, rows.mean(0), rtol=0.2)
        np.testing.assert_allclose(1 / module.actor.scale.inverse[:2], rows[:, :2].std(0), rtol=0.2)
    then = {name: value.clone() for name, value in module.actor.scale.named_buffers()}
    algorithm.train()
    runner = algorithm.env_runner_group.local_env_runner.module
    for part in (module.actor, module.critics, module.target_critics, runner.actor):
        for name, value in part.scale.named_buffers():
            torch.testing.assert_close(value, then[name], rtol=0, atol=0)


def test_rllibs_own_evaluation_is_deterministic(build: Build) -> None:
    config = tiny(MatchOneState).evaluation(
        evaluation_interval=1, evaluation_duration=3, evaluation_config={"explore": False}
    )
    algorithm = build(config)
    found = algorithm.train()["evaluation"]["env_runners"]
    (expected,) = evaluate(algorithm, MatchOneState, episodes=1, seed=0)
    for figure in ("episode_return_min", "episode_return_mean", "episode_return_max"):
        assert found[figure] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_evaluate_reads_stock_modules_too(build: Build, name: str) -> None:
    env_config = {"discrete": name == "DQN"}
    algorithm = build(tiny_config(name))
    returns = evaluate(algorithm, lambda: CountingWorld(env_config), episodes=2, seed=0)
    np.testing.assert_array_equal(returns, [55.0, 55.0])  # 1 + 2 + ... + 10, whatever the actions
    if name == "DQN":
        return
    module, state = algorithm.get_module(), np.array([8.0, -30.0, 1.0], np.float32)
    with torch.no_grad():
        mean = module.pi(module.pi_encoder({"obs": torch.from_numpy(state)[None]})["encoder_out"])[0, :2].numpy()
        action = deterministic_policy(module, CountingWorld(env_config))(state)
    assert np.abs(mean).max() > 0.2  # so far from 0 that squashing shows
    np.testing.assert_allclose(action, LOW + (np.tanh(mean) + 1) * (HIGH - LOW) / 2, rtol=1e-5)


def test_evaluate_repeats_itself_and_leaves_a_given_environment_open(build: Build) -> None:
    algorithm = build(tiny(MatchTheState))
    env = MatchTheState()
    first = evaluate(algorithm, env, episodes=3, seed=5)
    np.testing.assert_array_equal(first, evaluate(algorithm.get_module(), env, episodes=3, seed=5))
    assert len(set(first)) == 3
    with pytest.raises(ValueError, match="at least one episode, got 0"):
        evaluate(algorithm, env, episodes=0, seed=0)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda c: c.learners(num_learners=3), "choose a multiple"),
        (lambda c: c.training(train_batch_size_per_learner=8), "give batch_size"),
        (lambda c: c.environment(normalize_actions=False), "normalize_actions=True"),
        (lambda c: c.training(lr=1e-3), "leave both at None"),
        (lambda c: c.training(target_subset=3), "raise n_critics"),
        (lambda c: c.multi_agent(policies={"a", "b"}, policy_mapping_fn=lambda *_: "a"), "one algorithm for each"),
        (lambda c: c.environment(env_config={"discrete": True}), "DQNConfig"),
        (lambda c: c.env_runners(env_runner_cls=object), "DirectEnvRunner"),
    ],
)
def test_what_cannot_work_is_refused_before_training_with_a_remedy(build: Build, change: Any, remedy: str) -> None:
    config = tiny()
    with pytest.raises(ValueError, match=remedy):
        build(change(config))


def test_a_generator_of_another_task_is_refused(build: Build) -> None:
    generator = ConstantGenerator(spaces_of(MatchTheState()), action=[0.0])
    with pytest.raises(ValueError, match="observation_size is 1 in the generator and 3"):
        build(tiny().augmentation(generator=generator))


def test_infinite_rewards_are_named_as_the_cause(build: Build) -> None:
    algorithm = build(tiny())
    algorithm.train()
    algorithm.service.replay.real["rewards"][:] = np.inf
    with pytest.raises(FloatingPointError, match="infinite rewards"):
        algorithm.train()


def test_sampling_without_a_folder_to_set_it_on_is_refused() -> None:
    with pytest.raises(ValueError, match="same call of augmentation"):
        tiny().augmentation(generator="models/demos").augmentation(sampling=SamplingConfig(horizon=7))
