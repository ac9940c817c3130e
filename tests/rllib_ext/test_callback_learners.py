"""ATraDiffCallback with remote learners: fed by batches, TD errors in row order, checkpoints whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import toy_worlds
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from toy_configs import generator, tiny_config

from rllib_ext import ATraDiffCallback
from rllib_ext.stock_learners import ask_learners
from rllib_ext.stock_policy import StockPolicy
from rllib_ext.stock_scoring import StockScorer, _score_part

Build = Callable[..., Algorithm]


@pytest.fixture
def build(local_ray: None) -> Iterator[Build]:  # noqa: ARG001
    built: list[Algorithm] = []
    helpers = (toy_worlds, sys.modules[__name__])  # other processes cannot import them
    for module in helpers:
        ray.cloudpickle.register_pickle_by_value(module)

    def make(name: str, learners: int, env: dict[str, Any] | None = None, **training: Any) -> Algorithm:
        config = tiny_config(name, **(env or {})).training(train_batch_size_per_learner=16, **training)
        config.learners(num_learners=learners, num_cpus_per_learner=0.5)
        config.callbacks(ATraDiffCallback.using(generator(name), requests_per_batch=4, expected_length=4))
        built.append(config.build_algo())
        return built[-1]

    yield make
    for algorithm in built:
        algorithm.stop()
    for module in helpers:
        ray.cloudpickle.unregister_pickle_by_value(module)


def weights(learner: Any) -> dict[str, np.ndarray]:
    state = learner.module[DEFAULT_MODULE_ID].unwrapped().state_dict()
    return {key: value.detach().numpy().copy() for key, value in state.items()}


def log_alpha(learner: Any) -> float:
    return float(learner.curr_log_alpha[DEFAULT_MODULE_ID].detach())


def test_remote_learners_learn_and_come_back_whole(build: Build, tmp_path: Path) -> None:
    algorithm = build("SAC", 2)
    group = algorithm.learner_group
    before = ask_learners(group, weights)
    result = algorithm.train()
    after = ask_learners(group, weights)
    assert any(not np.array_equal(before[0][key], value) for key, value in after[0].items())
    for key, value in after[0].items():
        np.testing.assert_array_equal(value, after[-1][key], err_msg=key)  # all learners stay alike
    assert 0 < result["atradiff"]["synthetic_share_sampled"] < 0.5
    scored = algorithm.local_replay_buffer.scored
    assert scored.td_errors.shape == (32,)
    assert np.isfinite(scored.td_errors).all()

    rows = algorithm.local_replay_buffer._last_sample.transitions
    acted = StockPolicy(group)()(rows.observations, 5)
    assert acted.shape == rows.actions.shape
    assert np.abs(acted).max() <= 1
    scores = StockScorer(group, 0.9, seed=0)(rows, 1)
    alone = ask_learners(group, partial(_score_part, rows=rows, gamma=0.9, draws=1, seed=0, learners=1))[0]
    np.testing.assert_allclose(scores, alone, rtol=1e-5)  # each learner scores its half of the rows

    # RLlib averages the gradients of networks, not those of alpha: each learner has its own. A checkpoint has the
    # first learner's, as RLlib's has the first one's optimisers.
    alpha = ask_learners(group, log_alpha)[0]
    assert alpha != 0.0  # what RLlib would come back with
    folder = algorithm.save_to_path(tmp_path / "checkpoint")
    algorithm.train()
    assert ask_learners(group, log_alpha)[0] != alpha
    algorithm.restore_from_path(folder)
    assert ask_learners(group, log_alpha) == [alpha] * 2
    assert len(algorithm.local_replay_buffer) == 50
    for key, value in ask_learners(group, weights)[-1].items():
        np.testing.assert_array_equal(value, after[-1][key], err_msg=key)


def test_td_errors_of_two_learners_come_in_the_order_of_the_rows(build: Build) -> None:
    """Closed form: with frozen weights the error of a terminal row is |Q(s, a) - r|."""
    frozen = {"lr": 1e-30, "dueling": False, "double_q": False, "num_atoms": 1}
    algorithm = build("DQN", 2, {"length": 2}, **frozen)
    algorithm.train()
    facade = algorithm.local_replay_buffer
    rows, scored = facade._last_sample.transitions, facade.scored

    def q_values(learner: Any) -> np.ndarray:
        import torch

        module = learner.module[DEFAULT_MODULE_ID].unwrapped()
        with torch.no_grad():
            return module.compute_q_values({"obs": torch.from_numpy(rows.observations.copy())})["qf_preds"].numpy()

    q = ask_learners(algorithm.learner_group, q_values)[0]
    expected = np.abs(q[np.arange(32), rows.actions] - rows.rewards)
    assert rows.terminated[:16].any()
    np.testing.assert_allclose(scored.td_errors[rows.terminated], expected[rows.terminated], atol=1e-4)
