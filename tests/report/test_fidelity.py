"""Fidelity of generators whose figures are known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from known_generators import Copy, Fake, Perfect, Still, collect

from atradiff.data.trajectories import Trajectories
from atradiff.report.fidelity import FidelityReport, fidelity
from atradiff.report.fidelity_windows import VARIANTS, ends_at_termination, real_windows, share_terminated
from atradiff.types import SyntheticTrajectories
from tests.toys import random_data

KEYS = {
    "relative_dynamics_error",
    "ks",
    "correlation",
    "relative_reward_error",
    "step_size_ratio",
    "transitions_per_cpu_second",
    "terminal_accuracy",
    "novelty",
    "window_novelty",
    "near_copies",
    "terminal_share",
    "true_terminal_share",
    "share_terminated",
    "share_left_data",
    "share_pruned",
    "share_cut",
    "mean_length",
}


@pytest.fixture(scope="module")
def hopper() -> tuple[Trajectories, Trajectories]:
    return collect("Hopper-v5", 160).split(0.4, seed=0)


def judged(model: Fake, data: tuple[Trajectories, Trajectories], **settings: object) -> FidelityReport:
    train, held_out = data
    defaults = {"lengths": (5,), "windows": 400, "simulated_rows": 1000, "variants": ("raw",)}
    return fidelity(model, held_out, train, held_out.env_id, **(defaults | settings))


def test_the_environment_itself_is_judged_perfect(hopper: tuple[Trajectories, Trajectories]) -> None:
    figures = judged(Perfect(hopper[0]), hopper).by_length[5]["raw"]
    assert figures.rows.relative_dynamics_error == pytest.approx(0, abs=1e-4)
    assert figures.rows.relative_reward_error == pytest.approx(0, abs=1e-4)
    assert figures.rows.terminal_accuracy == 1
    assert figures.rows.terminal_recall == 1
    assert figures.rows.ks > 0.95
    assert figures.rows.correlation < 0.05
    assert figures.rows.step_size_ratio == pytest.approx(1, abs=0.05)
    assert figures.rows.novelty == pytest.approx(1, abs=0.15)
    assert figures.rows.terminal_share == figures.rows.true_terminal_share > 0
    assert figures.rows.crisp_rewards is None  # Hopper's are a scale
    assert figures.transitions_per_cpu_second > 0


def test_real_windows_are_their_own_yardstick(hopper: tuple[Trajectories, Trajectories]) -> None:
    real = judged(Still(hopper[0]), hopper).by_length[5]["real"].rows
    assert real.relative_dynamics_error < 1e-3
    assert (real.ks, real.correlation, real.step_size_ratio, real.novelty) == (1, 0, 1, 1)


def test_standing_still_has_error_one_and_no_steps(hopper: tuple[Trajectories, Trajectories]) -> None:
    figures = judged(Still(hopper[0]), hopper).by_length[5]["raw"]
    assert figures.rows.relative_dynamics_error == pytest.approx(1)
    assert figures.rows.relative_reward_error == pytest.approx(1, abs=0.1)
    assert figures.rows.step_size_ratio == 0
    assert figures.rows.terminal_recall == 0
    assert figures.rows.terminal_precision is None
    assert figures.mean_length == 5


def test_reciting_the_training_data_is_not_novel(hopper: tuple[Trajectories, Trajectories]) -> None:
    figures = judged(Copy(hopper[0]), hopper).by_length[5]["raw"]
    assert figures.rows.novelty == 0
    assert figures.rows.ks > 0.9
    assert figures.rows.relative_dynamics_error > 1  # the jump from the state asked for into the recited window


def test_the_json_has_the_agreed_keys(hopper: tuple[Trajectories, Trajectories]) -> None:
    named = hopper[0], replace(hopper[1], content_hash="abc")
    report = judged(Still(hopper[0]), named, lengths=(3, 5), windows=20, simulated_rows=20, variants=tuple(VARIANTS))
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(document["K"]) == {"3", "5"}
    for name in ("raw", "pruned", "cut", "project", "dynamics"):
        assert set(document["K"]["5"][name]) >= KEYS
    assert document["K"]["5"]["cut"]["share_cut"] == 0.5
    assert document["K"]["5"]["raw"]["share_pruned"] == 0.25
    assert document["data_hash"] == "abc"


def test_the_same_seed_gives_the_same_figures(hopper: tuple[Trajectories, Trajectories]) -> None:
    a, b, c = (judged(Copy(hopper[0]), hopper, windows=50, seed=s).by_length[5]["raw"].rows for s in (7, 7, 8))
    assert a == b != c


def test_environments_that_cannot_be_set_leave_a_reason(hopper: tuple[Trajectories, Trajectories]) -> None:
    train, held_out = hopper
    report = fidelity(
        Still(train), held_out, None, "Acrobot-v1", lengths=(5,), windows=10, simulated_rows=10, variants=("raw",)
    )
    rows = report.by_length[5]["raw"].rows
    assert rows.relative_dynamics_error is None
    assert rows.terminal_accuracy is None
    assert "Acrobot-v1" in rows.reasons["relative_dynamics_error"]
    assert "no training data" in rows.reasons["novelty"]
    assert rows.ks is not None


def test_discrete_actions_and_rewards_that_never_vary() -> None:
    data = collect("CartPole-v1", 60)
    report = fidelity(Copy(data), data, data, "CartPole-v1", lengths=(3,), windows=50, variants=("raw",))
    real, raw = (report.by_length[3][name].rows for name in ("real", "raw"))
    assert real.relative_dynamics_error < 1e-4
    assert len(raw.ks_by_column) == 4 + 2 + 1
    assert raw.relative_reward_error is None
    assert "do not vary" in raw.reasons["relative_reward_error"]
    assert raw.crisp_rewards == 1


def test_a_reward_of_held_out_episodes_alone_is_a_level_of_the_data() -> None:
    data = random_data([20] * 10, [True] * 10)
    rewards = np.zeros(200, np.float32)
    rewards[-1] = 1  # the only success
    data = replace(data, columns=replace(data.columns, rewards=rewards))
    train, held_out = data.select(np.arange(9)), data.select(np.arange(9, 10))
    report = fidelity(Copy(held_out), held_out, train, None, lengths=(5,), windows=20, variants=("raw",))
    assert {name: found.rows.crisp_rewards for name, found in report.by_length[5].items()} == {"real": 1, "raw": 1}


def test_data_of_another_environment_is_refused(hopper: tuple[Trajectories, Trajectories]) -> None:
    with pytest.raises(ValueError, match="the data and CartPole-v1 do not fit: observation_size is 11"):
        judged(Still(hopper[0]), (hopper[0], replace(hopper[1], env_id="CartPole-v1")))


def test_unknown_variants_and_lengths_are_refused(hopper: tuple[Trajectories, Trajectories]) -> None:
    with pytest.raises(ValueError, match="raw, pruned, cut, project, dynamics, got sharp"):
        judged(Still(hopper[0]), hopper, variants=("sharp",))
    truncated = collect("Pendulum-v1", 2, steps=20)
    with pytest.raises(ValueError, match="no window of 30 rows"):
        fidelity(Still(truncated), truncated, None, None, lengths=(30,))


def test_real_windows_end_with_their_episode_and_avoid_time_outs() -> None:
    data = collect("Hopper-v5", 40, steps=15)
    windows = real_windows(data, 10, 10_000, seed=0)
    short = windows.lengths < 10
    assert short.any()
    last = windows.terminated[np.arange(len(windows)), windows.lengths - 1]
    assert last[short].all()
    naive = sum(
        1
        for episode in map(data.episode, range(len(data)))
        for t in range(len(episode))
        if (episode.terminated[-1] or len(episode) - t >= 10) and t + 10 <= 15  # a fall as late is left out, too
    )
    assert len(windows) == naive


def test_real_windows_terminate_as_often_as_the_data_do() -> None:
    """One row in 20 falls and time is up after 15: a window of 10 rows from a row with room falls as often as not."""
    falls = np.random.default_rng(0).geometric(0.05, 2000)
    data = random_data(np.minimum(falls, 15).tolist(), (falls <= 15).tolist())
    windows = real_windows(data, 10, 100_000, seed=0)
    assert share_terminated(windows) == pytest.approx(1 - 0.95**10, abs=0.015)
    fallen = data.select(np.flatnonzero(falls <= 15))
    assert len(real_windows(fallen, 10, 100_000, seed=0)) == fallen.n_transitions  # nothing is cut short here
    assert share_terminated(real_windows(data, 20, 100_000, seed=0)) == 1  # no row has room: those that fall are left


def test_rows_after_the_first_terminal_one_are_dropped() -> None:
    terminated = np.array([[0, 1, 1], [0, 0, 0], [0, 0, 1]], bool)
    trajectories = SyntheticTrajectories(
        np.zeros((3, 4, 1), np.float32), np.zeros((3, 3, 1), np.float32), np.zeros((3, 3), np.float32), terminated,
        np.array([3, 2, 2]), 0,
    )  # fmt: skip
    assert ends_at_termination(trajectories).lengths.tolist() == [2, 2, 2]
