"""Chained trajectories whose drift, ends and returns are known beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from known_generators import Fake, Perfect, Still, account, collect

from atradiff.data.trajectories import Trajectories
from atradiff.imagine import GenerationReport
from atradiff.report.fidelity_chains import chain_fidelity, rows_between
from atradiff.report.judge import Judge
from atradiff.types import FloatArray, SyntheticTrajectories

HORIZON, LENGTH = 15, 5


class Tiring(Fake):
    """Right for one link, then believes that nothing moves."""

    def imagine(self, states: FloatArray, length: int, rng: np.random.Generator) -> SyntheticTrajectories:
        right = Perfect(self.data).imagine(states, length, rng)
        right.observations[:, LENGTH + 1 :] = right.observations[:, LENGTH, None]
        right.terminated[:, LENGTH:] = False
        return right


class Ending(Still):
    """Ends a quarter of its chains after 3 rows and says why."""

    def generate_with_report(
        self, states: FloatArray, *args: Any, **kwargs: Any
    ) -> tuple[SyntheticTrajectories, GenerationReport]:
        full, _ = super().generate_with_report(states, *args, **kwargs)
        lengths = np.where(np.arange(len(states)) % 4 == 0, 3, full.lengths)
        links = 3 * len(states)
        stopped = float((lengths == 3).sum())
        report = account(windows=links, disagreement=stopped / links, left_data=stopped / 4 / links)
        return replace(full, lengths=lengths), replace(report, cut=0.0)


@pytest.fixture(scope="module")
def data() -> tuple[Trajectories, Judge]:
    train, held_out = collect("Hopper-v5", 80).split(0.5, seed=0)
    return held_out, Judge.over(held_out, train, "Hopper-v5", simulated_rows=600, seed=0)


def chained(kind: type[Fake], data: tuple[Trajectories, Judge], count: int = 100, stretch: int | None = None) -> Any:
    held_out, judge = data
    sizes = {"horizon": HORIZON, "length": LENGTH, "stretch": stretch, "trajectories": count}
    return chain_fidelity(kind(held_out), held_out, judge, variants=("raw",), **sizes)["raw"]


def test_the_environment_itself_does_not_drift(data: tuple[Trajectories, Judge]) -> None:
    chain = chained(Perfect, data, 400)
    assert [(link.start, link.stop) for link in chain.links] == [(0, 5), (5, 10), (10, 15)]
    for link in chain.links:
        assert link.relative_dynamics_error == pytest.approx(0, abs=1e-4)
        assert link.relative_reward_error == pytest.approx(0, abs=1e-4)
    running = [link.running for link in chain.links]
    assert running[0] == 1
    assert running == sorted(running, reverse=True)
    assert running[2] < 1  # random actions make hoppers fall
    assert chain.ended_terminal == pytest.approx(chain.real_ended_terminal, abs=0.1)
    assert chain.full_length + chain.ended_terminal == pytest.approx(1)
    assert chain.mean_return == pytest.approx(chain.real_mean_return, rel=0.1)
    assert chain.links[0].state_distance == pytest.approx(1, abs=0.2)


def test_drift_is_told_link_by_link(data: tuple[Trajectories, Judge]) -> None:
    first, *rest = chained(Tiring, data).links
    assert first.relative_dynamics_error == pytest.approx(0, abs=1e-4)
    for link in rest:
        assert link.relative_dynamics_error == pytest.approx(1)
        assert link.step_size == 0


def test_a_stretch_joins_the_rows_of_several_windows(data: tuple[Trajectories, Judge]) -> None:
    by_window, joined = chained(Still, data), chained(Still, data, stretch=2 * LENGTH)
    assert [(link.start, link.stop) for link in joined.links] == [(0, 2 * LENGTH), (2 * LENGTH, HORIZON)]
    assert joined.links[0].rows == by_window.links[0].rows + by_window.links[1].rows
    assert joined.transitions_per_cpu_second > 0


def test_ends_are_shares_of_chains_and_disjoint(data: tuple[Trajectories, Judge]) -> None:
    chain = chained(Ending, data)
    assert chain.mean_length == pytest.approx(0.25 * 3 + 0.75 * HORIZON)
    assert chain.ended_disagreement == pytest.approx(0.25 * 3 / 4)
    assert chain.ended_range == pytest.approx(0.25 / 4)
    assert chain.full_length == 0.75
    assert [link.running for link in chain.links] == [1, 0.75, 0.75]


def test_returns_are_compared_where_the_data_are_not_cut_short() -> None:
    data = collect("Hopper-v5", 30, steps=20)
    position = np.concatenate([np.arange(n) for n in data.lengths])
    starts = np.flatnonzero(position + HORIZON <= 20)
    judge = Judge.over(data, None, None, simulated_rows=10, seed=0)
    chain = chained(Still, (data, judge), 2 * len(starts))  # twice from each
    returns, rows, ended = [], [], []
    for t in starts:
        n = min(HORIZON, next(end for end in data.offsets if end > t) - t)
        returns.append(data.columns.rewards[t : t + n].sum())
        rows.append(n)
        ended.append(data.columns.terminated[t + n - 1])
    assert chain.compared == chain.trajectories == 2 * len(starts)
    assert chain.real_mean_return == pytest.approx(np.mean(returns), rel=1e-5)
    assert 0 < chain.real_ended_terminal < 1
    assert chain.real_ended_terminal == pytest.approx(np.mean(ended))
    assert chain.real_episodes == sum(n > 0 for n in np.histogram(starts, data.offsets)[0])
    assert chain.learned_ended_terminal is None
    assert chain.real_reward_per_row == pytest.approx(np.sum(returns) / np.sum(rows), rel=1e-5)
    assert chain.mean_return == pytest.approx(HORIZON * data.columns.rewards.mean(), rel=1e-4)


def test_training_episodes_say_how_often_they_end(data: tuple[Trajectories, Judge]) -> None:
    held_out, judge = data
    learned = collect("Hopper-v5", 40, steps=30)

    def chain_of(horizon: int) -> Any:
        few = {"horizon": horizon, "trajectories": 20, "variants": ("raw",)}
        return chain_fidelity(Still(held_out), held_out, judge, learned, **few)["raw"]  # type: ignore[arg-type]

    chain = chain_of(30)
    last = learned.offsets[1:] - 1
    assert 0 < chain.learned_ended_terminal < 1
    assert chain.learned_ended_terminal == pytest.approx(learned.columns.terminated[last].mean())
    assert [link.learned_running for link in chain.links] == pytest.approx(
        [(learned.lengths > link.start).mean() for link in chain.links]
    )
    assert chain_of(31).learned_ended_terminal is None  # no episode has room for so many


def test_data_without_room_say_nothing_of_whole_trajectories() -> None:
    data = collect("Pendulum-v1", 3, steps=10)
    judge = Judge.over(data, None, None, simulated_rows=10, seed=0)
    chain = chained(Still, (data, judge), 20)
    assert (chain.trajectories, chain.compared) == (20, 0)
    assert (chain.mean_return, chain.real_mean_return, chain.real_ended_terminal) == (None, None, None)
    assert chain.reward_per_row == pytest.approx(data.columns.rewards.mean(), rel=1e-4)


def test_rows_between_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([1, 4, 6, 3])
    states = rng.normal(size=(4, 7, 2)).astype(np.float32)
    flat = np.zeros((4, 6), np.float32)
    trajectories = SyntheticTrajectories(states, flat[..., None], flat, flat > 0, lengths, 0)
    naive = [states[i, j + 1] for i in range(4) for j in range(2, 5) if j < lengths[i]]
    np.testing.assert_array_equal(rows_between(trajectories, 2, 5).next_observations, naive)
