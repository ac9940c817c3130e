"""How rows hold states: as differences s' - s, as s' itself, or as differences and displacements from s_1 at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch

from atradiff.config import Rows
from atradiff.data.alive_box import bounded
from atradiff.data.expectation import Expectation
from atradiff.data.normalize import Normalizer, Path, RowCodec, inverse
from atradiff.data.trajectories import Trajectories
from atradiff.diffusion.expected_moves import ExpectedMoves
from atradiff.diffusion.two_heads import HeadMerge
from atradiff.types import ActionArray, FloatArray, IntArray, Spaces


@dataclass(frozen=True)
class DifferenceRows(RowCodec):
    """Rows hold s' - s, divided by the differences' own scale; decoding holds them to the normaliser's range."""

    kind: ClassVar[Rows] = "differences"

    def encode_states(self, path: Path, origin: FloatArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        return np.diff(path.states, axis=1) * inverse(self.normalizer.delta_scale)

    def decode_states(self, states: FloatArray, rows: FloatArray, lengths: IntArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        return self._path(states, rows[..., self.state_columns])

    def _path(self, states: FloatArray, moves: FloatArray) -> FloatArray:
        """(B, K, S) states that follow ``states`` (B, S) by ``moves`` (B, K, S) in units of the differences' scale."""
        n = self.normalizer
        deltas = np.clip(moves * n.delta_scale, n.delta_low, n.delta_high)
        return states[:, None] + np.cumsum(deltas, axis=1, dtype=np.float32)


@dataclass(frozen=True)
class AbsoluteRows(RowCodec):
    """Rows hold s', standardised (the paper's way, appendix A.2); decoding holds it to the normaliser's range.

    Columns that never move within an episode (a goal) keep the value that they have in s_1.
    """

    kind: ClassVar[Rows] = "absolute"

    def encode_states(self, path: Path, origin: FloatArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        return self.normalizer.states(path.states[:, 1:])

    def decode_states(self, states: FloatArray, rows: FloatArray, lengths: IntArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        n, columns = self.normalizer, rows[..., self.state_columns]
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

    def encode_states(self, path: Path, origin: FloatArray) -> FloatArray:
        """See :class:`RowCodec`."""
        moved = (path.states[:, 1:] - origin[:, None]) * inverse(self.normalizer.state_scale)
        return np.concatenate([super().encode_states(path, origin), moved], axis=-1)

    def decode_states(self, states: FloatArray, rows: FloatArray, lengths: IntArray) -> FloatArray:
        """See :class:`RowCodec`."""
        columns = rows[..., self.state_columns]
        merge = _merge(tuple(self.delta_to_state.tolist()), columns.shape[1])
        path = merge(torch.from_numpy(columns), torch.from_numpy(lengths)).numpy()
        deltas = np.diff(path, axis=1, prepend=np.float32(0)) * inverse(self.delta_to_state)
        return self._path(states, deltas)


@lru_cache(maxsize=32)
def _merge(scale: tuple[float, ...], longest: int) -> HeadMerge:
    return HeadMerge(torch.tensor(scale), longest)


@dataclass(frozen=True)
class ResidualRows(DifferenceRows):
    """Rows hold what :mod:`atradiff.data.expectation` leaves of s' - s and of the reward, in units of its own spread.

    A diffuser's error in a row is then an error in what is hard to tell, and so a fraction of one in the difference.
    After the end nothing is expected: rows of padding stand still where they are 0. It is d that says so when rows are
    decoded, but for data with bounds on states, which tell the end themselves.
    """

    kind: ClassVar[Rows] = "residuals"
    state_temperature: ClassVar[float | None] = 0.0

    def prepared(self, data: Trajectories, updates: int, seed: int, quiet: bool = True) -> RowCodec:
        """See :class:`RowCodec`."""
        n, columns = self.normalizer, data.columns
        seen = self._seen(columns.observations, columns.actions)
        moves = (columns.next_observations - columns.observations) * inverse(n.delta_scale)
        expected_moves = Expectation.fit(seen, moves, updates, seed, quiet)
        prepared = replace(n, expected_moves=expected_moves)
        live = ~columns.terminated
        if live.any() and len(n.reward_levels) == 0:
            rewards = (columns.rewards[:, None] - n.reward_mean[0]) / n.reward_scale[0]
            told = np.concatenate([seen, moves], axis=-1)
            expected = Expectation.fit(told[live], rewards[live], max(updates // 2, 1), seed, quiet)
            left = np.zeros(1) if live.all() else rewards[~live] - expected(told[~live])
            ends = np.array([left.mean(), max(left.std(), expected.spread[0])], np.float32)
            prepared = replace(prepared, expected_rewards=expected, ends_beyond_expected=ends)
        return replace(self, normalizer=prepared)

    def encode_states(self, path: Path, origin: FloatArray) -> FloatArray:
        """See :class:`RowCodec`."""
        expectation = self.expectation
        moves = super().encode_states(path, origin)
        left = moves - np.where(path.ended[..., None], 0, expectation(self._seen(path.states[:, :-1], path.actions)))
        return left / expectation.spread * (self.normalizer.delta_scale > 0)

    def decode_states(self, states: FloatArray, rows: FloatArray, lengths: IntArray) -> FloatArray:  # noqa: ARG002
        """See :class:`RowCodec`."""
        ended = None
        if not bounded(self.normalizer.alive_low, self.normalizer.alive_high):
            ended = torch.from_numpy(np.cumsum(rows[..., -1] > 0, axis=1) > (rows[..., -1] > 0))
        columns, actions = rows[..., self.state_columns], rows[..., : self.spaces.action_size]
        if self.spaces.discrete:  # what is expected is expected of the action that is taken
            actions = self.encode_actions(actions.argmax(-1))
        start = self.normalizer.states(states)
        moves = self.moves()(torch.from_numpy(columns), torch.from_numpy(actions), torch.from_numpy(start), ended)
        return self._path(states, moves.numpy())

    def expected_rewards(self, states: FloatArray, actions: ActionArray) -> tuple[FloatArray, FloatArray]:
        """See :class:`RowCodec`."""
        n = self.normalizer
        if n.expected_rewards is None:
            return super().expected_rewards(states, actions)
        moves = np.diff(states, axis=1) * inverse(n.delta_scale)
        expected = n.expected_rewards(np.concatenate([self._seen(states[:, :-1], actions), moves], axis=-1))[..., 0]
        beyond, spread = n.ends_beyond_expected
        by_kind = np.stack([expected, expected + beyond]) * n.reward_scale[0] + n.reward_mean[0]
        return by_kind, n.reward_scale[0] * np.array([n.expected_rewards.spread[0], spread], np.float32)[:, None, None]

    def moves(self) -> ExpectedMoves:
        """See :class:`RowCodec`: what makes differences of rows."""
        n = self.normalizer
        per_scale = inverse(n.delta_scale)
        still = n.delta_scale <= 0
        deltas = np.where(still, 0, np.stack([n.delta_low * per_scale, n.delta_high * per_scale]))
        bounds = np.array([[-1.0], [1.0]]) if self.spaces.discrete else self._encoded_bounds
        return ExpectedMoves(self.expectation, self.delta_to_state, deltas, bounds)

    @property
    def expectation(self) -> Expectation:
        """Of moves."""
        found = self.normalizer.expected_moves
        if found is None:
            raise ValueError("these rows hold what an expectation leaves, and the scales have none: see `prepared`.")
        return found

    @property
    def _encoded_bounds(self) -> FloatArray:
        scale = self.normalizer.action_scale
        with np.errstate(invalid="ignore"):  # infinity times the scale of a column that never moves
            return np.where(scale > 0, (self._bounds - self.normalizer.action_mean) * inverse(scale), 0)

    def _seen(self, states: FloatArray, actions: ActionArray) -> FloatArray:
        """(..., S + A): [s, a] as expectations see them."""
        given = self.encode_actions(actions)
        if not self.spaces.discrete:
            given = np.clip(given, *self._encoded_bounds)
        return np.concatenate([self.normalizer.states(states), given], axis=-1)


_CODECS: dict[Rows, type[RowCodec]] = {
    kind.kind: kind for kind in (DifferenceRows, AbsoluteRows, TwoHeadedRows, ResidualRows)
}


def row_codec(rows: Rows, spaces: Spaces, normalizer: Normalizer) -> RowCodec:
    """The codec that a configuration names."""
    return _CODECS[rows](spaces, normalizer)
