"""Offline transitions in the batch, beside what the agent lived: RLPD's symmetric sampling (Ball 2023, section 4.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.data.trajectories import Trajectories
from atradiff.replay.config import ReplayConfig
from atradiff.replay.ring import transition_columns
from atradiff.types import IntArray, Spaces, Transitions


@dataclass(frozen=True)
class OfflineRows:
    """N transitions in the learner's action scale. They never change: a row's id is its number in the data.

    Arrays that are views of a mapped file, or of Ray's object store, stay so; nothing writes to them.
    """

    columns: Mapping[str, NDArray[Any]]  # those of Transitions, (N, ...) each
    content_hash: str
    """Names the data, so that a run that is resumed with other ones is told."""

    @classmethod
    def of(cls, data: Trajectories, to_learner: Callable[[Transitions], Transitions]) -> OfflineRows:
        """The rows of ``data``; ``to_learner`` brings them from the environment's action scale to the learner's."""
        wanted = transition_columns(data.spaces)
        rows = {name: np.asarray(c, wanted[name].dtype) for name, c in to_learner(data.columns).items()}
        return cls(rows, data.content_hash or _content_hash(rows))

    def __len__(self) -> int:
        return len(self.columns["rewards"])

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    def take(self, rows: IntArray, out: Mapping[str, NDArray[Any]]) -> None:
        """Copy ``rows`` (n,) into ``out``'s arrays (n, ...)."""
        for name, target in out.items():
            np.take(self.columns[name], rows, axis=0, out=target, mode="clip")


def require_offline(config: ReplayConfig, spaces: Spaces, offline: OfflineRows | None) -> OfflineRows | None:
    """The rows that batches are to hold, None where ``config`` asks for none.

    Raises ``ValueError`` where rows are asked for and there are none, or where they are of other spaces.
    """
    if config.offline_share == 0:
        return None
    if offline is None or len(offline) == 0:
        raise ValueError(
            f"replay.offline_share={config.offline_share} asks for offline rows in each batch, and there are no "
            "offline data: give them (data.path, data.source or data.collect of a run; augmentation(offline=...) of "
            "an EnsembleSACConfig), or set offline_share to 0."
        )
    for name, column in transition_columns(spaces).items():
        found = offline.columns[name]
        if found.shape[1:] != column.shape:
            raise ValueError(
                f"offline rows have {name} of shape {found.shape[1:]}, this environment's have {column.shape}: they "
                "are of another task."
            )
    return offline


def require_same_offline(saved: Mapping[str, Any] | None, offline: OfflineRows | None, origin: str) -> None:
    """Raise ``ValueError`` where the checkpoint ``origin`` was sampled with other offline data than are here."""
    there = None if saved is None else saved["content_hash"]
    here = None if offline is None else offline.content_hash
    if there != here:
        raise ValueError(
            f"{origin} was made with {_named(there)} in its batches, this run has {_named(here)}: resume with the same "
            "data and replay.offline_share."
        )


def offline_state(offline: OfflineRows | None) -> dict[str, Any] | None:
    """What a checkpoint says of the offline rows, which it does not hold."""
    return None if offline is None else {"rows": len(offline), "content_hash": offline.content_hash}


def _named(content_hash: str | None) -> str:
    return "no offline data" if content_hash is None else f"offline data {content_hash[:23]}"


def _content_hash(columns: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(columns):
        column = columns[name]
        digest.update(f"{name}{column.dtype.str}{column.shape}".encode())
        digest.update(np.ascontiguousarray(column).data)
    return f"sha256:{digest.hexdigest()}"
