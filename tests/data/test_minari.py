from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from atradiff.data.errors import DataError
from atradiff.data.importer import import_data
from atradiff.data.store import open_trajectories, read_episode_table, read_extras
from atradiff.environments import make_env

pytestmark = pytest.mark.filterwarnings("ignore:`eval_env` is set to None")


@pytest.fixture
def minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def stacked(rows: list[Any]) -> Any:
    if isinstance(rows[0], tuple):
        return tuple(stacked(list(column)) for column in zip(*rows, strict=True))
    if isinstance(rows[0], dict):
        return {name: stacked([row[name] for row in rows]) for name in rows[0]}
    return np.stack([np.asarray(row) for row in rows])


def play(env: gym.Env[Any, Any], seed: int, steps: int) -> EpisodeBuffer:
    observation, info = env.reset(seed=seed)
    observations, infos, rows = [observation], [info], []
    for _ in range(steps):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        rows.append((action, reward, terminated, truncated))
        observations.append(observation)
        infos.append(info)
        if terminated or truncated:
            break
    actions, rewards, terminations, truncations = (stacked(list(column)) for column in zip(*rows, strict=True))
    columns = {"actions": actions, "rewards": rewards, "terminations": terminations, "truncations": truncations}
    kept = {"success": stacked([i["success"] for i in infos])} if "success" in infos[-1] else None
    return EpisodeBuffer(seed=seed, observations=stacked(observations), infos=kept, **columns)


def record(env_id: str, dataset_id: str, steps: int, **options: Any) -> None:
    """Three episodes of random actions from seeds 0, 1, 2, written by Minari."""
    make_env(env_id).close()
    env = gym.make(env_id, **options)
    env.action_space.seed(0)
    buffers = [play(env, seed, steps) for seed in range(3)]
    facts = {"algorithm_name": "random", "author": "a", "author_email": "a", "code_permalink": "c"}
    minari.create_dataset_from_buffers(dataset_id, buffers, env=env, description="random", **facts)
    env.close()


@pytest.mark.usefixtures("minari_root")
def test_dictionaries_are_flattened_by_the_environments_rule(tmp_path: Path) -> None:
    """The same seeds and actions, played in the environment that ``make_env`` gives."""
    record("PointMaze_UMaze-v3", "maze/random-v0", 20)
    info = import_data("minari:maze/random-v0", tmp_path / "out")
    data = open_trajectories(tmp_path / "out")
    assert info.env_id == "PointMaze_UMaze-v3"
    assert data.spaces.observation_size == 8
    env = make_env("PointMaze_UMaze-v3")
    for index in range(len(data)):
        episode = data.episode(index)
        observation, _ = env.reset(seed=index)
        for step in range(len(episode)):
            np.testing.assert_array_equal(episode.observations[step], observation.astype(np.float32))
            observation, reward, *_ = env.step(episode.actions[step])
            assert episode.rewards[step] == np.float32(reward)
        np.testing.assert_array_equal(episode.next_observations[-1], observation.astype(np.float32))
    env.close()


def test_by_folder_and_by_id_is_the_same(minari_root: Path, tmp_path: Path) -> None:
    record("CartPole-v1", "pole/random-v0", 500)
    by_id = import_data("minari:pole/random-v0", tmp_path / "a")
    by_folder = import_data(str(minari_root / "pole" / "random-v0"), tmp_path / "b")
    by_data = import_data(str(minari_root / "pole" / "random-v0" / "data"), tmp_path / "c")
    assert by_id.content_hash == by_folder.content_hash == by_data.content_hash
    assert by_id.spaces.n_actions == 2
    assert by_id.n_terminated == 3
    np.testing.assert_array_equal(read_episode_table(tmp_path / "a")["seed"], [0, 1, 2])


@pytest.mark.usefixtures("minari_root")
def test_options_of_the_environment_become_part_of_the_id(tmp_path: Path) -> None:
    record("PointMaze_UMaze-v3", "maze/short-v0", 100, max_episode_steps=15, continuing_task=False)
    info = import_data("minari:maze/short-v0", tmp_path / "out")
    env = make_env(info.env_id or "")
    assert env.spec is not None
    assert env.spec.max_episode_steps == 15
    assert env.unwrapped.continuing_task is False  # type: ignore[attr-defined]


