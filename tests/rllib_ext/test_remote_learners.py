"""Remote learners: n of them do what one does, their state comes and goes, and a dead one is named."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from atradiff.types import FloatArray
from rllib_ext import EnsembleSACConfig
from rllib_ext.ensemble_sac import EnsembleSAC
from rllib_ext.ensemble_sac.learner import LearnerLost
from rllib_ext.ensemble_sac.state import LearnerState
from rllib_ext.evaluation import evaluate

Build = Callable[..., EnsembleSAC]

pytestmark = pytest.mark.usefixtures("local_ray")


def config(learners: int, **training: Any) -> EnsembleSACConfig:
    """REDQ's random subsets, so that all sources of noise are in it; remote workers can import Pendulum alone."""
    settings = {"hidden_sizes": (16, 16), "batch_size": 16, "learning_starts": 20, "n_critics": 3, **training}
    made = EnsembleSACConfig().environment("Pendulum-v1").training(**settings)
    made.env_runners(rollout_fragment_length=20).learners(num_learners=learners, num_cpus_per_learner=0.5)
    return made.debugging(seed=3)


@pytest.fixture
def build() -> Iterator[Build]:
    built = []

    def build_one(learners: int, **training: Any) -> EnsembleSAC:
        built.append(config(learners, **training).build_algo())
        return built[-1]

    yield build_one
    for algorithm in built:
        algorithm.stop()


def watch_td_errors(algorithm: EnsembleSAC) -> list[FloatArray]:
    seen: list[FloatArray] = []
    algorithm.service.report_td_errors = lambda _, errors: seen.append(errors)  # type: ignore[method-assign]
    return seen


def assert_close(ours: LearnerState, theirs: LearnerState, **tolerance: float) -> None:
    assert ours.updates == theirs.updates
    for mine, yours in ((ours.weights, theirs.weights), (ours.optimizers, theirs.optimizers)):
        assert mine.keys() == yours.keys()
        for name in mine.keys() - {"noise"}:
            torch.testing.assert_close(mine[name], yours[name], msg=name, **tolerance)


def test_two_learners_of_half_a_batch_are_one_of_a_whole(build: Build, tmp_path: Path) -> None:
    alone, shared = (build(n, standardise_states=True) for n in (0, 2))  # scales: of what all learners were given
    td_errors = [watch_td_errors(algorithm) for algorithm in (alone, shared)]
    for _ in range(3):
        results = [algorithm.train() for algorithm in (alone, shared)]
    ours, theirs = (algorithm.learners.first(LearnerState.of) for algorithm in (alone, shared))
    assert theirs.updates == 40
    tolerance = {"rtol": 1e-2, "atol": 1e-4}  # sums of floats in another order, over 40 updates
    assert_close(ours, theirs, **tolerance)
    for one, two in zip(*td_errors, strict=True):
        assert one.shape == two.shape == (20, 16)
        np.testing.assert_allclose(one, two, rtol=1e-2, atol=1e-3)
    for name, value in results[0]["learner"].items():
        assert results[1]["learner"][name] == pytest.approx(value, rel=1e-2, abs=1e-4), name
    rows = alone.service.sample(1, 64)[0].transitions
    np.testing.assert_allclose(shared.score(rows), alone.score(rows), rtol=1e-2, atol=1e-3)
    acted = [algorithm.policy_snapshot()(rows.observations, 5) for algorithm in (alone, shared)]
    np.testing.assert_allclose(*acted, rtol=1e-2, atol=1e-3)
    first, second = shared.learners.each(LearnerState.of)
    assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(first.optimizers["noise"], second.optimizers["noise"])

    # The weights are at the env runner, and a checkpoint of two is one for none.
    module, name = shared.get_module(DEFAULT_MODULE_ID).state_dict(), "actor.layers.0.weight"
    torch.testing.assert_close(module[name], theirs.weights[name])
    shared.save_state(tmp_path / "two")
    alone.load_state(tmp_path / "two")
    assert_close(alone.learners.first(LearnerState.of), theirs, rtol=0, atol=0)
    assert alone.learners.updates == 40
    alone.save_state(tmp_path / "none")
    shared.load_state(tmp_path / "none")
    assert_close(shared.learners.each(LearnerState.of)[1], theirs, rtol=0, atol=0)
    returns = [evaluate(algorithm, _pendulum, episodes=1, seed=0) for algorithm in (alone, shared)]
    np.testing.assert_array_equal(*returns)


def _pendulum() -> Any:
    import gymnasium

    return gymnasium.make("Pendulum-v1")


def test_what_is_wrong_in_a_learner_reaches_the_caller(build: Build) -> None:
    algorithm = build(1)
    algorithm.train()
    algorithm.service.replay.real["rewards"][:] = np.inf  # type: ignore[attr-defined]
    with pytest.raises(FloatingPointError, match="infinite rewards"):
        algorithm.train()


@pytest.mark.faults
def test_a_killed_learner_is_named_and_its_successor_catches_up_step_by_step(build: Build, tmp_path: Path) -> None:
    algorithm = build(2)
    for _ in range(2):
        algorithm.train()
    algorithm.save_state(tmp_path)
    for _ in range(6):
        algorithm.train()
    victim = algorithm.learners.each(lambda _: os.getpid())[1]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(LearnerLost, match=r"last checkpoint|do not answer"):
        algorithm.train()
    service = algorithm.service
    steps = service.env_steps
    assert steps in (160, 180)

    successor = build(0)
    successor.service = service  # the replay lived on
    successor.load_learner_state(tmp_path)
    assert (successor.env_steps, successor.learners.updates) == (steps, 20)
    made = []
    while not made or made[-1] < service.env_steps - 20:
        before = successor.learners.updates
        successor.train()
        made.append(successor.learners.updates)
        assert made[-1] - before <= 40  # those of two fragments
    assert len(made) >= 3
    assert np.isfinite(successor.train()["learner"]["critic_loss"])
