"""What the parts ask of each other. In process these are plain objects, on a cluster actor handles hide behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from atradiff.config import ServingConfig
from atradiff.data.trajectories import Trajectories
from atradiff.replay.batch import ReplayBatch
from atradiff.replay.config import ReplayConfig
from atradiff.types import ActionArray, FloatArray, IntArray, Spaces, SyntheticTrajectories, Transitions


class TrajectoryGenerator(Protocol):
    """Imagines trajectories from states: :class:`atradiff.TrajectoryDiffuser`, or a baseline with the same method."""

    @property
    def spaces(self) -> Spaces: ...

    @property
    def starts_at_states(self) -> bool:
        """False for unconditional generators (SynthER): their trajectories start at states of their own."""
        ...

    @property
    def version(self) -> int:
        """Counts the weight updates since the model was fitted; written on every synthetic row."""
        ...

    def generate(
        self, states: FloatArray, task: FloatArray | None = None, *, generator_seed: int
    ) -> SyntheticTrajectories:
        """Trajectories that start exactly at ``states`` (B, S), in the environment's own action scale.

        Where :attr:`starts_at_states` is False, ``states`` say no more than how many are wanted. The same states, task,
        seed and version give the same trajectories.
        """
        ...


@runtime_checkable
class RollsPolicies(Protocol):
    """A generator with a one-step model: it can say where a policy's own actions lead."""

    def roll(
        self, states: FloatArray, act: Callable[[FloatArray, int], ActionArray], rows: int
    ) -> SyntheticTrajectories:
        """Trajectories of at most ``rows`` rows that start exactly at ``states`` (B, S).

        ``act`` is asked for the actions, in the environment's scale, of the j-th rows in states (N, S), with j.
        """
        ...


@dataclass(frozen=True)
class EpisodeRows:
    """N real rows of one sender: ``episodes`` (N,) names each row's episode, the same for all its chunks.

    ``source`` and ``sequence`` (counting from 0 for each source) name the chunk: a sender that hears no answer sends it
    again, and it is stored once.
    """

    rows: Transitions
    episodes: IntArray
    source: str
    sequence: int


class RowSink(Protocol):
    """Where an env runner in another process puts its rows: straight into the replay, not through the driver.

    May be pickled. :meth:`push` returns once the rows are safe.
    """

    def push(self, chunk: EpisodeRows) -> None: ...


class ReplayService(Protocol):
    """Replay, generators and adapter as an algorithm sees them: in its own process, or as actors on a cluster."""

    @property
    def env_steps(self) -> int:
        """Real rows stored since the first step of the run."""
        ...

    @property
    def sink(self) -> RowSink | None:
        """Where remote env runners put their rows; None: they hand them to the algorithm, which stores them."""
        ...

    def store(self, chunk: EpisodeRows) -> None:
        """Algorithm 1, Store, in the learner's action scale."""
        ...

    def serve(self) -> None:
        """Answer the requests that are due: here and now, or, on a cluster, make sure that somebody does."""
        ...

    def sample(self, count: int, batch_size: int) -> list[ReplayBatch]:
        """``count`` batches of ``batch_size`` rows."""
        ...

    def report_td_errors(self, batches: list[ReplayBatch], td_errors: FloatArray) -> None:
        """Absolute TD errors (count, B) of the rows of these batches, in their order."""
        ...

    def metrics(self) -> dict[str, float]:
        """Counters and gauges of this moment, by the names of docs/metrics.md; ``replay/`` is left out of a name."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything that is needed to go on into ``folder``."""
        ...

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote; ``ValueError`` where it is of another configuration, or damaged."""
        ...

    def close(self) -> None:
        """End threads and actors that the service began."""
        ...


Score = Callable[[Transitions, int], FloatArray]
"""Absolute TD errors (N,) of transitions in the learner's action scale, by its networks of this moment. The number is
that of the policy's actions tried in s' (1: its mean action)."""


Act = Callable[[FloatArray, int], ActionArray]
"""Actions in the learner's scale, drawn from a policy in states (N, S), and from nothing but a seed beside them. A
snapshot: it may be pickled, and does not follow the learner's updates."""


@dataclass(frozen=True)
class ServiceOrder:
    """What an algorithm asks for when it starts.

    ``to_learner`` brings transitions from the environment's action scale to the learner's, ``to_environment`` back;
    both may be pickled. ``generator`` None: plain replay, nothing is imagined.
    ``offline`` data, in the environment's scale, join the batches where ``replay`` asks for them.
    """

    spaces: Spaces
    replay: ReplayConfig
    serving: ServingConfig
    seed: int
    generator: TrajectoryGenerator | None
    to_learner: Callable[[Transitions], Transitions]
    to_environment: Callable[[Transitions], Transitions]
    score: Score | None = None
    """Called by :meth:`ReplayService.serve` alone; None: the errors of the learner's own updates must do."""
    offline: Trajectories | None = None
    policy: Callable[[], Act] | None = None
    """The learner's policy of this moment; called by :meth:`ReplayService.serve` or between two iterations, where
    ``serving.own_share`` is above 0. None: the algorithm cannot give it."""


class ReplayServices(Protocol):
    """Makes the :class:`ReplayService` of an algorithm. Travels inside RLlib configs, so it may be pickled."""

    def start(self, order: ServiceOrder) -> ReplayService: ...
