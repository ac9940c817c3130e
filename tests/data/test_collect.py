from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from atradiff.data.collect import collect
from atradiff.data.errors import DataError
from atradiff.data.policies import find_policy
from atradiff.data.store import open_trajectories, read_episode_table, read_info
from atradiff.environments import make_env


def run(path: Path, env: str, policy: Any = "scripted", episodes: int = 5, **options: Any):
    info = collect(env, policy, episodes, path, progress=False, **options)
    return open_trajectories(path), info


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_mountain_car_reaches_the_top(tmp_path: Path, noise: float) -> None:
    """A return above 90 is what Gymnasium calls solved; bang-bang pushing costs a little more than that."""
    data, info = run(tmp_path / "car", "MountainCarContinuous-v0", episodes=20, noise=noise)
    assert info.n_terminated == 20
    assert data.returns.min() > 87
    assert 80 < data.lengths.mean() < 130
    assert read_episode_table(tmp_path / "car")["success"].all()
    assert "20 of 20 episodes succeeded" in info.notes[0]


def test_the_pendulum_is_swung_up_and_kept_there(tmp_path: Path) -> None:
    """Random actions end far from upright; the controller's episodes end on top and at rest."""
    data, _ = run(tmp_path / "scripted", "Pendulum-v1", episodes=10)
    idle, _ = run(tmp_path / "random", "Pendulum-v1", "random", episodes=10)
    last = data.columns.next_observations[data.offsets[1:] - 1]
    assert (last[:, 0] > 0.99).all()
    assert (np.abs(last[:, 2]) < 0.1).all()
    assert data.returns.mean() > idle.returns.mean() / 3


@pytest.mark.parametrize("maze", ["UMaze", "Medium", "Large", "Medium_Diverse_GR"])
def test_the_ball_finds_the_goal_in_any_maze(tmp_path: Path, maze: str) -> None:
    data, info = run(tmp_path / "maze", f"PointMaze_{maze}-v3?continuing_task=false", episodes=6)
    assert info.n_terminated == 6
    np.testing.assert_array_equal(data.returns, np.ones(6))
    goals = np.unique(data.columns.observations[data.offsets[:-1], 2:4], axis=0)
    assert len(goals) == 6
    assert info.env_id == f"PointMaze_{maze}-v3?continuing_task=false"


def test_a_continuing_maze_goes_on_to_its_horizon(tmp_path: Path) -> None:
    data, info = run(tmp_path / "maze", "PointMaze_UMaze-v3", episodes=2)
    assert (info.n_terminated, info.n_truncated) == (0, 2)
    assert list(data.lengths) == [300, 300]
    assert read_episode_table(tmp_path / "maze")["success"].all()


def test_meta_worlds_expert_succeeds(tmp_path: Path) -> None:
    data, info = run(tmp_path / "reach", "metaworld:reach-v3?max_episode_steps=120", episodes=2)
    assert (data.spaces.observation_size, data.spaces.action_size) == (39, 4)
    assert read_episode_table(tmp_path / "reach")["success"].all()
    assert (info.n_terminated, info.n_truncated) == (0, 2)
    goals = data.columns.observations[data.offsets[:-1], -3:]
    assert not np.array_equal(goals[0], goals[1])


def test_discrete_actions(tmp_path: Path) -> None:
    data, info = run(tmp_path / "pole", "CartPole-v1", "random")
    assert data.columns.actions.dtype == np.int64
    assert set(np.unique(data.columns.actions)) == {0, 1}
    assert info.spaces.n_actions == 2


