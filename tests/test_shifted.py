"""Tasks that can be moved away: what moves, what stays, and that data can be collected where the run is not."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from atradiff.data.store import open_trajectories
from atradiff.environments import horizon_of, make_env
from cluster.config import CollectConfig, DataConfig, load_run_config
from cluster.prepare import prepare_data

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(("goals", "side"), [("left", -1), ("right", 1)])
def test_goals_lie_on_their_side_and_the_ball_sees_them(goals: str, side: int) -> None:
    env = make_env(f"PointMazeShift-v0?goals={goals}")
    assert horizon_of(env) == 100
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert side * observation[2] > 0.2
        assert side * observation[4] < 1
        following, reward, terminated, _, _ = env.step(np.zeros(2, np.float32))
        np.testing.assert_array_equal(following[2:4], observation[2:4])
        assert reward == pytest.approx(np.exp(-np.linalg.norm(following[:2] - following[2:4])), rel=1e-5)
        assert not terminated


def test_a_cheetah_is_paid_for_its_distance_from_the_speed_asked_for() -> None:
    env = make_env("HalfCheetahShift-v0?target_velocity=1.5")
    env.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 6)):
        _, reward, _, _, info = env.step(action)
        assert reward == pytest.approx(-abs(info["x_velocity"] - 1.5) - 0.1 * np.square(action).sum())


def test_a_weak_leg_moves_otherwise_and_a_sound_one_as_gymnasiums() -> None:
    plain, sound, weak = (
        gym.make("HalfCheetah-v5"),
        *map(make_env, ("HalfCheetahShift-v0", "HalfCheetahShift-v0?front_leg=0.2")),
    )
    for env in (plain, sound, weak):
        env.reset(seed=1)
    action = np.full(6, 0.5, np.float32)
    (ours, reward, *_), (theirs, same, *_), (limping, *_) = (env.step(action) for env in (sound, plain, weak))
    np.testing.assert_array_equal(ours, theirs)
    assert reward == same
    assert not np.allclose(limping, theirs)
    gears = weak.unwrapped.model.actuator_gear[:, 0] / plain.unwrapped.model.actuator_gear[:, 0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(gears, [1, 1, 1, 0.2, 0.2, 0.2])
    again = pickle.loads(pickle.dumps(weak.unwrapped))
    np.testing.assert_array_equal(again.model.actuator_gear, weak.unwrapped.model.actuator_gear)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("PointMazeShift-v0?goals=up", "goals must be left or right"),
        ("HalfCheetahShift-v0?front_leg=2", "front_leg must lie"),
    ],
)
def test_options_that_cannot_be_are_refused(env: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env(env)


def test_data_are_collected_where_they_were_asked_for(tmp_path: Path) -> None:
    run = load_run_config(CONFIGS / "tiny/adaptation/pointmaze.yaml")
    run = replace(run, data=replace(run.data, cache=str(tmp_path)))
    data = open_trajectories(prepare_data(run))
    assert data.env_id == "PointMazeShift-v0?goals=left"
    assert (data.columns.observations[:, 2] < 0).all()
    here = replace(run, data=DataConfig(collect=CollectConfig(episodes=1), cache=str(tmp_path)))
    assert (open_trajectories(prepare_data(here)).columns.observations[:, 2] > 0).all()


@pytest.mark.parametrize("task", ["pointmaze", "halfcheetah"])
def test_every_adaptation_config_has_a_tiny_twin_of_the_same_task(task: str) -> None:
    original, twin = (load_run_config(CONFIGS / part / f"{task}.yaml") for part in ("adaptation", "tiny/adaptation"))
    assert twin.env == original.env
    assert twin.env_steps < original.env_steps / 10
    assert None not in (twin.adapting, original.adapting)
