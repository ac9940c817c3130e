"""Minari data sets, by folder or by id."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from atradiff.data import origin
from atradiff.data.errors import DataError
from atradiff.data.raw import RawColumns, Source
from atradiff.types import IntArray, Spaces

NEXT_OBSERVATIONS = "atradiff_next_observations"
"""Info under which we export next observations that are not the following row's observation."""

PLAIN_COLUMNS = "infos/columns/"
"""Where we export extras whose name does not start with ``infos/``."""

_NAMES = {"terminated": "terminations", "truncated": "truncations"}


def read_minari_id(dataset_id: str) -> Source:
    """Read a data set by id from Minari's own folder, downloading it if it is not there."""
    import minari

    try:
        dataset = minari.load_dataset(dataset_id, download=True)
    except Exception as error:  # every hosting back end fails in its own way
        from minari.storage.datasets_root_dir import get_dataset_path

        raise DataError(
            f"is not on this machine and could not be downloaded ({type(error).__name__}: {error}).",
            f"Put the data set at {get_dataset_path(dataset_id)} (the folder that holds data/main_data.hdf5), or set "
            "MINARI_DATASETS_PATH; `minari list remote` lists the published ids.",
            file=f"minari:{dataset_id}",
        ) from error
    return _read(dataset, Path(str(dataset.storage.data_path)))


def read_minari_folder(folder: Path) -> Source:
    """Read the data set in ``folder``, which holds ``data/`` or is that folder itself."""
    import minari

    data = folder / "data" if (folder / "data").is_dir() else folder
    try:
        dataset = minari.MinariDataset(data)
    except (ValueError, OSError, KeyError, AssertionError) as error:  # Minari asserts on metadata it cannot use
        raise DataError(
            f"is no Minari data set ({type(error).__name__}: {error}).",
            "Give the folder that holds data/main_data.hdf5.",
            file=folder,
        ) from error
    return _read(dataset, data)


def is_minari_folder(folder: Path) -> bool:
    """Whether ``folder`` has Minari's metadata, with or without its ``data`` folder named."""
    return any((folder / sub / "metadata.json").is_file() for sub in ("data", "."))


def _read(dataset: Any, path: Path) -> Source:
    metadata = dataset.storage.metadata
    spaces = Spaces.from_gymnasium(dataset.observation_space, dataset.action_space)  # refuses what cannot be read
    try:
        episodes = list(dataset.iterate_episodes())
        raw = _raw(episodes, dataset, path)
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(f"is truncated or damaged ({error}).", "Download the data set again.", file=path) from error
    if origin.KEY in metadata:
        return origin.source_from_origin(metadata[origin.KEY], _our_own(raw, dataset))
    env_id, note = _env_id(dataset.env_spec)
    return Source(
        raw=raw,
        source=f"Minari {metadata['dataset_id']}",
        licence=metadata.get("license", "unknown"),
        spaces=spaces,
        env_id=env_id,
        dataset_name=metadata["dataset_id"],
        notes=note,
    )


def _our_own(raw: RawColumns, dataset: Any) -> RawColumns:
    """``raw`` of a data set that we exported: extras under their own names, episode columns as they were."""
    kept = [_leaves(metadata.get(origin.EPISODES, {}), "") for metadata in _episode_metadata(dataset)]
    return replace(
        raw,
        extras={name.removeprefix(PLAIN_COLUMNS): column for name, column in raw.extras.items()},
        episode_columns={name: np.stack([one[name] for one in kept]) for name in kept[0]},
    )


def _episode_metadata(dataset: Any) -> list[dict[str, Any]]:
    return list(dataset.storage.get_episode_metadata(dataset.episode_indices))


def _raw(episodes: list[Any], dataset: Any, path: Path) -> RawColumns:
    if not episodes:
        raise DataError("holds no episodes.", "Give a data set with at least one finished episode.", file=path)
    space = dataset.observation_space
    observations = [_flatten(space, e.observations) for e in episodes]
    _check_counts(episodes, observations, path)
    infos = [_leaves(e.infos or {}) for e in episodes]
    extras = _step_infos(infos, episodes)
    own_next = extras.pop(f"infos/{NEXT_OBSERVATIONS}", None)
    following = np.concatenate([o[1:] for o in observations]) if own_next is None else own_next
    return RawColumns(
        file=str(path),
        observations=np.concatenate([o[:-1] for o in observations]),
        actions=np.concatenate([np.asarray(e.actions) for e in episodes]),
        rewards=np.concatenate([e.rewards for e in episodes]),
        terminated=np.concatenate([e.terminations for e in episodes]),
        truncated=np.concatenate([e.truncations for e in episodes]),
        next_observations=following,
        extras=extras,
        names=_NAMES,
        starts=_starts(episodes),
        episode_columns=_reset_infos(infos, episodes) | _seeds(dataset),
    )


