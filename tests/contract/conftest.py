"""Builds stock algorithms and stops them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from stock_configs import STOCK


@pytest.fixture(params=STOCK)
def stock(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build(local_ray: None) -> Iterator[Callable[[AlgorithmConfig], Algorithm]]:  # noqa: ARG001
    built: list[Algorithm] = []

    def make(config: AlgorithmConfig) -> Algorithm:
        built.append(config.build_algo())
        return built[-1]

    yield make
    for algorithm in built:
        algorithm.stop()
