"""Give a store to other tools: D4RL's HDF5 layout and Minari. Importing the result gives the same store again."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from atradiff.data import origin
from atradiff.data.minari import NEXT_OBSERVATIONS, PLAIN_COLUMNS
from atradiff.data.schema import StoreInfo
from atradiff.data.store import EPISODE_COLUMNS, open_trajectories, read_episode_table, read_extras, read_info
from atradiff.data.trajectories import Trajectories
from atradiff.environments import is_registered, make_env, split_env_id
from atradiff.staging import refuse_existing, staged_file, staged_folder
from atradiff.types import Spaces

_D4RL_NAMES = {"terminated": "terminals", "truncated": "timeouts"}


def export_d4rl_hdf5(path: str | Path, out: str | Path) -> Path:
    """Write the store ``path`` as one HDF5 file in D4RL's layout (float32 columns, bool flags), as CORL and d3rlpy
    read it. Extras keep their names; what the layout has no place for goes into an attribute.

    Raises :class:`DataError` when ``out`` exists.
    """
    import h5py

    target = Path(out)
    refuse_existing(target, overwrite=False, ours="")
    data, info = open_trajectories(path), read_info(path)
    with staged_file(target) as stage, h5py.File(str(stage), "w") as file:
        for name, column in data.columns.items():
            file.create_dataset(_D4RL_NAMES.get(name, name), data=column)
        for name, column in read_extras(path).items():
            file.create_dataset(name, data=column)
        for name, column in _episode_columns(path).items():
            file.create_dataset(f"{origin.EPISODES}/{name}", data=column)
        file.attrs[origin.KEY] = origin.origin_json(info)
    return target


def export_minari(path: str | Path, out: str | Path) -> Path:
    """Write the store ``path`` as a Minari data set; returns its folder.

    ``out`` is a folder, or ``minari:ID`` for a place in Minari's own folder (``MINARI_DATASETS_PATH``). Raises
    :class:`DataError` when it exists, ``ValueError`` for an id Minari does not allow.
    """
    from minari.storage.datasets_root_dir import get_dataset_path

    text = str(out)
    by_id = text.startswith("minari:")
    target = get_dataset_path(text.removeprefix("minari:")) if by_id else Path(out)
    dataset_id = text.removeprefix("minari:") if by_id else _dataset_id(target.name)
    refuse_existing(target, overwrite=False, ours="")
    with staged_folder(target) as stage:
        with _minari_root(stage / "root"):
            _create(dataset_id, path)
        shutil.move(stage / "root" / dataset_id / "data", stage / "data")
        shutil.rmtree(stage / "root")
    return target


def _create(dataset_id: str, path: str | Path) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    data, info, table = open_trajectories(path), read_info(path), _episode_columns(path)
    buffers = [EpisodeBuffer(**fields) for fields in _episodes(data, read_extras(path), table)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Minari asks for an evaluation environment and for a spec
        dataset = minari.create_dataset_from_buffers(dataset_id, buffers, **_facts(data, info))
    dataset.storage.update_metadata({origin.KEY: origin.origin_json(info)})
    rows = ({f"{origin.EPISODES}/{k}": column[i] for k, column in table.items()} for i in range(len(data)))
    dataset.storage.update_episode_metadata(rows)


def _facts(data: Trajectories, info: StoreInfo) -> dict[str, Any]:
    """What Minari's metadata say of a data set."""
    return {
        "env": _env_spec(info.env_id),
        "observation_space": gym.spaces.Box(-np.inf, np.inf, (data.spaces.observation_size,), np.float32),
        "action_space": _action_space(data.spaces),
        "description": f"{info.source}; licence: {info.licence}",
        "author": "unknown",
        "author_email": "unknown",
        "algorithm_name": "unknown",
        "code_permalink": "unknown",
    }


def _env_spec(env_id: str | None) -> EnvSpec | None:
    """Lets ``recover_environment`` make the environment, flattened as here; None where Gymnasium cannot by itself."""
    if env_id is None or not is_registered(split_env_id(env_id)[0]):
        return None
    env = make_env(env_id)
    env.close()
    return env.spec


def _episode_columns(path: str | Path) -> dict[str, NDArray[Any]]:
    """The episode table without what every data set has."""
    return {name: column for name, column in read_episode_table(path).items() if name not in EPISODE_COLUMNS}


def _episodes(
    data: Trajectories, extras: dict[str, NDArray[Any]], table: dict[str, NDArray[Any]]
) -> Iterator[dict[str, Any]]:
    """Keyword arguments of Minari's ``EpisodeBuffer`` for each episode: one observation and info more than actions."""
    of_their_own = _next_observations_differ(data)
    for index in range(len(data)):
        rows = slice(data.offsets[index], data.offsets[index + 1])
        columns = data.columns[rows]
        infos = {name: _with_reset(column[rows], name, table, index) for name, column in extras.items()}
        observations = np.concatenate([columns.observations, columns.next_observations[-1:]])
        if of_their_own:
            following = np.concatenate([columns.observations[:1], columns.next_observations])
            infos[f"infos/{NEXT_OBSERVATIONS}"] = following
        seed = table.get("seed")
        yield {
            "seed": None if seed is None else int(seed[index]),
            "observations": observations,
            "actions": columns.actions,
            "rewards": columns.rewards,
            "terminations": columns.terminated,
            "truncations": columns.truncated,
            "infos": _nested(infos),
        }


def _next_observations_differ(data: Trajectories) -> bool:
    """Whether some row's next observation is not the following row's observation, which is all that Minari keeps."""
    inside = np.setdiff1d(np.arange(data.n_transitions), data.offsets[1:] - 1)
    columns = data.columns
    return not np.array_equal(columns.next_observations[inside], columns.observations[inside + 1])


def _with_reset(rows: NDArray[Any], name: str, table: dict[str, NDArray[Any]], index: int) -> NDArray[Any]:
    """Put the reset's info, which Minari holds and a column of transitions does not, before the steps' infos."""
    kept = table.get(f"reset/{name}")
    first = rows[0] if kept is None or kept.shape[1:] != rows.shape[1:] else kept[index]
    return np.concatenate([np.asarray(first, rows.dtype)[None], rows])


def _nested(flat: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """``infos/a/b`` -> ``{"a": {"b": ...}}``; a name without ``infos/`` goes to ``columns``."""
    tree: dict[str, Any] = {}
    for name, column in flat.items():
        place = name if name.startswith("infos/") else PLAIN_COLUMNS + name
        *parents, leaf = place.removeprefix("infos/").split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = column
    return tree


def _action_space(spaces: Spaces) -> gym.Space[Any]:
    if spaces.discrete:
        return gym.spaces.Discrete(spaces.n_actions)
    low, high = np.array(spaces.action_low, np.float32), np.array(spaces.action_high, np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


def _dataset_id(folder: str) -> str:
    """A Minari id made of a folder's name: ids need letters, digits, '-', '_' and a version."""
    name = re.sub(r"[^\w-]", "-", folder)
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"


@contextmanager
def _minari_root(root: Path) -> Iterator[None]:
    """Minari writes below the folder that this variable names, and nowhere else."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    root.mkdir()
    os.environ["MINARI_DATASETS_PATH"] = str(root.resolve())  # Minari would join a relative one to itself
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