@pytest.mark.parametrize("env", ["MountainCarContinuous-v0", "PointMaze_UMaze-v3?max_episode_steps=40"])
def test_the_same_seed_collects_the_same_data(tmp_path: Path, env: str) -> None:
    hashes = [
        run(tmp_path / str(i), env, episodes=3, seed=seed, noise=0.3)[1].content_hash
        for i, seed in enumerate((1, 1, 2))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_more_episodes_begin_with_the_same_ones(tmp_path: Path) -> None:
    few, _ = run(tmp_path / "few", "MountainCarContinuous-v0", episodes=2, noise=0.3)
    many, _ = run(tmp_path / "many", "MountainCarContinuous-v0", episodes=4, noise=0.3)
    n = few.n_transitions
    np.testing.assert_array_equal(few.columns.actions, many.columns.actions[:n])
    np.testing.assert_array_equal(few.columns.observations, many.columns.observations[:n])


def test_meta_world_goals_follow_the_seed(tmp_path: Path) -> None:
    env = "metaworld:reach-v3?max_episode_steps=3"
    hashes = [run(tmp_path / str(i), env, episodes=2, seed=s)[1].content_hash for i, s in enumerate((1, 1, 2))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_rows_are_what_the_environment_did(tmp_path: Path) -> None:
    """Played again from the same seeds, the stored actions give the stored rows."""
    data, _ = run(tmp_path / "hopper", "Hopper-v5", "random", episodes=3, seed=4)
    env = make_env("Hopper-v5")
    seeds = np.random.SeedSequence(4).generate_state(3)
    for index in range(3):
        episode = data.episode(index)
        observation, _ = env.reset(seed=int(seeds[index]))
        for row in range(len(episode)):
            np.testing.assert_array_equal(episode.observations[row], observation.astype(np.float32))
            observation, reward, terminated, truncated, _ = env.step(episode.actions[row])
            np.testing.assert_array_equal(episode.next_observations[row], observation.astype(np.float32))
            assert episode.rewards[row] == np.float32(reward)
            assert (episode.terminated[row], episode.truncated[row]) == (terminated, truncated)
    env.close()


class Constant:
    """A policy of the user's own; too strong a push is clipped to what the environment takes."""

    def act(self, observation: np.ndarray, env: gym.Env) -> Any:  # noqa: ARG002
        return np.array([5.0])


def test_a_policy_object(tmp_path: Path) -> None:
    data, info = run(tmp_path / "own", "MountainCarContinuous-v0", Constant(), episodes=2, max_steps=10)
    np.testing.assert_array_equal(data.columns.actions, np.ones((20, 1), np.float32))
    assert (info.n_terminated, info.n_truncated) == (0, 2)
    assert "Constant policy" in info.source


def test_a_checkpoint_goes_to_the_loader(tmp_path: Path) -> None:
    asked: list[str] = []

    def load(path: str, env: gym.Env) -> Constant:
        asked.append(path)
        assert env.spec is not None
        return Constant()

    run(tmp_path / "own", "MountainCarContinuous-v0", "runs/7/checkpoint", episodes=1, max_steps=3, load_policy=load)
    assert asked == ["runs/7/checkpoint"]


def test_noise_differs_between_episodes(tmp_path: Path) -> None:
    data, _ = run(tmp_path / "car", "MountainCarContinuous-v0", Constant(), episodes=30, noise=0.5, max_steps=60)
    spread = np.array([data.episode(i).actions.std() for i in range(30)])
    assert spread.min() < 0.1
    assert spread.max() > 0.25
    assert np.abs(data.columns.actions).max() <= 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "at least 1, got 0"),
        ({"noise": 1.5}, r"noise must lie in \[0, 1\].*got 1.5"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"env": "Hopper-v5"}, "no scripted policy for 'Hopper-v5'"),
        ({"policy": "checkpoint_7"}, "nothing was given that could load it"),
        ({"env": "PointMaze_Umaze-v3"}, "Did you mean PointMaze_UMaze-v3"),
    ],
)
def test_settings_are_refused_before_anything_runs(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    arguments = {"env": "MountainCarContinuous-v0", "policy": "scripted", "episodes": 1} | options
    with pytest.raises(ValueError, match=message):
        collect(out=tmp_path / "out", progress=False, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_refused_before_anything_runs(tmp_path: Path) -> None:
    run(tmp_path / "out", "Pendulum-v1", "random", episodes=1)
    before = read_info(tmp_path / "out")
    with pytest.raises(DataError, match="already exists"):
        run(tmp_path / "out", "Pendulum-v1", "random", episodes=100_000_000)
    run(tmp_path / "out", "Pendulum-v1", "random", episodes=2, overwrite=True)
    assert read_info(tmp_path / "out").n_episodes == 2 != before.n_episodes


@pytest.mark.filterwarnings("ignore:.*NaN value")
def test_a_simulation_that_blows_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = gym.envs.classic_control.PendulumEnv.step  # type: ignore[attr-defined]

    def explode(self: Any, action: Any) -> Any:
        observation, _, terminated, truncated, info = step(self, action)
        return observation, float("nan"), terminated, truncated, info

    monkeypatch.setattr("gymnasium.envs.classic_control.PendulumEnv.step", explode)
    with pytest.raises(DataError, match="not finite"):
        run(tmp_path / "out", "Pendulum-v1", "random", episodes=1)


def test_meta_world_actions_stay_inside_the_space() -> None:
    env = make_env("metaworld:door-open-v3")
    policy = find_policy("scripted", "metaworld:door-open-v3", env, 0, None)
    observation, _ = env.reset(seed=0)
    for _ in range(30):
        action = policy.act(observation, env)
        assert env.action_space.contains(np.asarray(action, np.float32))
        observation, *_ = env.step(action)
    env.close()