def _starts(episodes: list[Any]) -> IntArray:
    return np.concatenate([[0], np.cumsum([len(e.rewards) for e in episodes])[:-1]]).astype(np.int64)


def _flatten(space: gym.Space[Any], observations: Any) -> NDArray[Any]:
    """(T + 1, S) by the rule of ``gymnasium.spaces.flatten``; whole columns at once where that is the same thing.

    Integers (pixels, one-hot categories) become float32: the space says that they are observations.
    """
    if isinstance(space, gym.spaces.Box):
        column = np.asarray(observations)
        return _floats(column.reshape(len(column), -1))
    if isinstance(space, gym.spaces.Dict):
        return np.concatenate([_flatten(s, observations[name]) for name, s in space.spaces.items()], axis=1)
    if isinstance(space, gym.spaces.Tuple):
        return np.concatenate([_flatten(s, part) for s, part in zip(space.spaces, observations, strict=True)], axis=1)
    return _floats(np.stack([gym.spaces.flatten(space, row) for row in observations]))


def _floats(column: NDArray[Any]) -> NDArray[Any]:
    return column if column.dtype.kind == "f" else column.astype(np.float32)


def _check_counts(episodes: list[Any], observations: list[NDArray[Any]], path: Path) -> None:
    for index, (episode, rows) in enumerate(zip(episodes, observations, strict=True)):
        n = len(episode.rewards)
        counts = {
            "observations": len(rows) - 1,
            "actions": len(np.asarray(episode.actions)),
            "terminations": len(episode.terminations),
            "truncations": len(episode.truncations),
        }
        wrong = next((name for name, count in counts.items() if count != n), None)
        if wrong is not None:
            raise DataError(
                f"has {counts[wrong]} steps in episode {index}, rewards have {n}.",
                "Record the episode again, or leave it out: all columns need one entry per step "
                "(observations one more).",
                file=path,
                field=wrong,
                row=f"{min(counts[wrong], n)} of episode {index}",
            )


def _leaves(infos: dict[str, Any], prefix: str = "infos/") -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for name, value in infos.items():
        if isinstance(value, dict):
            found.update(_leaves(value, f"{prefix}{name}/"))
        elif np.asarray(value).dtype.kind in "biuf":
            found[f"{prefix}{name}"] = np.asarray(value)
    return found


def _step_infos(infos: list[dict[str, NDArray[Any]]], episodes: list[Any]) -> dict[str, NDArray[Any]]:
    """Infos that every episode has for the reset and each step; what is kept here are the steps'."""
    return {name: np.concatenate([one[name][1:] for one in infos]) for name in _common(infos, episodes)}


def _reset_infos(infos: list[dict[str, NDArray[Any]]], episodes: list[Any]) -> dict[str, NDArray[Any]]:
    names = [name for name in _common(infos, episodes) if name != f"infos/{NEXT_OBSERVATIONS}"]
    return {f"reset/{name}": np.stack([one[name][0] for one in infos]) for name in names}


def _common(infos: list[dict[str, NDArray[Any]]], episodes: list[Any]) -> list[str]:
    def fits(name: str) -> bool:
        """Whether the info is there for the reset and every step of every episode, in one shape."""
        columns = [one.get(name) for one in infos]
        return all(
            c is not None and len(np.atleast_1d(c)) == len(e.rewards) + 1 and c.shape[1:] == infos[0][name].shape[1:]
            for c, e in zip(columns, episodes, strict=True)
        )

    return [name for name in infos[0] if fits(name)]


def _seeds(dataset: Any) -> dict[str, NDArray[Any]]:
    seeds = [metadata.get("seed") for metadata in _episode_metadata(dataset)]
    if any(seed is None or seed < 0 for seed in seeds):
        return {}
    return {"seed": np.array(seeds, dtype=np.uint64)}


def _env_id(spec: Any) -> tuple[str | None, tuple[str, ...]]:
    """(id that ``make_env`` understands, notes): the recorded environment with the options it was made with."""
    from atradiff.environments import is_registered

    if spec is None:
        return None, ("the data set does not say which environment it was recorded in; name one with --env",)
    if not is_registered(spec.id):
        return None, (f"recorded in {spec.id}, which is not installed here; name an environment with --env",)
    registered = gym.spec(spec.id)
    options = {k: v for k, v in spec.kwargs.items() if registered.kwargs.get(k) != v and k != "render_mode"}
    if spec.max_episode_steps is not None and spec.max_episode_steps != registered.max_episode_steps:
        options["max_episode_steps"] = spec.max_episode_steps
    query = "&".join(f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in options.items())
    return (f"{spec.id}?{query}" if query else spec.id), ()
