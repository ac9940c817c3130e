"""Task vectors: stored with their episodes, kept through selections, told to the windows of these alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atradiff.data.errors import DataError
from atradiff.data.store import open_trajectories, read_episode_table, write_trajectories
from atradiff.data.tasks import TaskRows, join_tasks
from atradiff.data.windows import WindowSampler
from atradiff.types import Spaces
from tests.toys import random_data

LENGTHS = [4, 7, 5, 6]
TASKS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def told():
    return replace(random_data(LENGTHS, [True, False, True, False]), tasks=TASKS)


def test_a_store_gives_back_the_vectors_and_its_hash_knows_them(tmp_path):
    written = write_trajectories(tmp_path / "a", told(), source="test", licence="none")
    again = open_trajectories(tmp_path / "a", verify=True)
    np.testing.assert_array_equal(again.tasks, TASKS)
    assert again.tasks.dtype == np.float32
    assert again.task_size == 3
    np.testing.assert_allclose(read_episode_table(tmp_path / "a")["task_vector"], TASKS)
    plain = write_trajectories(tmp_path / "b", replace(told(), tasks=None), source="test", licence="none")
    assert open_trajectories(tmp_path / "b", verify=True).tasks is None
    assert plain.content_hash != written.content_hash
    other = replace(told(), tasks=TASKS + 1)
    assert write_trajectories(tmp_path / "c", other, source="t", licence="none").content_hash != written.content_hash
    (tmp_path / "a/meta/episodes.parquet").write_bytes((tmp_path / "c/meta/episodes.parquet").read_bytes())
    with pytest.raises(DataError, match="content hash"):
        open_trajectories(tmp_path / "a", verify=True)


def test_selections_and_splits_keep_each_episodes_vector():
    data = told()
    np.testing.assert_array_equal(data.select(np.array([2, 0])).tasks, TASKS[[2, 0]])
    for part in data.split(0.5, seed=3):
        for i in range(len(part)):
            (source,) = [j for j in range(4) if np.array_equal(part.episode(i).rewards, data.episode(j).rewards)]
            np.testing.assert_array_equal(part.tasks[i], TASKS[source])


def test_windows_carry_the_vector_of_their_episode():
    data = told()
    episode = np.repeat(np.arange(4), LENGTHS)
    starts = WindowSampler(data, (3,)).starts(3)
    np.testing.assert_array_equal(WindowSampler(data, (3,)).at(starts, 3).tasks, TASKS[episode[starts]])
    np.testing.assert_array_equal(TaskRows.of(data)[np.array([[0, 21], [4, 3]])], TASKS[[[0, 3], [1, 0]]])
    assert WindowSampler(replace(data, tasks=None), (3,)).at(starts, 3).tasks is None


@pytest.mark.parametrize("tasks", [TASKS[:3], TASKS[0], TASKS[:, :0], np.full((4, 2), np.nan, np.float32)])
def test_vectors_that_do_not_fit_are_refused(tasks):
    with pytest.raises(ValueError, match="one vector of finite numbers for each of the 4 episodes"):
        replace(told(), tasks=tasks)


def test_joining_lays_data_sets_end_to_end_with_their_tasks():
    parts = [random_data([3, 4], [True, False], seed=1), random_data([5], [True], seed=2)]
    joined = join_tasks(parts, "one_hot")
    np.testing.assert_array_equal(joined.tasks, [[1, 0], [1, 0], [0, 1]])
    assert joined.lengths.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(joined.episode(2).observations, parts[1].episode(0).observations)
    assert join_tasks(parts, "none").tasks is None
    np.testing.assert_array_equal(join_tasks(parts, [[0.5], [2]]).tasks, [[0.5], [0.5], [2]])


def test_what_cannot_be_joined_is_said():
    data = random_data([3], [True])
    with pytest.raises(ValueError, match="2 data sets need 2 task vectors of one length, got 2 of lengths"):
        join_tasks([data, data], [[1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="must be none, one_hot or a vector"):
        join_tasks([data], "words")
    with pytest.raises(ValueError, match="nothing to join"):
        join_tasks([], "none")
    other = random_data([3], [True], spaces=Spaces(3, "continuous", (-1.0,), (1.0,)))
    with pytest.raises(ValueError, match="observation_size"):
        join_tasks([data, other], "none")
