"""The small frozen dataclasses that cross module borders.

Shape legend of the whole project: ``B`` batch, ``K`` trajectory length (rows), ``N`` transitions, ``E`` episodes,
``S`` observation width, ``A`` action width. All floating columns are float32, all flags are bool.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
ActionArray = NDArray[Any]
"""float32 (N, A) for continuous actions, int64 (N,) for discrete ones."""

_BOUNDS = {"action_low": -math.inf, "action_high": math.inf}
"""Fields of :class:`Spaces`, and what stands for no bound."""


@dataclass(frozen=True)
class Spaces:
    """What a policy sees and does, in a form that JSON can hold.

    Observations are flat vectors: dictionary spaces are flattened by Gymnasium's own rule before they get here.
    """

    observation_size: int
    action_kind: Literal["continuous", "discrete"]
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    n_actions: int = 0

    def __post_init__(self) -> None:
        if self.observation_size < 1:
            raise ValueError(f"observation_size must be at least 1, got {self.observation_size}.")
        if self.action_kind == "discrete" and self.n_actions < 2:
            raise ValueError(f"a discrete action space needs n_actions >= 2, got {self.n_actions}.")
        if self.action_kind == "continuous" and not (len(self.action_low) == len(self.action_high) > 0):
            raise ValueError(
                "a continuous action space needs action_low and action_high of one length, got "
                f"{len(self.action_low)} and {len(self.action_high)} entries."
            )

    @property
    def action_size(self) -> int:
        """Width of an action inside a diffuser's row: A, or n_actions (one-hot) for discrete actions."""
        return self.n_actions if self.action_kind == "discrete" else len(self.action_low)

    @property
    def discrete(self) -> bool:
        """Whether actions are numbers of choices."""
        return self.action_kind == "discrete"

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Spaces:
        """Read what :meth:`to_json`, or ``dataclasses.asdict``, wrote by way of JSON, which makes lists of tuples.

        Raises ``TypeError`` or ``ValueError`` for anything else.
        """
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(values).items()}
        for name, bound in _BOUNDS.items():
            if name in plain:
                plain[name] = tuple(bound if x is None else x for x in plain[name])
        return cls(**plain)

    def to_json(self) -> dict[str, Any]:
        """Plain types that JSON has: null is no bound."""
        bounds = {name: [x if math.isfinite(x) else None for x in getattr(self, name)] for name in _BOUNDS}
        return asdict(self) | bounds

    @classmethod
    def from_gymnasium(cls, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> Spaces:
        """Read an environment's spaces; raises ``ValueError`` for actions that are neither Box nor Discrete."""
        size = int(gym.spaces.utils.flatdim(observation_space))
        if isinstance(action_space, gym.spaces.Discrete):
            if action_space.start != 0:
                raise ValueError(f"discrete actions must start at 0, got a space that starts at {action_space.start}.")
            return cls(size, "discrete", n_actions=int(action_space.n))
        if isinstance(action_space, gym.spaces.Box) and len(action_space.shape) == 1:
            return cls(
                size,
                "continuous",
                action_low=tuple(float(x) for x in action_space.low),
                action_high=tuple(float(x) for x in action_space.high),
            )
        raise ValueError(
            f"action space {action_space} is not supported: use a one-dimensional Box or a Discrete space."
        )

    def require_equal(self, other: Spaces, ours: str, theirs: str) -> None:
        """Raise ``ValueError`` naming the first difference; ``ours`` and ``theirs`` say whose spaces these are."""
        for field in fields(self):
            mine, yours = getattr(self, field.name), getattr(other, field.name)
            same = np.allclose(mine, yours, atol=1e-5) if _numbers(mine, yours) else mine == yours
            if not same:
                raise ValueError(
                    f"{ours} and {theirs} do not fit: {field.name} is {mine} in {ours} and {yours} in {theirs}."
                )


def _numbers(mine: Any, yours: Any) -> bool:
    return isinstance(mine, tuple) and isinstance(yours, tuple) and len(mine) == len(yours)


@dataclass(frozen=True)
class Transitions:
    """N transitions as columns; ``terminated`` ends the MDP, ``truncated`` the recording (bootstrap through it)."""

    observations: FloatArray  # (N, S)
    actions: ActionArray  # (N, A) float32, or (N,) int64
    rewards: FloatArray  # (N,)
    next_observations: FloatArray  # (N, S)
    terminated: BoolArray  # (N,)
    truncated: BoolArray  # (N,)

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"transition columns must have one length, got {lengths}.")

    def __len__(self) -> int:
        return len(self.rewards)

    def __getitem__(self, rows: slice | IntArray | BoolArray) -> Transitions:
        return Transitions(**{name: column[rows] for name, column in self.items()})

    def items(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """(name, column) of every column, in the order of the fields; no copies."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    @classmethod
    def concatenate(cls, parts: list[Transitions]) -> Transitions:
        """The rows of all ``parts``, of which there must be one at least, end to end; copies."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


@dataclass(frozen=True)
class SyntheticTrajectories:
    """B imagined trajectories, padded with zeros after ``lengths``; row j of trajectory i is real where j < lengths[i].

    ``observations[:, 0]`` is exactly the state that was asked for. A trajectory that ends without ``terminated`` is
    truncated: its last row's ``truncated`` flag is set by :meth:`to_transitions`.
    """

    observations: FloatArray  # (B, K + 1, S)
    actions: ActionArray  # (B, K, A) float32, or (B, K) int64
    rewards: FloatArray  # (B, K)
    terminated: BoolArray  # (B, K)
    lengths: IntArray  # (B,), each in 1..K
    generator_version: int

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mask(self) -> BoolArray:
        """(B, K), True where a row is part of its trajectory."""
        return np.arange(self.rewards.shape[1])[None, :] < self.lengths[:, None]

    def to_transitions(self) -> Transitions:
        """All rows of all trajectories, one trajectory after the other (N = lengths.sum())."""
        mask = self.mask
        last = np.arange(mask.shape[1])[None, :] == self.lengths[:, None] - 1
        return Transitions(
            observations=self.observations[:, :-1][mask],
            actions=self.actions[mask],
            rewards=self.rewards[mask],
            next_observations=self.observations[:, 1:][mask],
            terminated=self.terminated[mask],
            truncated=(last & ~self.terminated)[mask],
        )


@dataclass(frozen=True)
class SyntheticRows:
    """The answer to a batch of B requests, ready for the replay: trajectories end to end, in the learner's scale."""

    rows: Transitions  # (N,), N = lengths.sum()
    lengths: IntArray  # (B,) rows of each request's trajectory
    generator_version: int
    """Of the one that imagined the trajectories."""
    own_rows: int = 0
    """Of N, those whose actions are the agent's own."""
    row_versions: IntArray | None = None  # (N,) None: all rows are of that version, too

    @property
    def versions(self) -> IntArray:
        """(N,) the version of the generator that made each row."""
        given = self.row_versions
        return np.full(len(self.rows), self.generator_version, np.int64) if given is None else given

    def __post_init__(self) -> None:
        if int(np.sum(self.lengths)) != len(self.rows):
            raise ValueError(f"lengths sum to {int(np.sum(self.lengths))}, but there are {len(self.rows)} rows.")
