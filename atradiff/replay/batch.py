"""What a learner is given: sampled rows that know where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from atradiff.types import BoolArray, IntArray, Transitions

OriginArray = NDArray[np.int8]


class Origin(IntEnum):
    """Where a sampled row comes from."""

    REAL = 0
    SYNTHETIC = 1
    OFFLINE = 2


@dataclass(frozen=True)
class ReplayBatch:
    """B sampled rows: the real ones first, then the synthetic, then the offline ones; each kind has its own ids."""

    transitions: Transitions
    row_ids: IntArray  # (B,)
    origins: OriginArray  # (B,) of Origin

    @property
    def synthetic(self) -> BoolArray:
        """(B,), True for imagined rows."""
        return self.origins == Origin.SYNTHETIC

    @property
    def offline(self) -> BoolArray:
        """(B,), True for rows of the offline data."""
        return self.origins == Origin.OFFLINE
