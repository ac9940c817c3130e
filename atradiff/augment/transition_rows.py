"""Single transitions as flat vectors: what SynthER learns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atradiff.types import ActionArray, FloatArray, Spaces, SyntheticTrajectories, Transitions

_TERMINAL = 0.5


@dataclass(frozen=True)
class TransitionRows:
    """Layout (s, a, r, s', d): columns standardised, d plainly 0 or 1 and read back by a threshold of 0.5 (SynthER).

    Discrete actions, which SynthER does not know, are one-hot and come back by argmax. Scale 0 marks a constant column.
    """

    spaces: Spaces
    mean: FloatArray  # (R,)
    scale: FloatArray  # (R,)

    @classmethod
    def fit(cls, spaces: Spaces, transitions: Transitions) -> TransitionRows:
        """Mean and spread of each column of ``transitions``."""
        flat = _flatten(spaces, transitions)
        mean, scale = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
        scale[scale < 1e-5 * np.maximum(np.abs(flat).max(0), 1e-6)] = 0
        mean[-1], scale[-1] = 0, 1
        return cls(spaces, mean.astype(np.float32), scale.astype(np.float32))

    @property
    def row_size(self) -> int:
        """R = 2 S + A + 2."""
        return 2 * self.spaces.observation_size + self.spaces.action_size + 2

    def encode(self, transitions: Transitions) -> FloatArray:
        """(N, R) standardised rows."""
        away = _flatten(self.spaces, transitions) - self.mean
        return np.divide(away, self.scale, out=np.zeros_like(away), where=self.scale > 0)

    def decode(self, rows: FloatArray, version: int) -> SyntheticTrajectories:
        """(N, R) rows as N trajectories of one row; actions are held to their space."""
        flat, size, actions = rows * self.scale + self.mean, self.spaces.observation_size, self.spaces.action_size
        states, following = flat[:, :size], flat[:, size + actions + 1 : -1]
        return SyntheticTrajectories(
            observations=np.stack([states, following], axis=1),
            actions=self._actions(flat[:, size : size + actions])[:, None],
            rewards=flat[:, size + actions, None],
            terminated=flat[:, -1:] > _TERMINAL,
            lengths=np.ones(len(rows), np.int64),
            generator_version=version,
        )

    def _actions(self, columns: FloatArray) -> ActionArray:
        if self.spaces.discrete:
            return columns.argmax(-1)
        return np.clip(columns, *np.array([self.spaces.action_low, self.spaces.action_high], np.float32))


def _flatten(spaces: Spaces, rows: Transitions) -> FloatArray:
    actions = np.eye(spaces.n_actions, dtype=np.float32)[rows.actions] if spaces.discrete else rows.actions
    parts = [rows.observations, actions, rows.rewards[:, None], rows.next_observations, rows.terminated[:, None]]
    return np.concatenate(parts, axis=1, dtype=np.float32)
