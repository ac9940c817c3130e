"""An actor with a part of a checkpoint."""

from __future__ import annotations

import os

import numpy as np
import ray

from cluster.checkpoint_files import FileEntry, StoredPart, write_part
from cluster.storage import Location


@ray.remote
class Owner:
    """What an actor does that owns a part of a checkpoint."""

    def write(self, target: Location) -> list[FileEntry]:
        return write_part(target, lambda folder: np.save(folder / "pid.npy", os.getpid()))

    def read(self, part: StoredPart) -> int:
        with part.open() as folder:
            return int(np.load(folder / "pid.npy", allow_pickle=False))
