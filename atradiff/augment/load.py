"""A generator from its folder, whichever it is."""

from __future__ import annotations

import json
from pathlib import Path

from atradiff.augment.synther import FORMAT, SyntherDiffuser
from atradiff.config import Precision
from atradiff.generator import TrajectoryDiffuser


def load_generator(
    path_or_id: str | Path, *, device: str = "auto", precision: Precision | None = None
) -> TrajectoryDiffuser | SyntherDiffuser:
    """A trajectory diffuser or a SynthER from a model folder; ids of the hub name trajectory diffusers.

    Raises as :meth:`TrajectoryDiffuser.from_pretrained` does where it is neither.
    """
    if _is_synther(Path(path_or_id)):
        return SyntherDiffuser.from_pretrained(path_or_id, device=device, precision=precision)
    return TrajectoryDiffuser.from_pretrained(path_or_id, device=device, precision=precision)


def _is_synther(folder: Path) -> bool:
    try:
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False  # the loader of trajectory diffusers says what is wrong
    return isinstance(description, dict) and description.get("format") == FORMAT
