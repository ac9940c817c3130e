"""One generator of the pool: a plain class that answers batches, and the actor that it becomes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from atradiff.allocator import keep_freed_memory
from atradiff.branches import OwnActions
from atradiff.ports import TrajectoryGenerator
from atradiff.serving import imagined_rows
from atradiff.types import FloatArray, SyntheticRows, Transitions
from cluster.pool_config import PoolConfig

Weights = Mapping[str, NDArray[Any]]
ToLearner = Callable[[Transitions], Transitions]


@runtime_checkable
class Movable(Protocol):
    """A generator that computes on a device of the caller's choice."""

    def on(self, device: str, *, compiled: bool = False) -> TrajectoryGenerator: ...


@runtime_checkable
class Adaptable(Protocol):
    """A generator whose weights can be replaced. What does not fit raises ``ValueError`` and changes nothing."""

    def weights(self) -> Weights: ...

    def check_weights(self, weights: Weights) -> None: ...

    def load_weights(self, version: int, weights: Weights) -> None: ...


@dataclass(frozen=True)
class _Version:
    """A version in Ray's object store: the weights, and where the generator lies that they belong to."""

    weights: Weights | None
    """None: the generator's own."""
    generator: ray.ObjectRef


@dataclass(frozen=True)
class Ticket:
    """Names the version that a batch is to be made with, and where it and the agent's policy lie.

    It travels with every batch, so that an actor that Ray has just restarted knows what to fetch; who has that version
    already fetches nothing. The driver keeps the newest ticket, and by that the objects.
    """

    version: int
    place: ray.ObjectRef
    own: ray.ObjectRef | None = None
    """Whose actions the own rows have; None: there are none."""

    @classmethod
    def first(cls, generator: TrajectoryGenerator) -> Ticket:
        """The generator as it is."""
        return cls(generator.version, ray.put(_Version(None, ray.put(generator))))

    def next(self, version: int, weights: Weights) -> Ticket:
        """The same generator with other weights."""
        stored: _Version = ray.get(self.place)
        return replace(self, version=version, place=ray.put(_Version(dict(weights), stored.generator)))

    def acting(self, own: OwnActions) -> Ticket:
        """The same version, with own rows by ``own``."""
        return replace(self, own=ray.put(own))

    def generator(self) -> TrajectoryGenerator:
        """The original generator, fetched."""
        generator: TrajectoryGenerator = ray.get(ray.get(self.place).generator)
        return generator

    def weights(self) -> Weights:
        """The weights of this version, fetched; only for generators whose weights can be replaced."""
        stored: _Version = ray.get(self.place)
        return ray.get(stored.generator).weights() if stored.weights is None else stored.weights


@dataclass(frozen=True)
class Served:
    """What a generator says of a batch it answered: small, so that the driver may read it."""

    process: int
    """Another one than before: Ray restarted the generator."""
    version: int
    trajectories: int
    rows: int
    seconds: float
    gpu_bytes: int
    own_rows: int


class GeneratorWorker:
    """Answers batches, one at a time, with the weights that each of them asks for."""

    def __init__(self, generator: TrajectoryGenerator, to_learner: ToLearner) -> None:
        self._generator = generator
        self._to_learner = to_learner
        self._version = generator.version

    def answer(
        self,
        states: FloatArray,
        seed: int,
        version: int,
        fetch: Callable[[], Weights],
        own: OwnActions | None = None,
    ) -> tuple[SyntheticRows, Served]:
        """Trajectories from ``states`` (B, S); ``fetch`` is called only where the version differs from the last one's.

        ``own`` puts the agent's actions into a share of the rows.
        Raises ``ValueError`` for weights that do not fit; those at hand stay in place.
        """
        began = time.perf_counter()
        if version != self._version:
            self._swap(version, fetch())
        made = imagined_rows(self._generator, states, seed, self._to_learner, own)
        seconds = time.perf_counter() - began
        served = Served(
            os.getpid(),
            made.generator_version,
            len(made.lengths),
            len(made.rows),
            seconds,
            _gpu_bytes_in_use(),
            made.own_rows,
        )
        return made, served

    def _swap(self, version: int, weights: Weights) -> None:
        if not isinstance(self._generator, Adaptable):
            raise ValueError(f"a {type(self._generator).__name__} has no weights to replace by version {version}.")
        self._generator.load_weights(version, weights)
        self._version = version


class GeneratorActor:
    """A :class:`GeneratorWorker` in a process of its own, on the GPU that Ray gave to it."""

    # Of all objects only tickets name what is in the object store: Ray repeats a constructor with the references that
    # it was first given, also when what they stood for is gone.
    def __init__(self, to_learner: ToLearner, device: str, compiled: bool) -> None:
        keep_freed_memory()
        self._to_learner, self._device, self._compiled = to_learner, device, compiled
        self._worker: GeneratorWorker | None = None
        self._own: tuple[ray.ObjectRef, OwnActions] | None = None

    def ready(self, ticket: Ticket) -> int:
        """The id of the process, once the generator is in place; raises what kept it from getting there."""
        self._working(ticket)
        return os.getpid()

    @ray.method(num_returns=2)
    def generate(self, states: FloatArray, seed: int, ticket: Ticket) -> tuple[SyntheticRows, Served]:
        """See :meth:`GeneratorWorker.answer`. Two results: the rows go on to the replay, their report to the driver."""
        worker = self._working(ticket)
        return worker.answer(states, seed, ticket.version, ticket.weights, self._acting(ticket))

    def _acting(self, ticket: Ticket) -> OwnActions | None:
        """The ticket's policy, fetched where the last batch had another one."""
        if ticket.own is None:
            return None
        if self._own is None or self._own[0] != ticket.own:
            self._own = ticket.own, ray.get(ticket.own)
        return self._own[1]

    def _working(self, ticket: Ticket) -> GeneratorWorker:
        if self._worker is None:
            generator = ticket.generator()
            if isinstance(generator, Movable):
                generator = generator.on(self._device, compiled=self._compiled)
            self._worker = GeneratorWorker(generator, self._to_learner)
        return self._worker


def start_generator(config: PoolConfig, to_learner: ToLearner, placement: object | None) -> ActorHandle:
    """Ask Ray for one more generator actor; ``config`` must have its ``num_gpus`` decided.

    Ray restarts it after a crash, with the batches that it had; errors of the generator itself are not retried.
    """
    options: dict[str, Any] = {
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "resources": config.resources,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    if placement is not None:
        options["scheduling_strategy"] = placement
    device = "cuda" if config.num_gpus else "cpu"
    return ray.remote(GeneratorActor).options(**options).remote(to_learner, device, config.compile)


def _gpu_bytes_in_use() -> int:
    """Of this process; 0 without a GPU, and without importing torch for a generator that does not use it."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.memory_allocated()) if torch is not None and torch.cuda.is_available() else 0
