"""Windows to the rows a diffuser learns, and back: t = (a_t, r_t, what tells of s_{t+1}, d_t), s_1 as condition.

The scales, and all but how rows tell of states, which is in :mod:`atradiff.data.row_codecs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np

from atradiff.config import Rows, SamplingConfig
from atradiff.data.alive_box import alive_box
from atradiff.data.expectation import Expectation
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import Windows
from atradiff.diffusion.expected_moves import ExpectedMoves
from atradiff.types import ActionArray, BoolArray, FloatArray, IntArray, Spaces

_CONSTANT = 1e-5
"""A column whose spread is below this share of its magnitude does not move: float32 noise, not signal."""

MOST_LEVELS = 16
"""Rewards that take no more values than this are levels (sparse tasks: 0 and 1), not a scale."""

_ATOM_GAP = 0.5
"""How far, in action scales, an action on a bound is pushed beyond it in a row."""


@dataclass(frozen=True)
class Normalizer:
    """What a model remembers of its data; fitted once, frozen, saved with it. Scale 0 marks a column that never moves.

    Rewards of terminal rows have their own centre and scale: one +100 at the goal among thousands of -0.1 would
    otherwise flatten every other reward to nothing.
    """

    state_mean: FloatArray  # (S,)
    state_scale: FloatArray  # (S,)
    state_low: FloatArray  # (S,) range of the data
    state_high: FloatArray  # (S,)
    delta_scale: FloatArray  # (S,) standard deviation of s' - s
    delta_low: FloatArray  # (S,) range of s' - s
    delta_high: FloatArray  # (S,)
    action_mean: FloatArray  # (A,), zeros for discrete actions
    action_scale: FloatArray  # (A,), ones for discrete actions
    reward_mean: FloatArray  # (2,): other rows, terminal rows
    reward_scale: FloatArray  # (2,)
    reward_levels: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    """The few values that rewards take, rising; empty where they are a scale."""
    starts: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(M, S) states to start at where trajectories do not start at states that were asked for; else empty."""
    alive_low: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    alive_high: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    """(S,) the box in which the task goes on (:mod:`atradiff.data.alive_box`); empty in models from before it was."""
    expected_moves: Expectation | None = None
    """Of [s, a], encoded: s' - s in its own scale. For ``rows: residuals``."""
    expected_rewards: Expectation | None = None
    """Of [s, a, s' - s], encoded: rewards of rows that are no end, standardised; None where rewards are levels."""
    ends_beyond_expected: FloatArray = field(default_factory=lambda: np.array([0, 1], np.float32))
    """(2,) mean and spread of what ``expected_rewards`` leaves of the rewards of ends."""

    @classmethod
    def fit(cls, data: Trajectories) -> Normalizer:
        """The scales and ranges of all rows of ``data``."""
        columns = data.columns
        observations = np.concatenate([columns.observations, columns.next_observations])
        deltas = columns.next_observations - columns.observations
        alive_low, alive_high = alive_box(columns)
        return cls(
            state_mean=observations.mean(0, dtype=np.float64).astype(np.float32),
            state_scale=_scale(observations),
            state_low=observations.min(0),
            state_high=observations.max(0),
            delta_scale=_scale(deltas, magnitude=np.abs(observations).max(0)),
            delta_low=deltas.min(0),
            delta_high=deltas.max(0),
            **_action_scales(data.spaces, columns.actions),
            **_reward_scales(columns.rewards, columns.terminated),
            reward_levels=reward_levels(columns.rewards),
            alive_low=alive_low,
            alive_high=alive_high,
        )

    def with_levels(self, rewards: FloatArray) -> Normalizer:
        """The same with the reward levels of ``rewards`` (N,), say also of episodes that are held out.

        The only success of a sparse task may be among those, and a model that never saw it must be able to imagine it.
        """
        return replace(self, reward_levels=reward_levels(rewards))

    def without_bounds(self) -> Normalizer:
        """The same where states are not asked for the task's end: the networks tell it."""
        return replace(self, alive_low=np.zeros(0, np.float32), alive_high=np.zeros(0, np.float32))

    def with_starts(self, states: FloatArray, seed: int, most: int = 4096) -> Normalizer:
        """The same with at most ``most`` of ``states`` (N, S), drawn at random, to start at."""
        chosen = np.random.default_rng(seed).choice(len(states), min(most, len(states)), replace=False)
        return replace(self, starts=np.ascontiguousarray(states[np.sort(chosen)]))

    def arrays(self) -> dict[str, FloatArray]:
        """All fields by name, as they are written beside the weights; those of an expectation as NAME.FIELD."""
        found: dict[str, FloatArray] = {}
        for name, value in ((one.name, getattr(self, one.name)) for one in fields(self)):
            if isinstance(value, Expectation):
                found |= {f"{name}.{part.name}": getattr(value, part.name) for part in fields(value)}
            elif value is not None:
                found[name] = value
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray]) -> Normalizer:
        """What :meth:`arrays` gave; raises ``TypeError`` for arrays that are missing or not known."""
        values: dict[str, Any] = {name: value for name, value in arrays.items() if "." not in name}
        for name in {name.partition(".")[0] for name in arrays if "." in name}:
            parts = {key.partition(".")[2]: value for key, value in arrays.items() if key.startswith(f"{name}.")}
            values[name] = Expectation(**parts)
        return cls(**values)

    def states(self, states: FloatArray) -> FloatArray:
        """(..., S) standardised; clipped to 10 scales, so that states far from the data cannot blow up a network."""
        return np.clip((states - self.state_mean) * inverse(self.state_scale), -10, 10)

    def crisp(self, rewards: FloatArray) -> FloatArray:
        """The nearest of the data's reward levels; rewards that are a scale, and NaN, stay as they are."""
        levels = self.reward_levels
        if len(levels) == 0:
            return rewards
        return np.where(np.isnan(rewards), rewards, levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, rewards)])


