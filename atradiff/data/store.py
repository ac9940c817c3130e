"""The trajectory store: written once, opened memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.arrow_columns import read_columns, write_columns
from atradiff.data.errors import DataError
from atradiff.data.schema import EPISODES, INFO, STATISTICS, StoreInfo, shard_name
from atradiff.data.statistics import column_statistics
from atradiff.data.trajectories import Trajectories
from atradiff.staging import refuse_existing, staged_folder
from atradiff.types import FloatArray, IntArray, Transitions

EPISODE_COLUMNS = ("start", "length", "return", "terminated", "truncated")
"""What the episode table says of every data set."""

TASK_COLUMN = "task_vector"
"""What it says besides where episodes carry the vectors of their tasks."""

SHARD_ROWS = 16_777_216
"""Rows per shard. One shard is viewed in place; several have to be copied together when they are opened."""


def open_trajectories(path: str | Path, *, verify: bool = False) -> Trajectories:
    """Open the store in the folder ``path``; its columns are read-only views of the mapped file.

    ``verify`` reads everything and compares the content hash. Raises :class:`DataError` where ``path`` is no store,
    is of another schema version, or its files do not fit together.
    """
    folder = Path(path)
    info = read_info(folder)
    columns = Transitions(**_read_shards(folder, "transitions", info))
    _require_spaces(columns, info, folder)
    offsets, tasks = _offsets(folder, info), _tasks(folder)
    if verify and (found := content_hash(columns, offsets, tasks)) != info.content_hash:
        raise DataError(
            f"the columns' content hash is {found}, meta/info.json says {info.content_hash}.",
            "The files were changed or damaged: import or collect the data again.",
            file=folder,
        )
    return Trajectories(info.spaces, columns, offsets, env_id=info.env_id, content_hash=info.content_hash, tasks=tasks)


def read_info(path: str | Path) -> StoreInfo:
    """Read ``meta/info.json``; raises :class:`DataError` when ``path`` is not a store of ours."""
    file = Path(path) / INFO
    if not file.is_file():
        raise DataError(
            f"is not a trajectory store: there is no {INFO} in it.",
            "Make one with `atradiff data import` or `atradiff data collect`.",
            file=path,
        )
    return StoreInfo.from_json(file.read_text(encoding="utf-8"), file)


def read_extras(path: str | Path) -> dict[str, NDArray[Any]]:
    """The source's further columns, each (N, ...); empty where there are none."""
    info = read_info(path)
    return _read_shards(Path(path), "extras", info) if info.extras else {}


def read_episode_table(path: str | Path) -> dict[str, NDArray[Any]]:
    """One entry per episode: ``start, length, return, terminated, truncated`` and what the source knew of it."""
    table = _read_episodes(Path(path))
    return {name: _table_column(table[name]) for name in table.column_names}


def write_trajectories(
    path: str | Path,
    trajectories: Trajectories,
    *,
    source: str,
    licence: str,
    dataset_name: str | None = None,
    extras: Mapping[str, NDArray[Any]] | None = None,
    episode_columns: Mapping[str, NDArray[Any]] | None = None,
    source_dtypes: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    overwrite: bool = False,
    shard_rows: int = SHARD_ROWS,
) -> StoreInfo:
    """Write a store under a temporary name and rename it to ``path`` when it is whole.

    Raises :class:`DataError` when ``path`` exists and ``overwrite`` is false, or is no store of ours.
    """
    out, columns = Path(path), trajectories.columns
    refuse_existing(out, overwrite=overwrite, ours=INFO)
    extras = dict(sorted((extras or {}).items()))
    _require_length(extras, len(columns), "extras")
    _require_length(episode_columns or {}, len(trajectories), "episode_columns")
    ends = trajectories.offsets[1:] - 1
    info = StoreInfo(
        spaces=trajectories.spaces,
        n_transitions=len(columns),
        n_episodes=len(trajectories),
        n_terminated=int(columns.terminated[ends].sum()),
        n_truncated=int((columns.truncated[ends] & ~columns.terminated[ends]).sum()),
        source=source,
        licence=licence,
        content_hash=content_hash(columns, trajectories.offsets, trajectories.tasks),
        env_id=trajectories.env_id,
        dataset_name=dataset_name,
        shard_rows=tuple(min(shard_rows, len(columns) - i) for i in range(0, len(columns), shard_rows)),
        extras=tuple(extras),
        source_dtypes=dict(source_dtypes or {}),
        notes=tuple(notes),
    )
    with staged_folder(out) as stage:
        _write_files(stage, trajectories, extras, episode_columns or {}, info)
    return info


def content_hash(columns: Transitions, offsets: IntArray, tasks: FloatArray | None = None) -> str:
    """SHA-256 of what the data are, whatever files they lie in."""
    digest = hashlib.sha256()
    further = [("offsets", offsets)] if tasks is None else [("offsets", offsets), ("tasks", tasks)]
    for name, column in (*columns.items(), *further):
        digest.update(f"{name}{column.dtype.str}{column.shape}".encode())
        digest.update(np.ascontiguousarray(column).data)
    return f"sha256:{digest.hexdigest()}"


