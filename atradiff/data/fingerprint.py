"""What tells one data set from another, stored or not."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from atradiff.data.trajectories import Trajectories


def data_fingerprint(data: Trajectories) -> str:
    """The data's own content hash, or one of its columns where it was never stored."""
    if data.content_hash:
        return data.content_hash
    digest = sha256(np.ascontiguousarray(data.offsets).tobytes())
    for _, column in data.columns.items():
        digest.update(np.ascontiguousarray(column).tobytes())
    if data.tasks is not None:
        digest.update(np.ascontiguousarray(data.tasks).tobytes())
    return digest.hexdigest()
