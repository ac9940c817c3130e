"""Figures at an agent's states, and what the one-step model's disagreement is worth."""

from __future__ import annotations

import numpy as np
import pytest
from known_generators import Perfect, Still, collect

from atradiff.data.trajectories import Trajectories
from atradiff.report.fidelity_stages import Stage, one_step_figures, stage_fidelity
from atradiff.report.judge import Judge
from atradiff.types import ActionArray, FloatArray


@pytest.fixture(scope="module")
def data() -> tuple[Trajectories, Judge]:
    train, held_out = collect("Hopper-v5", 40).split(0.5, seed=0)
    return held_out, Judge.over(held_out, train, "Hopper-v5", simulated_rows=300, seed=0)


def test_stages_are_judged_side_by_side(data: tuple[Trajectories, Judge]) -> None:
    held_out, judge = data
    states = held_out.columns.observations
    far = states + np.float32(0.5)
    stages = {"held-out": Stage(states), "early": Stage(far, 0, len(far) - 1)}
    found = stage_fidelity(Still(held_out), stages, judge, lengths=(3, 5), windows=50, variants=("raw",))
    near, away = found["held-out"], found["early"]
    assert near.state_distance == pytest.approx(1, abs=0.2)
    assert away.state_distance > 2
    assert (near.first, away.first, away.last) == (None, 0, len(far) - 1)
    raw = away.by_length[5]["raw"]
    assert raw.rows.relative_dynamics_error == pytest.approx(1)
    assert raw.rows.ks is None
    assert "no real rows" in raw.rows.reasons["ks"]
    assert away.to_json()["K"]["3"]["raw"]["relative_dynamics_error"] == pytest.approx(1)
    right = stage_fidelity(Perfect(held_out), stages, judge, lengths=(3,), windows=50, variants=("raw",))
    assert right["held-out"].by_length[3]["raw"].rows.relative_dynamics_error == pytest.approx(0, abs=1e-4)


def test_disagreement_that_knows_the_error_ranks_it(data: tuple[Trajectories, Judge]) -> None:
    held_out, judge = data

    def noisy(states: FloatArray, actions: ActionArray) -> tuple[FloatArray, FloatArray]:
        size = np.linspace(0, 1, len(states)).astype(np.float32)
        truth = judge.simulator.step(states, actions).next_observations
        return truth + size[:, None] * judge.scales.delta_scale, size

    figures = one_step_figures(noisy, 0.5, held_out.columns, judge)
    assert figures.rank_correlation == pytest.approx(1, abs=1e-3)
    assert figures.share_beyond == pytest.approx(0.5, abs=0.01)
    assert figures.error_within < figures.relative_error < figures.error_beyond

    def knows_nothing(states: FloatArray, actions: ActionArray) -> tuple[FloatArray, FloatArray]:
        following, size = noisy(states, actions)
        return following, np.random.default_rng(0).permutation(size)

    assert abs(one_step_figures(knows_nothing, 2.0, held_out.columns, judge).rank_correlation) < 0.2
    assert one_step_figures(knows_nothing, 2.0, held_out.columns, judge).error_beyond is None


def test_without_an_environment_there_is_nothing_to_say(data: tuple[Trajectories, Judge]) -> None:
    held_out, _ = data
    judge = Judge.over(held_out, None, None, simulated_rows=10, seed=0)
    assert one_step_figures(lambda *_: pytest.fail("asked in vain"), 1.0, held_out.columns, judge) is None
