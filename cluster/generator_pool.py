"""The generator pool: N generators that answer the requests of the replay actor.

replay --requests--> pool (a thread of the driver) --states--> generator actors --rows, by reference--> replay
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import ray
from ray.actor import ActorHandle

from atradiff.branches import OwnActions, require_rolls
from atradiff.config import ServingConfig
from atradiff.ports import TrajectoryGenerator
from cluster.generator_actor import (
    Adaptable,
    Movable,
    Ticket,
    ToLearner,
    Weights,
    start_generator,
)
from cluster.generator_fleet import GeneratorFleet
from cluster.placement import to_stderr
from cluster.pool_config import PoolConfig
from cluster.pool_dispatcher import PoolDispatcher

_TOLD_AFTER_SECONDS = 30.0
"""Generators that start for so long are told of: a new node may be installing what they need."""


class GeneratorPool:
    """N generator actors and the thread that keeps them busy. Made where Ray is connected; a context manager.

    Args:
        generator: Copied to each actor, and to its GPU where it has one.
        replay: Handle of an actor with ``wait_for_requests``, ``store_synthetic``, ``put_back`` and, for a pool that
            scales by itself, ``status``: see :class:`cluster.replay_actor.ReplayActor`.
        config: How many, and what each gets. Raises ``ValueError`` where the cluster has no such resource.
        serving: Requests per batch, and the share of the agent's own actions: with one, nothing is generated before
            :meth:`act_by`. Raises ``ValueError`` for a generator that cannot roll them.
        seed: The run's: seeds of batches follow from it.
        to_learner: Brings rows to the learner's action scale.
        placement: A Ray scheduling strategy for each of the first actors; those beyond go where Ray likes.
    """

    def __init__(
        self,
        generator: TrajectoryGenerator,
        replay: ActorHandle,
        config: PoolConfig,
        serving: ServingConfig,
        seed: int,
        to_learner: ToLearner,
        placement: Sequence[object] | None = None,
    ) -> None:
        require_rolls(generator, serving)
        self.config = config.on(ray.cluster_resources())
        self._generator = generator.on("cpu") if isinstance(generator, Movable) else generator
        self._fleet = GeneratorFleet(
            self.config.in_flight, self._starter(to_learner, placement or ()), lambda: self._dispatcher.ticket
        )
        self._dispatcher = PoolDispatcher(
            self._fleet,
            replay,
            self.config,
            serving.requests_per_batch,
            seed,
            Ticket.first(self._generator),
            needs_policy=serving.own_share > 0,
        )
        self._thread = threading.Thread(target=self._dispatcher.run, name="generator-pool", daemon=True)

    def start(self, timeout_s: float = 600.0) -> None:
        """Start the generators and serve once all of them are ready: a new node may first install what they need.

        Raises :class:`GeneratorError` where one cannot be built, ``TimeoutError`` where one finds no place.
        """
        try:
            self._fleet.resize(self.config.generators)
            starting = self._fleet.starting
            ready, missing = ray.wait(starting, num_returns=len(starting), timeout=min(timeout_s, _TOLD_AFTER_SECONDS))
            if missing and timeout_s > _TOLD_AFTER_SECONDS:
                to_stderr(
                    f"still waiting, at most {timeout_s:g} s: {self._shortage(len(missing), _TOLD_AFTER_SECONDS)}"
                )
                rest = timeout_s - _TOLD_AFTER_SECONDS
                ready, missing = ray.wait(starting, num_returns=len(starting), timeout=rest)
            for reference in ready:
                self._fleet.arrived(reference)
            if missing:
                raise TimeoutError(self._shortage(len(missing), timeout_s))
        except BaseException:
            self._fleet.end()
            raise
        self._thread.start()

    def stop(self, drain_s: float = 5.0) -> None:
        """End all generators once they have answered what they hold, at the latest after ``drain_s``.

        Requests that are still without an answer are back in the replay's queue afterwards.
        """
        self._dispatcher.stop(drain_s)
        if self._thread.is_alive():
            self._thread.join()
        self._fleet.end()

    def check(self) -> None:
        """Raise what ended the pool's thread, if anything did."""
        if self._dispatcher.error is not None:
            raise self._dispatcher.error

    def scale(self, generators: int) -> None:
        """Go to this many generators: new ones start, surplus ones finish what they have and end."""
        if generators < 1:
            raise ValueError(f"the pool needs at least 1 generator, got {generators}.")
        self._dispatcher.resize(generators)

    def publish(self, version: int, weights: Weights) -> None:
        """From the next batch on, generate with ``weights``; a batch in flight keeps those it was sent with.

        Raises ``ValueError``, and changes nothing, for weights that do not fit and for a version that is not newer.
        """
        if not isinstance(self._generator, Adaptable):
            raise ValueError(f"a {type(self._generator).__name__} has no weights to replace.")
        if version <= self._dispatcher.ticket.version:
            raise ValueError(
                f"version must rise above {self._dispatcher.ticket.version}, which is being served, got {version}."
            )
        self._generator.check_weights(weights)
        self._dispatcher.ticket = self._dispatcher.ticket.next(version, weights)

    def act_by(self, own: OwnActions) -> None:
        """From the next batch on, the own rows are by ``own``; a batch in flight keeps the policy it was sent with."""
        self._dispatcher.ticket = self._dispatcher.ticket.acting(own)

    def metrics(self) -> dict[str, float]:
        """Counters and gauges of this moment, by the names of docs/metrics.md (group ``pool``)."""
        return self._dispatcher.metrics()

    def share_of_original(self) -> dict[str, float]:
        """See :meth:`PoolDispatcher.share_of_original`."""
        return self._dispatcher.share_of_original()

    def processes(self) -> list[int]:
        """The process of each generator when it was last heard from, for whoever watches over processes."""
        return self._dispatcher.processes

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _starter(self, to_learner: ToLearner, placement: Sequence[object]) -> Callable[[int], ActorHandle]:
        def start(number: int) -> ActorHandle:
            place = placement[number] if number < len(placement) else None
            return start_generator(self.config, to_learner, place)

        return start

    def _shortage(self, missing: int, waited: float) -> str:
        asked = {"CPU": self.config.num_cpus, "GPU": self.config.num_gpus, **self.config.resources}
        return (
            f"{missing} of {self.config.generators} generators found no place, or did not start, within {waited:g} s. "
            f"Each asks for {asked}; free on the cluster: {ray.available_resources()}. Lower generators, or what each "
            "asks for."
        )