def _write_files(
    stage: Path,
    trajectories: Trajectories,
    extras: Mapping[str, NDArray[Any]],
    episode_columns: Mapping[str, NDArray[Any]],
    info: StoreInfo,
) -> None:
    (stage / "data").mkdir()
    (stage / "meta").mkdir()
    _write_shards(stage, "transitions", dict(trajectories.columns.items()), info)
    if extras:
        _write_shards(stage, "extras", extras, info)
    _write_episode_table(stage / EPISODES, trajectories, episode_columns)
    statistics = json.dumps(column_statistics(trajectories.columns), indent=2)
    (stage / STATISTICS).write_text(statistics + "\n", encoding="utf-8")
    (stage / INFO).write_text(info.to_json(), encoding="utf-8")


def _write_shards(stage: Path, kind: str, columns: Mapping[str, NDArray[Any]], info: StoreInfo) -> None:
    start = 0
    for index, rows in enumerate(info.shard_rows):
        part = {name: column[start : start + rows] for name, column in columns.items()}
        write_columns(stage / shard_name(kind, index), part)
        start += rows


def _write_episode_table(path: Path, trajectories: Trajectories, episode_columns: Mapping[str, NDArray[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ends = trajectories.offsets[1:] - 1
    own = (
        trajectories.offsets[:-1],
        trajectories.lengths,
        trajectories.returns,
        trajectories.columns.terminated[ends],
        trajectories.columns.truncated[ends],
    )
    table: dict[str, NDArray[Any]] = {**dict(zip(EPISODE_COLUMNS, own, strict=True)), **episode_columns}
    if trajectories.tasks is not None:
        table[TASK_COLUMN] = trajectories.tasks
    pq.write_table(pa.table({name: list(c) if c.ndim > 1 else c for name, c in table.items()}), path)


def _read_episodes(folder: Path, columns: list[str] | None = None) -> Any:
    """The episode table (Arrow), or these columns of it; raises :class:`DataError` where it is missing or damaged."""
    import pyarrow.parquet as pq

    file = folder / EPISODES
    try:
        return pq.read_table(file, columns=columns)
    except (OSError, ValueError) as error:
        raise DataError(f"is missing or damaged ({error}).", "Import or collect the data again.", file=file) from error


def _table_column(column: Any) -> NDArray[Any]:
    nested = "list" in str(column.type)
    return np.array(column.to_pylist()) if nested else column.to_numpy()


def _read_shards(folder: Path, kind: str, info: StoreInfo) -> dict[str, NDArray[Any]]:
    shards = []
    for index, rows in enumerate(info.shard_rows):
        file = folder / shard_name(kind, index)
        shard = read_columns(file)
        wrong = {name: len(column) for name, column in shard.items() if len(column) != rows}
        if wrong:
            raise DataError(f"has {wrong} rows where {INFO} says {rows}.", "Import the data again.", file=file)
        shards.append(shard)
    if len(shards) == 1:
        return shards[0]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def _offsets(folder: Path, info: StoreInfo) -> IntArray:
    table = _read_episodes(folder, ["start", "length"])
    start, length = (table[name].to_numpy() for name in ("start", "length"))
    offsets = np.append(start, start[-1] + length[-1]).astype(np.int64)
    if len(start) != info.n_episodes or offsets[-1] != info.n_transitions:
        raise DataError(
            f"lists {len(start)} episodes that end at row {offsets[-1]}, {INFO} says {info.n_episodes} episodes and "
            f"{info.n_transitions} rows.",
            "Import the data again.",
            file=folder / EPISODES,
        )
    return offsets


def _tasks(folder: Path) -> FloatArray | None:
    """(E, T) task vectors; None where the episodes have none."""
    import pyarrow.parquet as pq

    if TASK_COLUMN not in pq.read_schema(folder / EPISODES).names:
        return None
    column = _read_episodes(folder, [TASK_COLUMN])[TASK_COLUMN]
    try:
        return np.array(column.to_pylist(), np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"holds task vectors that differ in length ({error}).", "Make the data again.", file=folder / EPISODES
        ) from error


def _require_spaces(columns: Transitions, info: StoreInfo, folder: Path) -> None:
    width = columns.observations.shape[1]
    actions = "discrete" if columns.actions.ndim == 1 else f"{columns.actions.shape[1]} wide"
    expected = "discrete" if info.spaces.discrete else f"{info.spaces.action_size} wide"
    if width != info.spaces.observation_size or actions != expected:
        raise DataError(
            f"has observations of width {width} and {actions} actions; {INFO} says {info.spaces.observation_size} "
            f"and {expected}.",
            "Import the data again.",
            file=folder,
        )


def _require_length(columns: Mapping[str, NDArray[Any]], length: int, what: str) -> None:
    wrong = {name: len(column) for name, column in columns.items() if len(column) != length}
    if wrong:
        raise ValueError(f"{what} must have {length} entries each, got {wrong}.")
