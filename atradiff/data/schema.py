"""What a trajectory store looks like on disk.

::

    DIR/data/transitions-00000.arrow   the columns of Transitions, rows in order, one or more shards
    DIR/data/extras-00000.arrow        further columns of the source that training does not use (goals, policy ids, ...)
    DIR/meta/episodes.parquet          one row per episode: start, length, return, terminated, truncated, ..., and
                                       task_vector where episodes carry one
    DIR/meta/statistics.json           mean, std, min, max of every column
    DIR/meta/info.json                 :class:`StoreInfo`
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atradiff.data.errors import DataError
from atradiff.types import Spaces

SCHEMA_VERSION = 1
INFO = "meta/info.json"
STATISTICS = "meta/statistics.json"
EPISODES = "meta/episodes.parquet"


def shard_name(kind: str, index: int) -> str:
    """``kind`` is ``transitions`` or ``extras``."""
    return f"data/{kind}-{index:05d}.arrow"


@dataclass(frozen=True)
class StoreInfo:
    """The contents of ``meta/info.json``."""

    spaces: Spaces
    n_transitions: int
    n_episodes: int
    n_terminated: int
    n_truncated: int
    source: str
    licence: str
    content_hash: str
    """SHA-256 over the columns' names, dtypes, shapes and bytes, and the episode offsets: ``sha256:...``."""
    env_id: str | None = None
    dataset_name: str | None = None
    shard_rows: tuple[int, ...] = ()
    extras: tuple[str, ...] = ()
    source_dtypes: dict[str, str] = field(default_factory=dict)
    """The dtype each column had at its source; on disk floats are float32."""
    notes: tuple[str, ...] = ()
    """What the import or collection did that a reader should know, in sentences."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self) | {"spaces": self.spaces.to_json()}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, path: Path) -> StoreInfo:
        """Raises :class:`DataError` when ``text`` is no info of the schema version that this code reads."""
        try:
            content = json.loads(text)
            version = content["schema_version"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"is damaged ({type(error).__name__}: {error}).", "Import the data again.", file=path
            ) from error
        if version != SCHEMA_VERSION:
            raise DataError(
                f"was written with schema version {version}; this version of atradiff reads {SCHEMA_VERSION}.",
                "Import the data again, or use the version of atradiff that wrote it.",
                file=path,
            )
        return cls._from_content(content, path)

    @classmethod
    def _from_content(cls, content: dict[str, Any], path: Path) -> StoreInfo:
        try:
            content["spaces"] = Spaces.from_json(content["spaces"])
            for name in ("shard_rows", "extras", "notes"):
                content[name] = tuple(content[name])
            return cls(**content)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"is damaged ({error}).", "Import the data again.", file=path) from error
