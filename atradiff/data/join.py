"""Several trajectory stores as one, each task told by a vector: data for a diffuser of many tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atradiff.data.errors import DataError
from atradiff.data.npy import read_npy
from atradiff.data.schema import INFO, StoreInfo
from atradiff.data.store import open_trajectories, read_info, write_trajectories
from atradiff.data.tasks import Tasks, join_tasks
from atradiff.staging import refuse_existing


def join_stores(stores: Sequence[str | Path], out: str | Path, task: str, *, overwrite: bool = False) -> StoreInfo:
    """Write the episodes of ``stores``, one task each, as the store ``out``.

    ``task`` is ``one_hot``, ``none``, or a .npy file of (stores, T) numbers, say embeddings of sentences. Columns that
    training does not use (extras) stay behind. Raises :class:`DataError`, or ``ValueError`` where spaces differ.
    """
    refuse_existing(Path(out), overwrite=overwrite, ours=INFO)
    joined = join_tasks([open_trajectories(store) for store in stores], _tasks(task))
    infos = [read_info(store) for store in stores]
    told = "" if joined.tasks is None else f"; task vectors: {task}, {joined.task_size} numbers"
    return write_trajectories(
        out,
        joined,
        source="joined: " + "; ".join(info.source for info in infos),
        licence="; ".join(dict.fromkeys(info.licence for info in infos)),
        notes=[f"episodes of {', '.join(map(str, stores))}, in this order{told}", *_lost(infos)],
        overwrite=overwrite,
    )


def _tasks(task: str) -> Tasks:
    if task == "one_hot":
        return "one_hot"
    if task == "none":
        return "none"
    file = Path(task)
    if file.suffix != ".npy":
        raise DataError("is no way to tell tasks.", "Give one_hot, none or a .npy file.", file=task)
    vectors = read_npy(file)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not np.isfinite(vectors).all():
        raise DataError(
            f"must hold finite numbers, a row for each store, got {vectors.dtype} of shape {vectors.shape}.",
            "Write it with numpy.save.",
            file=file,
        )
    rows: list[list[float]] = vectors.tolist()
    return rows


def _lost(infos: Sequence[StoreInfo]) -> list[str]:
    names = sorted({name for info in infos for name in info.extras})
    return [f"extras of the joined stores were left out: {', '.join(names)}"] if names else []
