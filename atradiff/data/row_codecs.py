"""How rows hold states: as differences s' - s, as s' itself, or as differences and displacements from s_1 at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch

from atradiff.config import Rows
from atradiff.data.normalize import Normalizer, RowCodec, inverse
from atradiff.diffusion.two_heads import HeadMerge
from atradiff.types import FloatArray, IntArray, Spaces


@dataclass(frozen=True)
class DifferenceRows(RowCodec):
    """Rows hold s' - s, divided by the differences' own scale; decoding holds them to the normaliser's range."""

    kind: ClassVar[Rows] = "differences"

    def encode_states(self, states: FloatArray, origin: FloatArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        return np.diff(states, axis=1) * inverse(self.normalizer.delta_scale)

    def decode_states(self, states: FloatArray, columns: FloatArray, lengths: IntArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        n = self.normalizer
        deltas = np.clip(columns * n.delta_scale, n.delta_low, n.delta_high)
        return states[:, None] + np.cumsum(deltas, axis=1, dtype=np.float32)


@dataclass(frozen=True)
class AbsoluteRows(RowCodec):
    """Rows hold s', standardised (the paper's way, appendix A.2); decoding holds it to the normaliser's range.

    Columns that never move within an episode (a goal) keep the value that they have in s_1.
    """

    kind: ClassVar[Rows] = "absolute"

    def encode_states(self, states: FloatArray, origin: FloatArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        return self.normalizer.states(states[:, 1:])

    def decode_states(self, states: FloatArray, columns: FloatArray, lengths: IntArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        n = self.normalizer
        path = np.clip(columns * n.state_scale + n.state_mean, n.state_low, n.state_high)
        drift = np.clip(np.zeros_like(n.delta_low), n.delta_low, n.delta_high)
        steps = np.arange(1, columns.shape[1] + 1, dtype=np.float32)[:, None]
        return np.where(n.delta_scale > 0, path, states[:, None] + steps * drift)


@dataclass(frozen=True)
class TwoHeadedRows(DifferenceRows):
    """Rows hold s' - s and, in units of the states' scale, s' - s_1: (a, r, s' - s, s' - s_1, d).

    Errors of differences add up along a window, those of displacements do not, but a fast swing between two rows is
    lost in them. Decoding takes what both tell together (:class:`atradiff.diffusion.two_heads.HeadMerge`).
    """

    kind: ClassVar[Rows] = "both"

    @property
    def heads(self) -> int:
        """See :class:`RowCodec`."""
        return 2

    def encode_states(self, states: FloatArray, origin: FloatArray) -> FloatArray:
        """See :class:`RowCodec`."""
        moved = (states[:, 1:] - origin[:, None]) * inverse(self.normalizer.state_scale)
        return np.concatenate([super().encode_states(states, origin), moved], axis=-1)

    def decode_states(self, states: FloatArray, columns: FloatArray, lengths: IntArray) -> FloatArray:
        """See :class:`RowCodec`."""
        merge = _merge(tuple(self.delta_to_state.tolist()), columns.shape[1])
        path = merge(torch.from_numpy(columns), torch.from_numpy(lengths)).numpy()
        deltas = np.diff(path, axis=1, prepend=np.float32(0)) * inverse(self.delta_to_state)
        return super().decode_states(states, deltas, lengths)


@lru_cache(maxsize=32)
def _merge(scale: tuple[float, ...], longest: int) -> HeadMerge:
    return HeadMerge(torch.tensor(scale), longest)


_CODECS: dict[Rows, type[RowCodec]] = {kind.kind: kind for kind in (DifferenceRows, AbsoluteRows, TwoHeadedRows)}


def row_codec(rows: Rows, spaces: Spaces, normalizer: Normalizer) -> RowCodec:
    """The codec that a configuration names."""
    return _CODECS[rows](spaces, normalizer)
