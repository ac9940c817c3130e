"""ATraDiffCallback on stock SAC, TQC and DQN: it trains, mixes, scales and reports."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import ray
import torch
import toy_worlds
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.tune.logger import TBXLoggerCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_configs import CONFIGS, generator, tiny_config
from toy_worlds import HIGH, LOW, ConstantGenerator

from atradiff.replay.mixed import MixedReplay
from rllib_ext import ATraDiffCallback

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def build() -> Iterator[Callable[..., Algorithm]]:
    algorithms: list[Algorithm] = []

    def make(config: Any, gen: Any, **options: Any) -> Algorithm:
        config.callbacks(ATraDiffCallback.using(gen, **{"requests_per_batch": 4, "expected_length": 4, **options}))
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield make
    for algorithm in algorithms:
        algorithm.stop()


@dataclass(frozen=True)
class Trained:
    """An algorithm after two iterations, and what it began with. Tests that share it only look."""

    name: str
    algorithm: Algorithm
    generator: ConstantGenerator
    first_weights: dict[str, np.ndarray]
    results: list[dict[str, Any]]

    @property
    def replay(self) -> MixedReplay:
        replay: MixedReplay = self.algorithm.local_replay_buffer.service.replay
        return replay


@pytest.fixture(scope="module", params=CONFIGS)
def trained(request: pytest.FixtureRequest, local_ray: None) -> Iterator[Trained]:  # noqa: ARG001
    gen = generator(request.param)
    callback = ATraDiffCallback.using(gen, requests_per_batch=4, expected_length=4, rho=0.5)
    algorithm = tiny_config(request.param).callbacks(callback).build_algo()
    before = _weights(algorithm)
    results = [algorithm.train() for _ in range(2)]
    yield Trained(request.param, algorithm, gen, before, results)
    algorithm.stop()


def test_trains_on_real_and_synthetic_rows(trained: Trained) -> None:
    replay, metrics = trained.replay, trained.results[-1]["atradiff"]
    assert metrics["real_rows"] == len(replay.real) == 100
    assert metrics["synthetic_rows"] == len(replay.synthetic) == 4 * metrics["trajectories"] > 0
    assert metrics["generator_version"] == 7
    assert 0 < metrics["synthetic_share_sampled"] < 0.5
    assert any(not np.array_equal(trained.first_weights[key], v) for key, v in _weights(trained.algorithm).items())
    learned = trained.results[-1]["learners"]["__all_modules__"]
    assert learned["num_env_steps_trained_lifetime"] == learned["num_module_steps_trained_lifetime"] > 0
    assert np.all(np.isfinite(trained.algorithm.local_replay_buffer.scored.td_errors))


def test_real_rows_are_what_the_environment_saw(trained: Trained) -> None:
    real = trained.replay.real
    rows = {key: real[key][: len(real)] for key in real.columns}
    t = np.arange(100) % 10
    np.testing.assert_array_equal(rows["observations"][:, 0], t)
    np.testing.assert_array_equal(rows["next_observations"][:, 0], t + 1)
    np.testing.assert_array_equal(rows["rewards"], t + 1)
    np.testing.assert_array_equal(rows["terminated"], t == 9)
    assert not rows["truncated"].any()
    # The environment adds up the actions that it gets: that tells what RLlib made of the stored ones.
    env_actions = rows["actions"]
    if trained.name != "DQN":
        assert np.abs(env_actions).max() <= 1
        env_actions = LOW + (env_actions + 1) * (HIGH - LOW) / 2
    step = rows["next_observations"][:, 1] - rows["observations"][:, 1]
    np.testing.assert_allclose(env_actions.reshape(100, -1).sum(axis=1), step, atol=1e-4)


def test_synthetic_actions_reach_the_learner_in_its_own_scale(trained: Trained) -> None:
    _assert_synthetic_actions(trained.algorithm, 2 if trained.name == "DQN" else [0.5, 1.0])


def test_without_normalising_actions_stay_the_environments(build: Callable[..., Algorithm]) -> None:
    config = tiny_config("SAC").environment(normalize_actions=False, clip_actions=True)
    algorithm = build(config, generator("SAC"))
    algorithm.train()
    _assert_synthetic_actions(algorithm, [1.0, 10.0])


def _assert_synthetic_actions(algorithm: Algorithm, stored: Any) -> None:
    (batch,) = algorithm.local_replay_buffer.sample(64)
    synthetic = batch.columns["rewards"] == -5
    assert synthetic.any()
    actions = batch.columns["actions"]
    assert actions.dtype == (np.int64 if stored == 2 else np.float32)
    np.testing.assert_allclose(actions[synthetic], np.broadcast_to(stored, actions[synthetic].shape), atol=1e-6)


def test_generation_starts_at_states_that_were_reached(trained: Trained) -> None:
    real = trained.replay.real
    reached = {tuple(row) for row in real["next_observations"][: len(real)][~real["terminated"][: len(real)]]}
    asked = [tuple(state) for states, _ in trained.generator.calls for state in states]
    assert asked
    assert set(asked) <= reached


def test_sac_with_discrete_actions(build: Callable[..., Algorithm]) -> None:
    algorithm = build(tiny_config("SAC", discrete=True), generator("DQN"))
    assert algorithm.train()["atradiff"]["synthetic_share_sampled"] > 0
    assert np.isfinite(algorithm.local_replay_buffer.scored.td_errors).all()


def test_metrics_reach_tensorboard_as_one_group(trained: Trained, tmp_path: Path) -> None:
    """Through the logger that Tune hands each result to; a trial is only a folder to it."""
    result = trained.results[0]
    trial = FakeTrial(str(tmp_path))
    logger = TBXLoggerCallback()
    logger.log_trial_result(1, trial, result)
    logger.log_trial_end(trial)
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    tags = {tag.split("/atradiff/")[1]: tag for tag in board.Tags()["scalars"] if "/atradiff/" in tag}
    assert set(tags) == set(result["atradiff"])
    assert board.Scalars(tags["real_rows"])[0].value == 50


@dataclass(frozen=True)
class FakeTrial:
    local_path: str
    evaluated_params: tuple[()] = ()

    def init_local_path(self) -> None:
        """The folder is there."""


def test_a_time_limit_is_no_terminal_state(build: Callable[..., Algorithm]) -> None:
    algorithm = build(tiny_config("SAC", truncate=True), generator("SAC"))
    algorithm.train()
    real = algorithm.local_replay_buffer.service.replay.real
    assert not real["terminated"][:50].any()
    np.testing.assert_array_equal(np.flatnonzero(real["truncated"][:50]), [9, 19, 29, 39, 49])


def test_td_errors_belong_to_the_rows_of_the_last_sample(build: Callable[..., Algorithm]) -> None:
    """Closed form: with frozen weights the error of a terminal row is |Q(s, a) - r|."""
    config = tiny_config("DQN", length=2).training(lr=1e-30, dueling=False, double_q=False, num_atoms=1)
    algorithm = build(config, generator("DQN"))
    algorithm.train()
    facade = algorithm.local_replay_buffer
    rows, scored = facade._last_sample.transitions, facade.scored
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID]
    with torch.no_grad():
        q = module.compute_q_values({"obs": torch.from_numpy(rows.observations)})["qf_preds"].numpy()
    expected = np.abs(q[np.arange(32), rows.actions] - rows.rewards)
    assert rows.terminated.sum() > 3
    np.testing.assert_allclose(scored.td_errors[rows.terminated], expected[rows.terminated], atol=1e-4)
    real_ids = scored.row_ids[~scored.synthetic]
    np.testing.assert_array_equal(
        facade.service.replay.real["observations"][real_ids], rows.observations[~scored.synthetic]
    )


def test_with_a_rho_of_0_nothing_is_imagined(build: Callable[..., Algorithm]) -> None:
    gen = generator("SAC")
    algorithm = build(tiny_config("SAC"), gen, rho=0.0)
    result = algorithm.train()
    assert gen.calls == []
    assert result["atradiff"]["synthetic_share_sampled"] == 0


def test_same_seed_same_run(build: Callable[..., Algorithm]) -> None:
    runs = []
    for seed in (1, 1, 2):
        algorithm = build(tiny_config("SAC").debugging(seed=seed), generator("SAC"))
        algorithm.train()
        runs.append((_weights(algorithm), algorithm.local_replay_buffer.service.replay.real["actions"][:50].copy()))
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert all(np.array_equal(runs[0][0][key], runs[1][0][key]) for key in runs[0][0])
    assert not np.array_equal(runs[0][1], runs[2][1])


def test_a_remote_env_runner_with_several_environments(build: Callable[..., Algorithm]) -> None:
    config = tiny_config("SAC").env_runners(num_env_runners=1, num_envs_per_env_runner=3)
    ray.cloudpickle.register_pickle_by_value(toy_worlds)  # other processes cannot import a test's helpers
    try:
        algorithm = build(config, generator("SAC"))
        algorithm.train()
    finally:
        ray.cloudpickle.unregister_pickle_by_value(toy_worlds)
    real = algorithm.local_replay_buffer.service.replay.real
    n = len(real)
    assert n >= 50
    before, after = real["observations"][:n], real["next_observations"][:n]
    np.testing.assert_array_equal(after[:, 0], before[:, 0] + 1)
    # The worlds go in step; what tells them apart is the sum of their actions.
    actions = LOW + (real["actions"][:n] + 1) * (HIGH - LOW) / 2
    np.testing.assert_allclose(actions.sum(axis=1), after[:, 1] - before[:, 1], atol=1e-4)
    assert len(np.unique(after[after[:, 0] == 1, 1])) >= 3


def test_capacity_is_the_configs_unless_given(build: Callable[..., Algorithm]) -> None:
    assert build(tiny_config("SAC"), generator("SAC")).local_replay_buffer.capacity == 500
    assert build(tiny_config("SAC"), generator("SAC"), capacity=60).local_replay_buffer.capacity == 60


def test_priorities_that_have_no_effect_are_named(
    build: Callable[..., Algorithm], caplog: pytest.LogCaptureFixture
) -> None:
    prioritised = {"type": "PrioritizedEpisodeReplayBuffer", "capacity": 500, "alpha": 0.6, "beta": 0.4}
    with caplog.at_level(logging.WARNING, logger="rllib_ext"):
        build(tiny_config("DQN"), generator("DQN"))
        assert caplog.text == ""
        build(tiny_config("DQN").training(replay_buffer_config=prioritised), generator("DQN"))
    assert "sampling is uniform" in caplog.text


def test_options_are_checked_where_they_are_given() -> None:
    with pytest.raises(ValueError, match=r"rho must lie in \[0, 1\), got 1.5"):
        ATraDiffCallback.using("model", rho=1.5)
    with pytest.raises(ValueError, match="requests_per_batch must be at least 1"):
        ATraDiffCallback.using("model", requests_per_batch=0)
    with pytest.raises(TypeError, match=r"no option \['rhoo'\]"):
        ATraDiffCallback.using("model", rhoo=0.5)


def test_pickled_callback_leaves_the_model_behind() -> None:
    gen = generator("SAC")
    gen.weights = np.zeros(1_000_000)
    made = ATraDiffCallback.using(gen)
    pickled = cloudpickle.dumps(made)
    assert len(pickled) < 20_000
    again = pickle.loads(pickled)
    assert again.settings.source.load() is gen  # this process still has the object
    assert isinstance(again(), ATraDiffCallback)


def test_in_another_process_a_folder_is_opened_and_an_object_is_missed() -> None:
    made = [ATraDiffCallback.using(generator("SAC")), ATraDiffCallback.using("no/such/folder")]
    code = (
        "import pickle, sys\n"
        "for callback in pickle.loads(bytes.fromhex(sys.argv[1])):\n"
        "    try:\n        callback().settings.source.load()\n"
        "    except (RuntimeError, OSError) as error:\n        print('said:', error)\n"
    )
    arguments = [sys.executable, "-c", code, cloudpickle.dumps(made).hex()]
    out = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    assert "save_pretrained(folder)" in out.stdout
    assert "no/such/folder" in out.stdout


def _weights(algorithm: Algorithm) -> dict[str, np.ndarray]:
    state = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].state_dict()
    return {key: value.detach().numpy().copy() for key, value in state.items()}
