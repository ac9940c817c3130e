"""Scores of what was lived: against a naive loop, without a trace in the learner, in time for each pick."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ensemble_sac_worlds import tiny
from test_ensemble_sac_updater import REDQ, A, S, member, networks_for
from toy_worlds import CountingWorld, spaces_of

from atradiff.adaptation.config import AdaptationConfig, PickUpConfig
from atradiff.adaptation.service import AdaptingServices
from atradiff.data.trajectories import Trajectories
from atradiff.replay.config import ReplayConfig
from atradiff.types import Transitions
from rllib_ext.ensemble_sac import EnsembleSAC
from rllib_ext.ensemble_sac.scoring import Scorer
from rllib_ext.ensemble_sac.state import LearnerState
from tests.toys import random_data, tiny_diffuser

GAMMA = 0.9


def lived(n: int, seed: int = 0) -> Transitions:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(2, n, S)).astype(np.float32)
    ends = rng.random((2, n)) < 0.3
    return Transitions(
        states[0],
        rng.uniform(-1, 1, (n, A)).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
        states[1],
        ends[0],
        ends[1] & ~ends[0],
    )


def naive(nets: Any, rows: Transitions, next_actions: list[torch.Tensor]) -> list[float]:
    """One row at a time, one critic at a time; the best of ``next_actions`` counts. Truncation is no end."""
    critics, errors = [member(nets.critics, i) for i in range(nets.critics.n_critics)], []
    for i in range(len(rows)):

        def value(state: Any, action: Any) -> float:
            joined = torch.cat([torch.as_tensor(state), torch.as_tensor(action)])
            return min(float(critic(joined)) for critic in critics)

        best = max(value(rows.next_observations[i], actions[i]) for actions in next_actions)
        target = float(rows.rewards[i]) + (0 if rows.terminated[i] else GAMMA * best)
        errors.append(abs(target - value(rows.observations[i], rows.actions[i])))
    return errors


@torch.no_grad()
def test_scores_are_those_of_the_definition() -> None:
    nets, rows = networks_for(REDQ), lived(40)
    following = torch.from_numpy(rows.next_observations)
    mean = torch.tanh(nets.actor(following)[0])
    scores = Scorer(nets, GAMMA, 1, torch.device("cpu"), seed=0)(rows)
    np.testing.assert_allclose(scores, naive(nets, rows, [mean]), rtol=1e-4, atol=1e-5)
    noise = torch.Generator().manual_seed(7)
    draws = [nets.actor.sample(following, noise)[0] for _ in range(3)]
    best = Scorer(nets, GAMMA, 3, torch.device("cpu"), seed=7)(rows)
    np.testing.assert_allclose(best, naive(nets, rows, draws), rtol=1e-4, atol=1e-5)


def test_many_rows_are_scored_like_few() -> None:
    nets, rows = networks_for(REDQ), lived(20_000)
    scorer = Scorer(nets, GAMMA, 1, torch.device("cpu"), seed=0)
    scores = scorer(rows)
    assert scores.shape == (20_000,)
    some = np.array([0, 8191, 8192, 16_384, 19_999])
    np.testing.assert_allclose(scores[some], scorer(rows[some]), rtol=1e-4, atol=1e-5)
    assert scorer(rows[some[:0]]).shape == (0,)


Build = Callable[..., EnsembleSAC]


@pytest.fixture
def build(local_ray: None) -> Iterator[Build]:  # noqa: ARG001
    built = []

    def build_one(pick_up: PickUpConfig) -> EnsembleSAC:
        """Updates at 40, 80, ... env steps of 20 an iteration."""
        adaptation = AdaptationConfig(
            pick_up, every=40, steps=2, tokens_per_step=24, dynamics_updates=1, min_windows=2, max_forgetting=None
        )
        services = AdaptingServices(DIFFUSER, DATA, adaptation)
        config = tiny().augmentation(generator=DIFFUSER, replay=ReplayConfig(capacity=500), services=services)
        built.append(config.build_algo())
        return built[-1]

    yield build_one
    for algorithm in built:
        algorithm.stop()


def _world_data() -> Trajectories:
    return random_data([12] * 6, [True] * 6, spaces=spaces_of(CountingWorld()))


DATA = _world_data()
DIFFUSER = tiny_diffuser(DATA)


def test_the_index_is_scored_by_the_learner_before_each_pick_and_runs_repeat(build: Build) -> None:
    pick_up = PickUpConfig("td", entries=60, picked=20)
    fitted = DIFFUSER.weights()
    first, again = build(pick_up), build(pick_up)
    scored: list[tuple[int, Any]] = []
    ask = first.learners.score
    first.learners.score = lambda rows, draws: _noted(scored, first.env_steps, ask(rows, draws))
    for _ in range(6):
        for algorithm in (first, again):
            algorithm.train()
    assert [steps for steps, _ in scored] == [80, 120]  # at 40 nothing was learned from, the index is empty
    report = first.service.adaptation.last_report
    assert report.env_steps == 120
    np.testing.assert_array_equal(report.importance, np.sort(scored[-1][1])[::-1][:20])
    ours, theirs = (algorithm.learners.first(LearnerState.of) for algorithm in (first, again))
    for name, value in ours.weights.items():
        assert torch.equal(value, theirs.weights[name]), name
    for name, value in first.service.adaptation.adapter.weights().items():
        np.testing.assert_array_equal(value, again.service.adaptation.adapter.weights()[name])
    for name, value in DIFFUSER.weights().items():  # what the next service of the same diffuser begins with
        np.testing.assert_array_equal(value, fitted[name])


def test_scoring_is_a_switch_and_leaves_no_trace_in_the_learner(build: Build) -> None:
    with_scores, without = build(PickUpConfig("td", picked=20, draws=3)), build(PickUpConfig("td", rescore=False))
    for algorithm in (with_scores, without):
        for _ in range(4):
            algorithm.train()
    noise = [algorithm.learners.first(LearnerState.of).optimizers["noise"] for algorithm in (with_scores, without)]
    assert torch.equal(*noise)


def _noted(scored: list[tuple[int, Any]], env_steps: int, errors: Any) -> Any:
    scored.append((env_steps, errors))
    return errors
