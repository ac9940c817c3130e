"""A run that is over in a second or two, with everything in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config import RunConfig, load_run_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and models that several tests use: found again by their recipe."""
    return tmp_path_factory.mktemp("made_once")


@pytest.fixture
def tiny_run(tmp_path: Path, made_once: Path) -> RunConfig:
    run = load_run_config(CONFIGS / "tiny" / "quickstart.yaml")
    return replace(
        run,
        output=str(tmp_path / "runs"),
        data=replace(run.data, cache=str(made_once / "data")),
        generator=replace(run.generator, cache=str(made_once / "models")),
    )
