"""What the tests of algorithms share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


@pytest.fixture
def build(local_ray: None) -> Iterator[Callable[[AlgorithmConfig], Any]]:  # noqa: ARG001
    """Builds algorithms, and stops them all after the test."""
    built: list[Any] = []

    def build_one(config: AlgorithmConfig) -> Any:
        built.append(config.build_algo())
        return built[-1]

    yield build_one
    for algorithm in built:
        algorithm.stop()
