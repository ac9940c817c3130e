"""States that an agent came through: from a run's saved replay, or from a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atradiff.data.npy import read_npy
from atradiff.types import FloatArray

_RING, _STATES = "ring.json", "observations.npy"
_REPLAYS = ("replay", "algorithm/replay", "atradiff_replay")
"""Where a checkpoint keeps its replay: as a part of its own, the algorithm's, or a part of RLlib's checkpoints."""


@dataclass(frozen=True)
class AgentStates:
    """States (N, S) in the order in which the agent came through; ``first`` is the env step of the first of them."""

    states: FloatArray
    first: int
    source: Path

    def thirds(self) -> dict[str, AgentStates]:
        """Early, middle and late, of equal size but for a rest."""
        parts = np.array_split(np.arange(len(self.states)), 3)
        names = ("early", "middle", "late")
        return {
            name: AgentStates(self.states[part], self.first + int(part[0]), self.source)
            for name, part in zip(names, parts, strict=True)
        }


def states_of_run(folder: Path) -> AgentStates:
    """The states of the real rows in the newest checkpoint of a run, oldest first.

    ``folder`` is the run's, a checkpoint's or a replay's. Raises ``FileNotFoundError`` where no replay was saved there,
    ``ValueError`` where its files do not belong together or hold fewer than three rows.
    """
    rings = [ring for base in (folder, *_checkpoints(folder)) for ring in _rings(base)]
    if not rings:
        raise FileNotFoundError(
            f"{folder} holds no saved replay (looked for {_RING} of a checkpoint's real rows): name the folder of a "
            "run that has written a checkpoint."
        )
    return _read(max(rings, key=_rows_added))


def states_of_file(file: Path) -> AgentStates:
    """States (N, S) from a ``.npy`` file; raises ``ValueError`` for anything but finite ones, three at least."""
    return AgentStates(_checked(read_npy(file), file), 0, file)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("checkpoints/*") if path.is_dir() and not path.name.startswith("."))


def _rings(base: Path) -> list[Path]:
    candidates = (base, base / "real", *(base / replay / "real" for replay in _REPLAYS))
    return [path for path in candidates if (path / _RING).is_file()]


def _rows_added(ring: Path) -> int:
    return int(json.loads((ring / _RING).read_text(encoding="utf-8"))["total_added"])


def _read(ring: Path) -> AgentStates:
    """Slots to the order of rows: once a ring is full, the next slot to be written holds the oldest row."""
    state = json.loads((ring / _RING).read_text(encoding="utf-8"))
    total, size = state["total_added"], min(state["total_added"], state["capacity"])
    slots = np.load(ring / _STATES, mmap_mode="r", allow_pickle=False)
    if len(slots) != size:
        raise ValueError(f"{ring / _STATES} has {len(slots)} rows, {_RING} says {size}: the checkpoint is damaged.")
    oldest = total % state["capacity"] if total > size else 0
    return AgentStates(_checked(np.roll(slots, -oldest, axis=0), ring), total - size, ring)


def _checked(states: FloatArray, source: Path) -> FloatArray:
    shaped = states.ndim == 2 and len(states) >= 3 and states.dtype.kind in "fiu"
    if not shaped or not np.isfinite(states).all():
        raise ValueError(
            f"{source} must hold finite states of shape (N, S) with N >= 3, "
            f"found {states.dtype} of shape {states.shape}."
        )
    return states.astype(np.float32)