def test_any_space_is_flattened_as_gymnasium_does(minari_root: Path, tmp_path: Path) -> None:
    space = gym.spaces.Dict(
        {
            "picture": gym.spaces.Box(0, 255, (2, 3), np.uint8),
            "mode": gym.spaces.Discrete(3),
            "deep": gym.spaces.Dict({"b": gym.spaces.Box(-1, 1, (2,)), "a": gym.spaces.MultiBinary(2)}),
            "pair": gym.spaces.Tuple((gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2))),
        },
        seed=0,
    )
    rows = [space.sample() for _ in range(6)]
    n = len(rows) - 1
    buffer = EpisodeBuffer(
        observations=stacked(rows),
        actions=np.zeros((n, 1), np.float32),
        rewards=np.zeros(n),
        terminations=np.arange(n) == n - 1,
        truncations=np.zeros(n, bool),
    )
    facts = {"algorithm_name": "random", "author": "a", "author_email": "a", "code_permalink": "c", "description": "d"}
    minari.create_dataset_from_buffers(
        "odd/spaces-v0", [buffer], observation_space=space, action_space=gym.spaces.Box(-1, 1, (1,)), **facts
    )
    import_data(str(minari_root / "odd" / "spaces-v0"), tmp_path / "out")
    data = open_trajectories(tmp_path / "out")
    flat = np.stack([gym.spaces.flatten(space, row) for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(data.columns.observations, flat[:-1])
    np.testing.assert_array_equal(data.columns.next_observations, flat[1:])


def test_actions_that_no_model_takes_are_refused_in_words(minari_root: Path, tmp_path: Path) -> None:
    space = gym.spaces.Dict({"arm": gym.spaces.Box(-1, 1, (2,)), "hand": gym.spaces.Discrete(2)}, seed=0)
    buffer = EpisodeBuffer(
        observations=np.zeros((4, 2), np.float32),
        actions=stacked([space.sample() for _ in range(3)]),
        rewards=np.zeros(3),
        terminations=np.arange(3) == 2,
        truncations=np.zeros(3, bool),
    )
    facts = {"algorithm_name": "random", "author": "a", "author_email": "a", "code_permalink": "c", "description": "d"}
    minari.create_dataset_from_buffers(
        "odd/actions-v0", [buffer], observation_space=gym.spaces.Box(-1, 1, (2,)), action_space=space, **facts
    )
    with pytest.raises(ValueError, match=r"action space Dict\(.* is not supported: use a one-dimensional Box"):
        import_data(str(minari_root / "odd" / "actions-v0"), tmp_path / "out")


def test_an_end_inside_a_recorded_episode_cuts_it(minari_root: Path, tmp_path: Path) -> None:
    record("Pendulum-v1", "swing/random-v0", 30)

    def end_early(episode: Any) -> None:
        episode["terminations"][9] = True

    info = import_data(str(damage(minari_root, "swing/random-v0", end_early)), tmp_path / "out")
    np.testing.assert_array_equal(open_trajectories(tmp_path / "out").lengths, [30, 10, 20, 30])
    assert (info.n_terminated, info.n_truncated) == (1, 3)
    assert any("3 recorded episodes have no end marked" in note for note in info.notes)


@pytest.mark.usefixtures("minari_root")
def test_infos_stay_with_their_steps(tmp_path: Path) -> None:
    record("PointMaze_UMaze-v3", "maze/random-v0", 20)
    import_data("minari:maze/random-v0", tmp_path / "out")
    success = read_extras(tmp_path / "out")["infos/success"]
    source = np.concatenate([e.infos["success"][1:] for e in minari.load_dataset("maze/random-v0").iterate_episodes()])
    np.testing.assert_array_equal(success, source)


def damage(root: Path, dataset: str, change: Any) -> Path:
    folder = root / dataset
    with h5py.File(str(folder / "data" / "main_data.hdf5"), "a") as file:
        change(file["episode_1"])
    return folder


def test_nan_names_the_episode_and_step(minari_root: Path, tmp_path: Path) -> None:
    record("Pendulum-v1", "swing/random-v0", 30)

    def poison(episode: Any) -> None:
        episode["rewards"][4] = np.nan

    with pytest.raises(DataError, match=r"field 'rewards', row 34 \(episode 1, step 4\)"):
        import_data(str(damage(minari_root, "swing/random-v0", poison)), tmp_path / "out")


def test_unequal_lengths_name_the_episode(minari_root: Path, tmp_path: Path) -> None:
    record("Pendulum-v1", "swing/random-v0", 30)

    def shorten(episode: Any) -> None:
        rewards = episode["actions"][:-3]
        del episode["actions"]
        episode["actions"] = rewards

    with pytest.raises(DataError, match="has 27 steps in episode 1, rewards have 30") as caught:
        import_data(str(damage(minari_root, "swing/random-v0", shorten)), tmp_path / "out")
    assert caught.value.field == "actions"


def test_a_truncated_file_is_refused(minari_root: Path, tmp_path: Path) -> None:
    record("Pendulum-v1", "swing/random-v0", 30)
    file = minari_root / "swing" / "random-v0" / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match="truncated or damaged"):
        import_data("minari:swing/random-v0", tmp_path / "out")


def test_an_unknown_id_says_where_to_put_it(minari_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("minari.storage.hosting.download_dataset", offline)
    with pytest.raises(DataError, match="no network") as caught:
        import_data("minari:D4RL/hopper/medium-v0", tmp_path / "out")
    assert str(minari_root / "D4RL" / "hopper" / "medium-v0") in caught.value.remedy


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text("{}")
    with pytest.raises(DataError, match="no Minari data set"):
        import_data(str(tmp_path), tmp_path / "out")


def test_the_real_door_demonstrations(tmp_path: Path, shared_data: Path) -> None:
    """Against the data set's own records: totals in metadata.json, each episode's reward sum in its attributes."""
    folder = shared_data / "minari" / "D4RL" / "door" / "human-v2"
    info = import_data(str(folder), tmp_path / "out")
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    assert (info.n_episodes, info.n_transitions) == (metadata["total_episodes"], metadata["total_steps"]) == (25, 6729)
    assert (info.spaces.observation_size, info.spaces.action_size) == (39, 28)
    assert info.env_id == "AdroitHandDoor-v1"
    assert info.source_dtypes["observations"] == "float64"
    data = open_trajectories(tmp_path / "out")
    with h5py.File(str(folder / "data" / "main_data.hdf5")) as file:
        sums = [file[f"episode_{i}"].attrs["rewards_sum"] for i in range(25)]
    np.testing.assert_allclose(data.returns, sums, rtol=1e-5)
