"""Small data sets that the tests make themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from atradiff.data.trajectories import Trajectories
from atradiff.types import Spaces, Transitions

BOX = Spaces(3, "continuous", (-1.0, -1.0), (1.0, 1.0))
SWITCH = Spaces(3, "discrete", n_actions=4)


def make_trajectories(
    lengths: tuple[int, ...] = (5, 1, 4), *, spaces: Spaces = BOX, seed: int = 0, continuous_rows: bool = True
) -> Trajectories:
    """Random episodes; odd ones terminate. With ``continuous_rows`` each next observation is the following row's."""
    rng, n = np.random.default_rng(seed), sum(lengths)
    ends = np.cumsum(lengths)
    observations = rng.normal(size=(n, spaces.observation_size)).astype(np.float32)
    following = rng.normal(size=observations.shape).astype(np.float32)
    inside = np.setdiff1d(np.arange(n), ends - 1)
    if continuous_rows:
        following[inside] = observations[inside + 1]
    terminated = np.zeros(n, bool)
    truncated = np.zeros(n, bool)
    terminated[ends[1::2] - 1] = True
    truncated[ends[::2] - 1] = True
    actions: NDArray[Any] = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    if spaces.discrete:
        actions = rng.integers(spaces.n_actions, size=n)
    rewards = rng.normal(size=n).astype(np.float32)
    columns = Transitions(observations, actions, rewards, following, terminated, truncated)
    return Trajectories(spaces, columns, np.concatenate([[0], ends]).astype(np.int64), env_id="Somewhere-v0")


def assert_same(ours: Trajectories, theirs: Trajectories) -> None:
    for (name, mine), (_, yours) in zip(ours.columns.items(), theirs.columns.items(), strict=True):
        assert mine.dtype == yours.dtype, name
        np.testing.assert_array_equal(mine, yours, err_msg=name)
    np.testing.assert_array_equal(ours.offsets, theirs.offsets)
    np.testing.assert_array_equal(ours.tasks, theirs.tasks)
    assert ours.spaces == theirs.spaces
    assert ours.env_id == theirs.env_id


def d4rl_arrays(lengths: tuple[int, ...] = (5, 3, 4), seed: int = 0, **replaced: Any) -> dict[str, Any]:
    """Arrays by D4RL's names; ``replaced`` overrides one, None leaves it out."""
    columns = make_trajectories(lengths, seed=seed).columns
    arrays: dict[str, Any] = {
        "observations": columns.observations.copy(),
        "actions": columns.actions.copy(),
        "rewards": columns.rewards.copy(),
        "next_observations": columns.next_observations.copy(),
        "terminals": columns.terminated.copy(),
        "timeouts": columns.truncated.copy(),
    }
    arrays.update(replaced)
    return {name: column for name, column in arrays.items() if column is not None}


def write_hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(str(path), "w") as file:
        for name, column in arrays.items():
            file.create_dataset(name, data=column)
    return path
