"""Bring a data set of any known kind into the trajectory store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.checks import check_actions, check_columns, check_observation_size
from atradiff.data.d4rl import read_d4rl_file, read_d4rl_name
from atradiff.data.episodes import Episodes, cut_episodes, ended_at_reward, marks_ends
from atradiff.data.errors import DataError
from atradiff.data.minari import is_minari_folder, read_minari_folder, read_minari_id
from atradiff.data.npz import read_npz
from atradiff.data.raw import RawColumns, Source
from atradiff.data.schema import INFO, StoreInfo
from atradiff.data.store import TASK_COLUMN, write_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.environments import horizon_of, make_env
from atradiff.staging import refuse_existing
from atradiff.types import FloatArray, Spaces

_SOURCES = "a .hdf5 or .npz file, a Minari folder, d4rl:NAME (d4rl:hopper-medium-v2) or minari:ID"


def import_data(
    src: str,
    out: str | Path,
    *,
    env: str | None = None,
    horizon: int | None = None,
    licence: str | None = None,
    mirror: str | None = None,
    clip_actions: bool = False,
    end_at_reward: float | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> StoreInfo:
    """Read ``src``, check every column, cut it into episodes and write the store ``out``.

    Args:
        src: a .hdf5 or .npz file, a Minari folder, ``d4rl:NAME`` or ``minari:ID``.
        out: folder of the store; it appears whole, at the end.
        env: environment the data come from; default: what the source says or its name tells.
        horizon: episode length where the source marks no time-outs; default: the environment's.
        licence: licence of the data; default: what the source says.
        mirror: base address to download D4RL's files from instead of the published one.
        clip_actions: clip actions that lie outside the environment's bounds instead of refusing them.
        end_at_reward: episodes terminate with the first row that is paid at least this; rows after it are left out.
        overwrite: replace a store that stands at ``out``; it stays until the new one is whole.
        progress: show a bar while downloading.

    Raises:
        ValueError: for a horizon below 1, an unknown environment, or a reward to end at that no row is paid.
        DataError: naming the file, the field, the row and the remedy.
    """
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be at least 1 step, got {horizon}.")
    refuse_existing(Path(out), overwrite=overwrite, ours=INFO)
    source = read_source(src, mirror=mirror, progress=progress)
    dtypes = {name: column.dtype.name for name, column in source.raw.present().items()}
    raw = check_columns(source.raw)
    source, spaces, its_horizon = _settle(replace(source, raw=raw), env)
    actions, clipped = check_actions(raw, spaces, clip=clip_actions)
    episodes = cut_episodes(raw, actions, horizon or source.horizon or its_horizon)
    if end_at_reward is not None:
        episodes = ended_at_reward(episodes, end_at_reward, raw.starts)
    notes = [*source.notes, *episodes.notes]
    if horizon is not None and marks_ends(raw):
        notes.append(f"the horizon of {horizon} steps was not used: the file says itself where episodes end")
    if clipped:
        notes.append(f"the actions of {clipped} rows lay outside the space and were clipped")
    return write_trajectories(
        out,
        Trajectories(spaces, episodes.columns, episodes.offsets, env_id=source.env_id, tasks=_tasks(raw, episodes)),
        source=source.source,
        licence=licence or source.licence,
        dataset_name=source.dataset_name,
        extras={name: column[episodes.rows] for name, column in raw.extras.items()},
        episode_columns=_episode_columns(raw, episodes),
        source_dtypes=dtypes if source.source_dtypes is None else source.source_dtypes,
        notes=notes,
        overwrite=overwrite,
    )


def read_source(src: str, *, mirror: str | None = None, progress: bool = True) -> Source:
    """Read ``src`` by what its name says it is; raises :class:`DataError` where that is nothing we know."""
    kind, colon, name = src.partition(":")
    if colon and kind == "d4rl":
        return read_d4rl_name(name, mirror=mirror, progress=progress)
    if colon and kind == "minari":
        return read_minari_id(name)
    path = Path(src).expanduser()
    if path.suffix in (".hdf5", ".h5"):
        return read_d4rl_file(path)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.is_dir() and is_minari_folder(path):
        return read_minari_folder(path)
    raise DataError("is no kind of data this project reads.", f"Give {_SOURCES}.", file=src)


def _settle(source: Source, env: str | None) -> tuple[Source, Spaces, int | None]:
    """(source with its environment settled, spaces, horizon): what the user named, else the source, else its name."""
    if env is not None:
        spaces, horizon = _spaces_of(env)
        check_observation_size(source.raw, spaces)
        return replace(source, env_id=env), spaces, horizon
    if source.spaces is not None:
        check_observation_size(source.raw, source.spaces)
        return source, source.spaces, None
    if source.env_id is not None:
        spaces, horizon = _spaces_of(source.env_id)
        if spaces.observation_size == source.raw.observations.shape[1]:
            return source, spaces, horizon
        note = (
            f"no environment is named: {source.env_id} observes {spaces.observation_size} numbers, the file "
            f"{source.raw.observations.shape[1]}"
        )
        source = replace(source, env_id=None, notes=(*source.notes, note))
    spaces, note = _guess_spaces(source.raw)
    return replace(source, notes=(*source.notes, note)), spaces, None


def _spaces_of(env_id: str) -> tuple[Spaces, int | None]:
    environment = make_env(env_id)
    try:
        spaces = Spaces.from_gymnasium(environment.observation_space, environment.action_space)
        return spaces, horizon_of(environment)
    finally:
        environment.close()


def _guess_spaces(raw: RawColumns) -> tuple[Spaces, str]:
    """Spaces of a file that names no environment: integers count from 0, floats lie in [-1, 1] as in all of D4RL."""
    size, actions = raw.observations.shape[1], raw.actions
    if actions.dtype.kind in "iu":
        n = max(int(actions.max()) + 1, 2)
        return Spaces(size, "discrete", n_actions=n), f"no environment known: {n} discrete actions, as many as occur"
    width = actions.shape[1] if actions.ndim == 2 else 1
    box = Spaces(size, "continuous", action_low=(-1.0,) * width, action_high=(1.0,) * width)
    return box, "no environment known: actions are taken to lie in [-1, 1]"


def _episode_columns(raw: RawColumns, episodes: Episodes) -> dict[str, NDArray[Any]]:
    """What the source knew of each episode, where its episodes are ours one to one."""
    if raw.starts is None or not np.array_equal(raw.starts, episodes.rows[episodes.offsets[:-1]]):
        return {}
    return {name: column for name, column in raw.episode_columns.items() if name != TASK_COLUMN}


def _tasks(raw: RawColumns, episodes: Episodes) -> FloatArray | None:
    """(E, T) task vectors of our own exports: each episode's is that of the recorded one that it lies in."""
    if raw.starts is None or TASK_COLUMN not in raw.episode_columns:
        return None
    recorded = np.searchsorted(raw.starts, episodes.rows[episodes.offsets[:-1]], side="right") - 1
    return np.asarray(raw.episode_columns[TASK_COLUMN], np.float32)[recorded]
