"""Rows of the agent's own actions: its policy, rolled through the one-step model from states that were diffused.

Imagined trajectories carry the actions of the data, and no row of them says what the agent's own lead to. Here a
trajectory is cut into pieces, and from the first state of a piece the policy takes over for up to as many rows as a
whole piece has: the branched rollouts of MBPO (Janner et al. 2019, section 4.2), with diffused states in the place of
the replay's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from atradiff.config import ServingConfig
from atradiff.ports import Act, RollsPolicies, ServiceOrder, TrajectoryGenerator
from atradiff.types import ActionArray, BoolArray, FloatArray, IntArray, SyntheticTrajectories, Transitions


@dataclass(frozen=True)
class OwnActions:
    """Whose actions they are, and in which pieces. May be pickled."""

    act: Act
    share: float
    """Of the pieces whose actions are ``act``'s; each is drawn apart."""
    length: int
    """Rows of a piece; the last of a trajectory may have less, the policy still acts for so many."""
    to_environment: Callable[[Transitions], Transitions]
    """Brings rows from the scale of ``act`` to the environment's."""

    def choose(self, seed: int) -> Callable[[FloatArray, int], ActionArray]:
        """The actions of ``act`` in the environment's scale, those of each row drawn from a seed of its own.

        Asking for them raises ``FloatingPointError`` where ``act`` gives NaN or infinity.
        """

        def chosen(states: FloatArray, row: int) -> ActionArray:
            """(B, A), or (B,) discrete, in the environment's units; a row's noise hangs on seed and row alone."""
            own = int(np.random.SeedSequence([seed, 7, row]).generate_state(1)[0])
            actions, nothing = self.act(states, own), np.zeros(len(states), np.float32)
            _require_finite(actions)
            acted = Transitions(states, actions, nothing, states, nothing > 0, nothing > 0)
            return self.to_environment(acted).actions

        return chosen


def _require_finite(actions: ActionArray) -> None:
    if not np.isfinite(actions).all():
        raise FloatingPointError(
            "the agent's policy gave actions that are NaN or infinite: its learning diverged. Lower its learning rates "
            "or its updates per step, and go on from an earlier checkpoint."
        )


def require_rolls(generator: TrajectoryGenerator, serving: ServingConfig) -> None:
    """Raise ``ValueError`` where own rows are asked for, and ``generator`` has no model to roll them in."""
    if serving.own_share > 0 and not isinstance(generator, RollsPolicies):
        raise ValueError(
            f"own_share={serving.own_share} rolls the agent's policy through a one-step model, and a "
            f"{type(generator).__name__} has none: take a trajectory diffuser, or set own_share to 0."
        )


def own_actions(order: ServiceOrder) -> Callable[[], OwnActions] | None:
    """What takes a snapshot of the policy, with the order's settings; None where no own rows are asked for.

    Raises ``ValueError`` for a generator without a one-step model, and for an algorithm that gives no policy.
    """
    if order.generator is None or order.serving.own_share == 0:
        return None
    require_rolls(order.generator, order.serving)
    return snapshots(order)


def snapshots(order: ServiceOrder) -> Callable[[], OwnActions]:
    """As :func:`own_actions`, where somebody else has the generator."""
    serving, policy = order.serving, order.policy
    if policy is None:
        raise ValueError(f"own_share={serving.own_share} needs the learner's policy, and this algorithm gives none.")
    return lambda: OwnActions(policy(), serving.own_share, serving.own_length, order.to_environment)


@dataclass(frozen=True)
class Branched:
    """The rows of B requests, each one's together, in the environment's scale."""

    rows: Transitions
    lengths: IntArray  # (B,) rows of each request
    own_rows: int
    versions: IntArray  # (N,) of the generator that made each row: under adaptation the newest one rolls all own rows


def branched(
    generator: TrajectoryGenerator, trajectories: SyntheticTrajectories, own: OwnActions, seed: int
) -> Branched:
    """The rows of ``trajectories``, with own rows in the place of ``own.share`` of their pieces.

    A piece of own rows starts in its first state, may be shorter, and ends with a terminal or a truncated row: what
    follows does not go on from there. Other pieces stay bit for bit as they are. Raises ``ValueError`` for a generator
    without a one-step model.
    """
    if not isinstance(generator, RollsPolicies):
        raise ValueError(f"a {type(generator).__name__} has no one-step model to roll a policy in.")
    pieces = _Pieces.of(trajectories.lengths, own.length)
    rolled = np.random.default_rng([seed, 6]).random(len(pieces.owner)) < own.share
    rows = trajectories.to_transitions()
    if not rolled.any():
        return Branched(rows, trajectories.lengths, 0, np.full(len(rows), trajectories.generator_version, np.int64))
    made = generator.roll(rows.observations[pieces.first[rolled]], own.choose(seed), own.length)
    kept = ~rolled[pieces.of_row]
    own_rows = int(made.lengths.sum())
    of_piece = np.concatenate([pieces.of_row[kept], np.repeat(np.flatnonzero(rolled), made.lengths)])
    order = np.argsort(of_piece, kind="stable")
    together = Transitions.concatenate([rows[kept], made.to_transitions()])[order]
    versions = np.repeat([trajectories.generator_version, made.generator_version], [int(kept.sum()), own_rows])[order]
    lengths = np.bincount(pieces.owner[of_piece], minlength=len(trajectories))
    return Branched(together, lengths, own_rows, versions)


@dataclass(frozen=True)
class _Pieces:
    """P pieces of trajectories whose N rows lie end to end."""

    owner: IntArray  # (P,) the trajectory of each
    first: IntArray  # (P,) its first row
    of_row: IntArray  # (N,) the piece of each row

    @classmethod
    def of(cls, lengths: IntArray, length: int) -> _Pieces:
        """Of ``length`` rows, the last of a trajectory of ``lengths`` (B,) with what is left."""
        owner = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        begins: BoolArray = place % length == 0
        first = np.flatnonzero(begins)
        return cls(owner[first], first, np.cumsum(begins) - 1)
