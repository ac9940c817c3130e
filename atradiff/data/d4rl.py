"""D4RL's HDF5 files: by path, or by name from the ``d4rl`` package, the cache or the published address."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data import d4rl_table, download, origin
from atradiff.data.errors import DataError
from atradiff.data.npz import raw_from_arrays
from atradiff.data.raw import RawColumns, Source, require_file

_LOCOMOTION_FILE = re.compile(r"(hopper|halfcheetah|walker2d|ant)[-_][a-z]+([-_][a-z]+)?-v(\d)$")
_ROBOTS = {"hopper": "Hopper", "halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "ant": "Ant"}


def read_d4rl_name(name: str, *, mirror: str | None = None, progress: bool = True) -> Source:
    """Read a published data set by its D4RL name; ``mirror`` replaces the published base address."""
    dataset = d4rl_table.find_dataset(name)
    path, how, notes = _locate(dataset, mirror, progress)
    source = read_d4rl_file(path)
    task = dataset.task
    note = f"D4RL's {name}; {task.environment or 'no environment'} in its place: {task.differs}"
    return Source(
        raw=source.raw,
        source=f"D4RL {name} ({how})",
        licence=d4rl_table.LICENCE,
        env_id=task.environment,
        dataset_name=name,
        horizon=task.horizon,
        notes=(note, *notes),
    )


def read_d4rl_file(path: Path) -> Source:
    """Read an HDF5 file in D4RL's layout: ``observations, actions, rewards, terminals`` and, where there, ``timeouts``
    and ``next_observations``; other arrays with a row per transition (``infos/goal``, ...) become extras.

    Raises :class:`DataError` for a file that is cut off, is no HDF5, or lacks a column.
    """
    import h5py

    require_file(path, "file")
    try:
        with h5py.File(str(path), "r") as file:
            arrays = _arrays(file)
            text = file.attrs.get(origin.KEY)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py's answers to damage
        raise DataError(
            f"is truncated or no HDF5 file ({error}).", "Download or copy the file again.", file=path
        ) from error
    ours = {k: arrays.pop(k) for k in list(arrays) if k.startswith(f"{origin.EPISODES}/")}
    raw = raw_from_arrays(arrays, path)
    if text is None:
        return _somebodys(raw, path)
    return origin.source_from_origin(text, _with_episodes(raw, ours))


def _with_episodes(raw: RawColumns, columns: dict[str, NDArray[Any]]) -> RawColumns:
    """Add the episode columns that we exported, where the file still has those episodes."""
    last = np.flatnonzero(raw.terminated | raw.truncated) if raw.truncated is not None else np.zeros(0, np.int64)
    if any(len(column) != len(last) for column in columns.values()):
        return raw
    starts = np.concatenate([[0], last[:-1] + 1]).astype(np.int64)
    return replace(
        raw, starts=starts, episode_columns={k.removeprefix(f"{origin.EPISODES}/"): v for k, v in columns.items()}
    )


def _somebodys(raw: RawColumns, path: Path) -> Source:
    """A file that we did not write: D4RL's by its name, or somebody's."""
    dataset = d4rl_table.dataset_of_file(path.stem)
    if dataset is not None:
        return Source(
            raw=raw,
            source=f"D4RL {dataset.name} ({path.name})",
            licence=d4rl_table.LICENCE,
            env_id=dataset.task.environment,
            dataset_name=dataset.name,
            horizon=dataset.task.horizon,
            notes=(f"taken for D4RL's {dataset.name} by its file name; {dataset.task.differs}",),
        )
    env_id = _environment_in(path.stem)
    notes = (f"environment {env_id} guessed from the file name; name another with --env",) if env_id else ()
    return Source(raw=raw, source=f"HDF5 file {path.name}", licence="unknown", env_id=env_id, notes=notes)


def _environment_in(stem: str) -> str | None:
    """``Hopper-v5`` for ``hopper_medium-replay-v5``: files in D4RL's way of naming, of environments still alive."""
    match = _LOCOMOTION_FILE.fullmatch(stem)
    return f"{_ROBOTS[match[1]]}-v{match[3]}" if match and int(match[3]) >= 4 else None


def _arrays(file: Any) -> dict[str, NDArray[Any]]:
    """Every array of the file by its path, less ``metadata/`` (D4RL keeps the policy's weights there)."""
    import h5py

    found: dict[str, NDArray[Any]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("metadata/"):
            found[name] = np.asarray(item[()])

    file.visititems(visit)
    return found


def _locate(dataset: d4rl_table.D4RLDataset, mirror: str | None, progress: bool) -> tuple[Path, str, tuple[str, ...]]:
    """(file, how it was come by, what to tell the reader): through the ``d4rl`` package where that is installed."""
    name = f"d4rl/{dataset.path}"
    if mirror is not None:
        url = f"{mirror.rstrip('/')}/{dataset.path}"
        return download.fetch(url, name=name, progress=progress), url, ()
    notes: tuple[str, ...] = ()
    if importlib.util.find_spec("d4rl") is not None:
        try:
            from d4rl import offline_env

            return Path(offline_env.download_dataset_from_url(dataset.url)), "through the d4rl package", ()
        except Exception as error:  # the package fails in its own ways where MuJoCo 2.1's binaries are missing
            notes = (f"the d4rl package is installed but of no use here ({type(error).__name__}: {error})",)
    return download.fetch(dataset.url, name=name, progress=progress), dataset.url, notes
