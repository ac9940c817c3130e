"""The simulator against the environment's own rollouts: same observation and action, same answer."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from atradiff.environments import split_env_id
from atradiff.report.simulator import UnsettableEnvironment, simulator_for
from atradiff.types import Transitions

SETTABLE = [
    "Hopper-v5",
    "Walker2d-v5",
    "HalfCheetah-v5",
    "Swimmer-v5",
    "InvertedPendulum-v5",
    "Ant-v5",
    "Hopper-v4",
    "Walker2d-v4",
    "HalfCheetah-v4",
    "Swimmer-v4",
    "InvertedPendulum-v4",
    "Ant-v4",
    "Swimmer-v4?exclude_current_positions_from_observation=false",
    "Pendulum-v1",
    "MountainCarContinuous-v0",
    "MountainCar-v0",
    "CartPole-v1",
    "PointMaze_UMaze-v3",
]


def rollout(env: gym.Env, steps: int) -> Transitions:
    """Random steps of the untouched environment, stored as float32 like every data set."""

    def flat(value: object) -> np.ndarray:
        return gym.spaces.flatten(env.observation_space, value).astype(np.float32)

    env.action_space.seed(1)
    observation, _ = env.reset(seed=1)
    rows = []
    for _ in range(steps):
        action = env.action_space.sample()
        answer, reward, terminated, truncated, _ = env.step(action)
        rows.append((flat(observation), action, reward, flat(answer), terminated, truncated))
        observation = env.reset()[0] if terminated or truncated else answer
    return Transitions(*[np.array(column) for column in zip(*rows, strict=True)])


def made(env_id: str, **settings: object) -> gym.Env:
    if env_id.startswith("PointMaze"):
        import gymnasium_robotics

        gym.register_envs(gymnasium_robotics)
    return gym.make(env_id, **settings)


@pytest.mark.parametrize("env_id", SETTABLE)
def test_a_step_from_the_observation_is_the_environments_own_step(env_id: str) -> None:
    name, settings = split_env_id(env_id)
    real = rollout(made(name, **settings), 400)
    simulator = simulator_for(env_id)
    steps = simulator.step(real.observations, real.actions)

    assert steps.valid.sum() >= 40
    seen = steps.valid
    np.testing.assert_allclose(steps.next_observations[seen], real.next_observations[seen], atol=1e-4)
    np.testing.assert_array_equal(steps.terminated[seen], real.terminated[seen])
    if not simulator.hidden_reward:
        np.testing.assert_allclose(steps.rewards[seen], real.rewards[seen], atol=1e-4)


def test_rows_at_the_observations_velocity_limit_are_left_out() -> None:
    real = rollout(made("Walker2d-v5"), 200)
    steps = simulator_for("Walker2d-v5").step(real.observations, real.actions)

    clipped = (np.abs(real.observations[:, 8:]) >= 10).any(axis=1)
    assert 0 < clipped.sum() < len(real)
    np.testing.assert_array_equal(steps.valid, ~clipped)
    assert np.isnan(steps.next_observations[clipped]).all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    real = rollout(made("Hopper-v5"), 60)
    simulator = simulator_for("Hopper-v5")
    forward = simulator.step(real.observations, real.actions)
    backward = simulator.step(real.observations[::-1], real.actions[::-1])
    np.testing.assert_array_equal(forward.next_observations, backward.next_observations[::-1])


def test_settings_reach_the_environment() -> None:
    real = rollout(made("PointMaze_UMaze-v3", continuing_task=False), 300)
    real.observations[:, 2:4] = real.observations[:, :2]  # a goal underfoot
    steps = simulator_for("PointMaze_UMaze-v3?continuing_task=false").step(real.observations, real.actions)
    assert steps.terminated.all()
    assert (steps.rewards == 1).all()


def test_diverging_physics_is_reported_and_not_printed(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo would leave its log
    observations = np.zeros((2, 17), np.float32)
    observations[1, 8:] = 1e9
    steps = simulator_for("HalfCheetah-v5").step(observations, np.zeros((2, 6), np.float32))
    assert steps.valid.tolist() == [True, False]
    assert "unstable" not in "".join(capfd.readouterr())
    assert not list(tmp_path.iterdir())


def test_environments_that_hide_their_state_are_named() -> None:
    with pytest.raises(UnsettableEnvironment, match=r"Acrobot-v1 \(AcrobotEnv\)"):
        simulator_for("Acrobot-v1")
    with pytest.raises(UnsettableEnvironment, match="reset_target"):
        simulator_for("PointMaze_UMaze-v3", reset_target=True)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        simulator_for("Pendulum-v1").step(np.full((1, 3), np.nan, np.float32), np.zeros((1, 1), np.float32))
