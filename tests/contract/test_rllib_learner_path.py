"""How a batch gets from ``sample`` to the loss on a local learner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.connectors.common import NumpyToTensor
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import EnvToModulePipeline, FlattenObservations, MeanStdFilter
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import TD_ERROR_KEY
from stock_configs import stock_config

Build = Callable[[Any], Algorithm]
EXPECTED = {Columns.OBS, Columns.ACTIONS, Columns.REWARDS, Columns.NEXT_OBS, Columns.TERMINATEDS, "weights", "n_step"}


class Tap(ConnectorV2):
    """Last in the pipeline: shows what the loss gets."""

    seen: dict[str, Any]

    def __call__(self, *, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        Tap.seen = {name: value.clone() for name, value in batch[DEFAULT_MODULE_ID].items() if torch.is_tensor(value)}
        return batch


class Anything:
    """What the learner holds for an episode: it only ever asks its length."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[Columns.REWARDS])


class Hand(ConnectorV2):
    def __call__(self, *, batch: dict[str, Any], episodes: list[Anything], **_: Any) -> dict[str, Any]:
        batch[DEFAULT_MODULE_ID] = episodes[0].columns
        return batch


def test_the_stock_pipeline_makes_these_columns(stock: str, build: Build) -> None:
    algorithm = build(stock_config(stock))
    pipeline = algorithm.learner_group._learner._learner_connector
    assert sum(isinstance(piece, NumpyToTensor) for piece in pipeline.connectors) == 1
    assert isinstance(pipeline.connectors[-1], NumpyToTensor)
    pipeline.append(Tap())
    algorithm.train()
    assert set(Tap.seen) >= EXPECTED
    assert all(len(column) == 8 for column in Tap.seen.values())
    assert Tap.seen["weights"].dtype == torch.float32
    assert Tap.seen[Columns.TERMINATEDS].dtype == torch.bool


def test_a_pipeline_of_two_pieces_trains_on_columns_with_the_right_counters(stock: str, build: Build) -> None:
    """Stock losses need no episode and no other column; TD errors come back in the order of the rows."""
    algorithm = build(stock_config(stock))
    learner = algorithm.learner_group._learner
    pipeline = learner._learner_connector
    pipeline.connectors[:] = [Hand(), pipeline.connectors[-1]]
    columns = _columns(algorithm, np.arange(8))
    (results,) = algorithm.learner_group.update(episodes=[Anything(columns)], timesteps={})
    assert results["__all_modules__"]["num_env_steps_trained"].peek() == 8
    td_errors = np.concatenate(results[DEFAULT_MODULE_ID][TD_ERROR_KEY].peek())
    assert td_errors.shape == (8,)
    assert np.argmax(np.abs(td_errors)) == 5  # the one row with a reward of a million


def test_recurrent_is_a_question_the_module_answers(build: Build) -> None:
    module = build(stock_config("SAC")).learner_group._learner.module[DEFAULT_MODULE_ID]
    assert not module.is_stateful()
    assert module.observation_space.shape == (3,)
    assert module.action_space.high.tolist() == [2.0]  # the environment's own scale


def test_the_env_to_module_pipeline_can_be_looked_into(build: Build) -> None:
    def pieces(*_: Any, **__: Any) -> list[Any]:
        return [FlattenObservations(), MeanStdFilter()]

    algorithm = build(stock_config("SAC").env_runners(env_to_module_connector=pieces))
    pipeline = algorithm.env_runner._env_to_module
    assert isinstance(pipeline, EnvToModulePipeline)
    assert any(isinstance(piece, MeanStdFilter) for piece in pipeline.connectors)


def _columns(algorithm: Algorithm, rows: np.ndarray) -> dict[str, Any]:
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID]
    size = module.observation_space.shape[0]
    n = len(rows)
    discrete = not module.action_space.shape
    rewards = np.where(rows == 5, 1e6, 0.0).astype(np.float32)
    observations = np.random.default_rng(0).normal(size=(n, size)).astype(np.float32)
    return {
        Columns.OBS: observations,
        Columns.ACTIONS: np.zeros(n, np.int64) if discrete else np.zeros((n, 1), np.float32),
        Columns.REWARDS: rewards,
        Columns.NEXT_OBS: observations,
        Columns.TERMINATEDS: np.ones(n, bool),
        Columns.TRUNCATEDS: np.zeros(n, bool),
        "weights": np.ones(n, np.float32),
        "n_step": np.ones(n, np.float32),
    }
