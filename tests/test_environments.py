from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from atradiff.environments import horizon_of, make_env, meta_world_task, split_env_id


def test_dictionaries_are_flattened_by_gymnasiums_rule() -> None:
    flat = make_env("PointMaze_UMaze-v3")
    plain = gym.make("PointMaze_UMaze-v3")
    ours, _ = flat.reset(seed=3)
    theirs, _ = plain.reset(seed=3)
    np.testing.assert_array_equal(ours, gym.spaces.flatten(plain.observation_space, theirs))
    assert flat.observation_space.shape == (8,)


def test_options_in_the_id() -> None:
    env = make_env("PointMaze_UMaze-v3?continuing_task=false&max_episode_steps=150")
    assert env.unwrapped.continuing_task is False  # type: ignore[attr-defined]
    assert horizon_of(env) == 150
    assert horizon_of(make_env("Pendulum-v1?max_episode_steps=9", max_episode_steps=7)) == 7


def test_splitting_an_id() -> None:
    assert split_env_id("A-v1") == ("A-v1", {})
    assert split_env_id("A-v1?a=1&b=true&c=text&d=[1,2]") == ("A-v1", {"a": 1, "b": True, "c": "text", "d": [1, 2]})
    with pytest.raises(ValueError, match="key=value"):
        split_env_id("A-v1?a")


@pytest.mark.parametrize("env_id", ["metaworld:reach-v3", "Meta-World/reach-v3"])
def test_meta_world(env_id: str) -> None:
    env = make_env(env_id)
    assert meta_world_task(env_id) == "reach-v3"
    assert env.observation_space.shape == (39,)
    assert horizon_of(env) == 500
    first, _ = env.reset(seed=5)
    second, _ = env.reset()
    again, _ = env.reset(seed=5)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[-3:], second[-3:])


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("Hoper-v5", r"no environment 'Hoper-v5'.*Hopper-v5"),
        ("metaworld:reech-v3", r"no task 'reech-v3'.*reach-v3"),
        ("Pendulum-v1?colour=red", r"cannot be made with the options \{'colour': 'red'\}"),
        ("gymnasium:Foo-v0", r"'gymnasium:Foo-v0' cannot be made: Environment `Foo` doesn't exist"),
        ("nowhere:Foo-v0", r"'nowhere:Foo-v0' cannot be made: No module named 'nowhere'"),
        ("metaworld:reach-v3?foo=1", r"'metaworld:reach-v3' cannot be made with the options \{'foo': 1\}"),
    ],
)
def test_unknown_ids_and_options(env_id: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_env(env_id)


def test_what_an_environment_needs_and_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(_: str) -> gym.Env:
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gym, "make", make)
    with pytest.raises(ValueError, match="'LunarLander-v3' cannot be made: Box2D is not installed"):
        make_env("LunarLander-v3")


def test_the_shorter_of_two_limits_is_the_horizon() -> None:
    env = make_env("metaworld:reach-v3?max_episode_steps=20")
    assert horizon_of(env) == 20
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(20)]
    assert ends == [False] * 19 + [True]
    for steps in (0, 501):
        with pytest.raises(ValueError, match=rf"max_episode_steps of reach-v3 must lie in 1\.\.500.*got {steps}"):
            make_env(f"metaworld:reach-v3?max_episode_steps={steps}")
