"""Data that several benchmarks are tried on."""

from __future__ import annotations

import pytest

from atradiff.data.collect import collect
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories


@pytest.fixture(scope="session")
def hopper_data(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """Eight random episodes of Hopper-v5."""
    folder = tmp_path_factory.mktemp("benchmarks") / "hopper"
    collect("Hopper-v5", "random", 8, folder, progress=False)
    return open_trajectories(folder)