def inverse(scale: FloatArray) -> FloatArray:
    """1 / scale, and 0 for columns that never move."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)


def _scale(values: FloatArray, magnitude: FloatArray | None = None) -> FloatArray:
    spread = values.std(0, dtype=np.float64)
    magnitude = np.abs(values).max(0) if magnitude is None else magnitude
    return np.where(spread > _CONSTANT * np.maximum(magnitude, 1e-6), spread, 0).astype(np.float32)


def _action_scales(spaces: Spaces, actions: ActionArray) -> dict[str, Any]:
    if spaces.discrete:
        return {
            "action_mean": np.zeros(spaces.n_actions, np.float32),
            "action_scale": np.ones(spaces.n_actions, np.float32),
        }
    return {"action_mean": actions.mean(0, dtype=np.float64).astype(np.float32), "action_scale": _scale(actions)}


def reward_levels(rewards: FloatArray) -> FloatArray:
    """The values that ``rewards`` (N,) take, rising, where they are few; none where rewards are a scale."""
    levels = np.unique(rewards[: 100 * MOST_LEVELS])  # most rewards are a scale, and show it at once
    levels = np.unique(rewards) if len(levels) <= MOST_LEVELS else levels
    few = len(levels) <= min(MOST_LEVELS, len(rewards) // MOST_LEVELS)  # a handful of rows says nothing
    return (levels if few else np.zeros(0)).astype(np.float32)


def _reward_scales(rewards: FloatArray, terminated: BoolArray) -> dict[str, Any]:
    live = rewards[~terminated] if np.any(~terminated) else rewards
    terminal = rewards[terminated] if np.any(terminated) else live
    live_scale = _scale(live[:, None])[0] or _scale(rewards[:, None])[0] or np.float32(1)
    terminal_scale = max(_scale(terminal[:, None])[0], live_scale)
    return {
        "reward_mean": np.array([live.mean(dtype=np.float64), terminal.mean(dtype=np.float64)], np.float32),
        "reward_scale": np.array([live_scale, terminal_scale], np.float32),
    }


@dataclass(frozen=True)
class DecodedRows:
    """B windows of K rows in the environment's own units; ``terminated`` marks every row with d > 0.

    ``rewards_by_kind`` are the same rewards if a row were no end, and if it were one: rows of either kind have a scale
    of their own, and it may be told otherwise than by d which row is an end.
    """

    states: FloatArray  # (B, K + 1, S)
    actions: ActionArray  # (B, K, A) float32, or (B, K) int64
    rewards: FloatArray  # (B, K)
    terminated: BoolArray  # (B, K)
    tasks: FloatArray | None = None  # (B, T) that they were asked for
    rewards_by_kind: FloatArray | None = None  # (2, B, K)

    def ending(self, terminated: BoolArray) -> DecodedRows:
        """The same with the rows ``terminated`` (B, K) as ends, and rewards that go with it."""
        if self.rewards_by_kind is None:
            return replace(self, terminated=terminated)
        rewards = np.where(terminated, self.rewards_by_kind[1], self.rewards_by_kind[0])
        return replace(self, terminated=terminated, rewards=rewards)


@dataclass(frozen=True)
class Path:
    """The part of B windows of K rows that tells of states."""

    states: FloatArray  # (B, K + 1, S)
    actions: ActionArray  # (B, K, A) float32, or (B, K) int64
    ended: BoolArray  # (B, K), true on rows after the episode's end


@dataclass(frozen=True)
class RowCodec(ABC):
    """Row layout (a, r, states, d): actions and rewards standardised, d is -1 or +1.

    Discrete actions are one-hot in {-1, +1} and come back by argmax. The subclass says how rows hold states.
    """

    spaces: Spaces
    normalizer: Normalizer
    kind: ClassVar[Rows]
    """The name of how rows hold states."""
    state_temperature: ClassVar[float | None] = None
    """What ``SamplingConfig.state_temperature`` is where it is left open; None: as the rest."""

    @property
    def row_size(self) -> int:
        """R: A + 1, what tells of states, and 1."""
        return self.state_columns.stop + 1

    @property
    def state_columns(self) -> slice:
        """Where a row tells of states: S columns, or S for each head."""
        start = self.spaces.action_size + 1
        return slice(start, start + self.heads * self.spaces.observation_size)

    @property
    def heads(self) -> int:
        """How often a row tells of each state column."""
        return 1

    @property
    def delta_to_state(self) -> FloatArray:
        """(S,) what a difference of one unit of its scale moves a standardised state by."""
        return self.normalizer.delta_scale * inverse(self.normalizer.state_scale)

    def within(self, bounds: Mapping[str, FloatArray]) -> RowCodec:
        """The same rows, decoded into other ranges: those fields of the normaliser that ``bounds`` names."""
        changed: Mapping[str, Any] = bounds
        return replace(self, normalizer=replace(self.normalizer, **changed))

    def moves(self) -> ExpectedMoves | None:
        """What a network must follow noisy rows by, where adding up their columns does not tell where they lead."""
        return None

    def temperatures(self, sampling: SamplingConfig) -> FloatArray:
        """(R,) of the noise in each column of rows."""
        given = sampling.state_temperature
        of_states = self.state_temperature if given is None else given
        temperatures = np.full(self.row_size, sampling.temperature, np.float32)
        temperatures[self.spaces.action_size : -1] = sampling.temperature if of_states is None else of_states
        return temperatures

    def prepared(self, data: Trajectories, updates: int, seed: int, quiet: bool = True) -> RowCodec:  # noqa: ARG002
        """The same with what else this kind of row must learn, in so many ``updates``, of the ``data`` of a fit.

        Unless ``quiet`` with a progress bar.
        """
        return self

    @abstractmethod
    def encode_states(self, path: Path, origin: FloatArray) -> FloatArray:
        """(B, K, heads S) columns of rows, from windows and their s_1, ``origin`` (B, S)."""

    @abstractmethod
    def decode_states(self, states: FloatArray, rows: FloatArray, lengths: IntArray) -> FloatArray:
        """(B, K, S) states that follow ``states`` (B, S) by ``rows`` (B, K, R).

        ``lengths`` (B,) are the windows' own; what comes after is not to be used.
        """

    def expected_rewards(self, states: FloatArray, actions: ActionArray) -> tuple[FloatArray, FloatArray]:  # noqa: ARG002
        """What rewards are before rows tell, (2, B, K), and the scale of what they tell, (2, 1, 1): of rows that are no
        end, and of ends.

        ``states`` are (B, K + 1, S).
        """
        n = self.normalizer
        mean = np.broadcast_to(n.reward_mean[:, None, None], (2, *actions.shape[:2]))
        return mean, n.reward_scale[:, None, None]

    def encode_actions(self, actions: ActionArray) -> FloatArray:
        """(..., A) from actions in environment units, or from integers (...)."""
        if self.spaces.discrete:
            return np.eye(self.spaces.n_actions, dtype=np.float32)[actions] * 2 - 1
        pushed = actions + self._beyond_bounds(actions)
        return (pushed - self.normalizer.action_mean) * inverse(self.normalizer.action_scale)

    def _beyond_bounds(self, actions: FloatArray) -> FloatArray:
        """(..., A) a push outwards for actions on a bound of their space, 0 for others; decoding clips it away.

        Clipped policies put much of their mass exactly on the bounds. A diffuser smears such atoms, and with a gap
        between them and the rest the smear falls outside, where clipping restores the atom (as in a Tobit model).
        """
        low, high = self._bounds
        near = 1e-5 * np.where(np.isfinite(high - low), high - low, 0)
        side = (actions >= high - near).astype(np.float32) - (actions <= low + near)
        return side * _ATOM_GAP * self.normalizer.action_scale

    @property
    def _bounds(self) -> FloatArray:
        """(2, A) lowest and highest action."""
        return np.array([self.spaces.action_low, self.spaces.action_high], np.float32)

    def encode(self, windows: Windows) -> FloatArray:
        """(B, K, R) rows of windows."""
        return self._encode(windows, windows.states[:, 0])

    def _encode(self, windows: Windows, origin: FloatArray) -> FloatArray:
        kind = windows.terminated.astype(np.int64)
        expected, scale = self.expected_rewards(windows.states, windows.actions)
        rewards = np.where(windows.terminated, *((windows.rewards - expected) / scale)[::-1])
        path = Path(windows.states, windows.actions, windows.padding)
        parts = [
            self.encode_actions(windows.actions),
            np.where(windows.padding, 0, rewards)[..., None],
            self.encode_states(path, origin),
            (kind * 2 - 1)[..., None],
        ]
        return np.concatenate(parts, axis=-1).astype(np.float32)

    def encode_history(self, history: Windows) -> FloatArray:
        """(B, H, R) rows before windows; zeros where they are padding, so that d = -1 marks those that are told.

        Clipped to 10 scales as states are: along a chain they would carry what explodes from window to window.
        """
        rows = self._encode(history, history.states[:, -1])
        return np.where(history.padding[..., None], np.float32(0), np.clip(rows, -10, 10))

    def decode(self, states: FloatArray, rows: FloatArray, lengths: IntArray | None = None) -> DecodedRows:
        """Rows (B, K, R) that start at ``states`` (B, S); ``states[:, 0]`` of the result is that input, bit for bit.

        ``lengths`` (B,) are the windows' own where K rows are not all of them theirs; what comes after says nothing.
        States are held to what the data show, actions to the action space, rewards to their levels if they have any.
        """
        n, a = self.normalizer, self.spaces.action_size
        terminated = rows[..., -1] > 0
        lengths = np.full(len(rows), rows.shape[1]) if lengths is None else lengths
        path = np.concatenate([states[:, None], self.decode_states(states, rows, lengths)], axis=1)
        actions = self._decode_actions(rows[..., :a])
        expected, scale = self.expected_rewards(path, actions)
        kinds = n.crisp(rows[..., a] * scale + expected)
        return DecodedRows(
            states=path,
            actions=actions,
            rewards=kinds[0],
            terminated=terminated,
            rewards_by_kind=kinds,
        ).ending(terminated)

    def _decode_actions(self, columns: FloatArray) -> ActionArray:
        if self.spaces.discrete:
            return columns.argmax(-1)
        actions = columns * self.normalizer.action_scale + self.normalizer.action_mean
        return np.clip(actions, *self._bounds)
