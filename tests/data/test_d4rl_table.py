"""The table against names, addresses and returns copied from the published package (d4rl 1.1)."""

from __future__ import annotations

import gymnasium as gym
import pytest

from atradiff.data.d4rl_table import DATASETS, dataset_of_file, find_dataset
from atradiff.data.d4rl_tasks import TASKS
from atradiff.data.errors import DataError
from atradiff.environments import is_registered


def test_all_published_names_are_there() -> None:
    assert len(DATASETS) == 155
    assert all(name == dataset.name for name, dataset in DATASETS.items())
    assert len({d.path for d in DATASETS.values()}) == 155


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("hopper-medium-v2", "gym_mujoco_v2/hopper_medium-v2.hdf5"),
        ("walker2d-full-replay-v1", "gym_mujoco_v1/walker2d_full_replay-v1.hdf5"),
        ("walker2d-medium-replay-v0", "gym_mujoco/walker_mixed.hdf5"),
        ("ant-random-expert-v0", "gym_mujoco/ant_random_expert.hdf5"),
        ("maze2d-eval-large-dense-v1", "maze2d/maze2d-eval-large-dense-v1.hdf5"),
        (
            "antmaze-large-diverse-v2",
            "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5",
        ),
        ("door-human-v1", "hand_dapg_v1/door-human-v1.hdf5"),
        ("pen-cloned-v0", "hand_dapg/pen-demos-v0-bc-combined.hdf5"),
        ("kitchen-mixed-v0", "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5"),
        ("bullet-maze2d-umaze-v0", "bullet/bullet-maze2d-umaze-sparse.hdf5"),
        ("carla-town-v0", "carla/carla_town_subsamp_flat-v0.hdf5"),
    ],
)
def test_addresses(name: str, url: str) -> None:
    assert DATASETS[name].url == f"http://rail.eecs.berkeley.edu/datasets/offline_rl/{url}"


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("hopper-medium-v2", -20.272305, 3234.3),
        ("halfcheetah-expert-v0", -280.178953, 12135.0),
        ("ant-full-replay-v2", -325.6, 3879.7),
        ("maze2d-large-v1", 6.7, 273.99),
        ("maze2d-umaze-dense-v1", 68.537689, 193.66285642381482),
        ("antmaze-umaze-diverse-v2", 0.0, 1.0),
        ("hammer-cloned-v1", -274.856578, 12794.134825156867),
        ("kitchen-complete-v0", 0.0, 4.0),
        ("flow-merge-random-v0", 118.67993, 330.03179),
        ("carla-lane-v0", -0.8503839912088142, 1023.5784385429523),
        ("bullet-walker2d-medium-v0", 16.523877, 1623.6476303317536),
        ("maze2d-eval-umaze-v1", None, None),
    ],
)
def test_reference_returns(name: str, lowest: float | None, highest: float | None) -> None:
    task = DATASETS[name].task
    assert (task.random_return, task.expert_return) == (lowest, highest)


def test_every_counterpart_exists_with_the_horizon_of_the_task() -> None:
    for task in TASKS.values():
        assert task.differs
        if task.environment is not None:
            assert is_registered(task.environment), task.name
    for name in ("hopper", "maze2d-umaze", "maze2d-large-dense", "antmaze-medium", "door", "kitchen"):
        environment = TASKS[name].environment
        assert environment is not None
        assert gym.spec(environment).max_episode_steps == TASKS[name].horizon


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(DataError, match="hopper-medium-v2"):
        find_dataset("hoper-medium-v2")


def test_a_file_is_known_by_its_name() -> None:
    found = dataset_of_file("walker_mixed")
    assert found is not None
    assert found.name == "walker2d-medium-replay-v0"
    assert dataset_of_file("something") is None
