"""What our exports carry beyond the layout they are written in, so that importing them gives the same store again."""

from __future__ import annotations

import json

from atradiff.data.errors import DataError
from atradiff.data.raw import RawColumns, Source
from atradiff.data.schema import StoreInfo
from atradiff.types import Spaces

KEY = "atradiff"
"""Attribute (HDF5) or metadata key (Minari) that holds the JSON text."""

EPISODES = "atradiff_episodes"
"""Group (HDF5) or episode metadata key (Minari) that holds what the store knows of each episode."""

_TEXTS = ("source", "licence", "env_id", "dataset_name")


def origin_json(info: StoreInfo) -> str:
    """The parts of a store's info that D4RL's and Minari's layouts have no place for."""
    content = {name: getattr(info, name) for name in (*_TEXTS, "notes", "source_dtypes")}
    return json.dumps({**content, "spaces": info.spaces.to_json()})


def source_from_origin(text: str, raw: RawColumns) -> Source:
    """The source that :func:`origin_json` described; raises :class:`DataError` for a text it did not write."""
    try:
        content = json.loads(text)
        return Source(
            raw=raw,
            spaces=Spaces.from_json(content["spaces"]),
            notes=tuple(content["notes"]),
            source_dtypes=dict(content["source_dtypes"]),
            **{name: content[name] for name in _TEXTS},
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"has a damaged note of where it came from ({error}).",
            f"Remove the '{KEY}' attribute to read it as a plain file.",
            file=raw.file,
        ) from error
