"""The generator pool: takes requests from the replay actor, has them answered, and passes the answers on unseen.

    replay --requests--> pool (a thread of the driver) --states--> generator actors --rows, by reference--> replay

Nothing is lost on the way: a crashed generator is restarted by Ray with the batches it had, which give the same rows
again (their seed travels with them), and what is unanswered when the pool stops goes back to the replay's queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError

from atradiff.config import ServingConfig
from atradiff.ports import TrajectoryGenerator
from atradiff.replay.requests import GenerationRequest
from atradiff.serving import request_seed
from cluster.dispatch import LatencyWindow, Scaler
from cluster.generator_actor import Adaptable, Movable, Served, ToLearner, Weights, WeightsTicket, start_generator
from cluster.generator_fleet import GeneratorFleet
from cluster.pool_config import PoolConfig

_TICK_SECONDS = 0.1
"""At the latest then a new size or the end is noticed."""
_LOOK_SECONDS = 1.0
"""Between two looks at what takes its time: late batches, the age of the queue."""
_POLL_SECONDS = 0.5
"""For so long the replay actor keeps a question for requests before it answers that there are none."""
_FAREWELL_SECONDS = 60.0
"""For answers of the replay actor at the end; it may be restarting just then."""


@dataclass
class _Batch:
    """Requests on their way through one generator."""

    number: int
    requests: list[GenerationRequest]
    began: float
    rows: ray.ObjectRef
    given_up: bool = False


@dataclass
class _Counters:
    batches: int = 0
    requests: int = 0
    rows: int = 0
    put_back: int = 0
    version: int = 0
    gpu_bytes: int = 0
    busy_seconds: float = 0.0


class GeneratorPool:
    """N generator actors and the thread that keeps them busy. Made where Ray is connected; a context manager.

    Args:
        generator: Copied to each actor, and to its GPU where it has one.
        replay: Handle of an actor with ``wait_for_requests``, ``store_synthetic``, ``put_back`` and, for a pool that
            scales by itself, ``status``: see :class:`cluster.replay_actor.ReplayActor`.
        config: How many, and what each gets. Raises ``ValueError`` where the cluster has no such resource.
        serving: Requests per batch.
        seed: The run's: seeds of batches follow from it.
        to_learner: Brings rows to the learner's action scale.
        placement: A Ray scheduling strategy for each of the first actors; those beyond go where Ray likes.
        on_error: Called from the pool's thread with what ended it; :meth:`check` raises the same.
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
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.config = config.on(ray.cluster_resources())
        self._generator = generator.on("cpu") if isinstance(generator, Movable) else generator
        self._replay: Any = replay
        self._serving, self._seed, self._on_error = serving, seed, on_error
        self._ticket = self._first_ticket()
        self._fleet = GeneratorFleet(self.config.in_flight, self._starter(to_learner, placement or ()))
        self._scaler = None if self.config.rule is None else Scaler(self.config.rule)
        self._size = self.config.generators
        self._asked: ray.ObjectRef | None = None
        self._status: ray.ObjectRef | None = None
        self._generating: dict[ray.ObjectRef, _Batch] = {}
        self._storing: dict[ray.ObjectRef, _Batch] = {}
        self._next_look = 0.0
        self._counters, self._latency, self._service = _Counters(), LatencyWindow(), LatencyWindow()
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._drain_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="generator-pool", daemon=True)

    def start(self, timeout_s: float = 120.0) -> None:
        """Start the generators and serve once all of them are ready.

        Raises :class:`GeneratorError` where one cannot be built, ``TimeoutError`` where one finds no place.
        """
        try:
            self._fleet.resize(self._size)
            ready, missing = ray.wait(self._fleet.starting, num_returns=self._size, timeout=timeout_s)
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
        self._drain_seconds = drain_s
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._fleet.end()

    def check(self) -> None:
        """Raise what ended the pool's thread, if anything did."""
        if self._error is not None:
            raise self._error

    def scale(self, generators: int) -> None:
        """Go to this many generators: new ones start, surplus ones finish what they have and end."""
        if generators < 1:
            raise ValueError(f"the pool needs at least 1 generator, got {generators}.")
        with self._lock:
            self._size = generators

    def publish(self, version: int, weights: Weights) -> None:
        """From the next batch on, generate with ``weights``; a batch in flight keeps those it was sent with.

        Raises ``ValueError``, and changes nothing, for weights that do not fit and for a version that is not newer.
        """
        if not isinstance(self._generator, Adaptable):
            raise ValueError(f"a {type(self._generator).__name__} has no weights to replace.")
        if version <= self._ticket.version:
            raise ValueError(f"version must rise above {self._ticket.version}, which is being served, got {version}.")
        self._generator.check_weights(weights)
        self._ticket = WeightsTicket(version, ray.put(dict(weights)))

    def metrics(self) -> dict[str, float]:
        """Counters and gauges of this moment, by the names of docs/metrics.md (group ``pool``)."""
        with self._lock:
            counters, fleet = self._counters, self._fleet
            return {
                "size": len(fleet),
                "starting": len(fleet.starting),
                "in_flight": fleet.roster.in_flight,
                "batches": counters.batches,
                "requests_answered": counters.requests,
                "rows": counters.rows,
                "requests_put_back": counters.put_back,
                "restarts": fleet.restarts,
                "latency_p50_ms": 1e3 * self._latency.quantile(0.5),
                "latency_p99_ms": 1e3 * self._latency.quantile(0.99),
                "service_p50_ms": 1e3 * self._service.quantile(0.5),
                "busy_seconds": counters.busy_seconds,
                "version_published": self._ticket.version,
                "version_served": counters.version,
                "gpu_bytes": counters.gpu_bytes,
            }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _first_ticket(self) -> WeightsTicket:
        """The original weights have a place as well: an old batch that Ray repeats may meet a newer generator."""
        place = ray.put(dict(self._generator.weights())) if isinstance(self._generator, Adaptable) else None
        return WeightsTicket(self._generator.version, place)

    def _starter(self, to_learner: ToLearner, placement: Sequence[object]) -> Callable[[int], ActorHandle]:
        stored = ray.put(self._generator)

        def start(number: int) -> ActorHandle:
            place = placement[number] if number < len(placement) else None
            return start_generator(self.config, stored, to_learner, place)

        return start

    def _shortage(self, missing: int, waited: float) -> str:
        asked = {"CPU": self.config.num_cpus, "GPU": self.config.num_gpus, **self.config.resources}
        return (
            f"{missing} of {self._size} generators found no place, or did not start, within {waited:g} s. Each asks "
            f"for {asked}; free on the cluster: {ray.available_resources()}. Lower generators, or what each asks for."
        )

    def processes(self) -> list[int]:
        """The process of each generator when it was last heard from, for whoever watches over processes."""
        with self._lock:
            return self._fleet.processes

    # The rest runs in the pool's thread.

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
        except Exception as error:  # whatever it is, the run hears of it
            self._fail(error)
        try:
            self._hand_back()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            if self._on_error is not None:
                self._on_error(error)

    def _turn(self) -> None:
        with self._lock:
            self._fleet.resize(self._size)
            self._ask()
            self._look()
            questions = [reference for reference in (self._asked, self._status) if reference is not None]
            waiting = [*self._generating, *questions, *self._storing, *self._fleet.starting]
        if not waiting:
            self._stopping.wait(_TICK_SECONDS)
            return
        ready, _ = ray.wait(waiting, num_returns=1, timeout=_TICK_SECONDS)
        with self._lock:
            for reference in ready:
                self._take(reference)

    def _ask(self) -> None:
        """Have one question for requests at the replay actor, as long as somebody could answer them."""
        if self._asked is None and self._fleet.roster.choose() is not None:
            self._asked = self._replay.wait_for_requests.remote(self._serving.requests_per_batch, _POLL_SECONDS)

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        for batch in self._generating.values():
            if not batch.given_up and now - batch.began > self.config.patience:
                batch.given_up = True  # should it be answered after all, the replay knows whether it still wants it
                self._put_back(batch.requests)
        if self._scaler is not None and self._status is None:
            self._status = self._replay.status.remote()

    def _take(self, reference: ray.ObjectRef) -> None:
        if reference == self._asked:
            self._asked = None
            self._send(ray.get(reference))
        elif reference == self._status:
            self._status = None
            self._rescale(int(ray.get(reference)["oldest_request_age"]))
        elif reference in self._generating:
            self._pass_on(reference)
        elif reference in self._storing:
            self._finish(reference)
        else:
            self._fleet.arrived(reference)

    def _send(self, requests: list[GenerationRequest]) -> None:
        if not requests:
            return
        number = self._fleet.roster.choose()
        if number is None:  # retired since the question was asked
            self._put_back(requests)
            return
        states = np.stack([request.state for request in requests])
        seed = request_seed(self._seed, requests[0])
        began = time.monotonic()
        rows, report = self._fleet.send(number, states, seed, self._ticket)
        self._generating[report] = _Batch(number, requests, began, rows)

    def _pass_on(self, reference: ray.ObjectRef) -> None:
        """A batch is generated: its rows go to the replay by reference, its report is counted."""
        batch = self._generating[reference]
        report: Served = self._fleet.read(batch.number, reference)
        del self._generating[reference]
        self._fleet.roster.ended(batch.number)
        self._fleet.heard_from(batch.number, report.process)
        self._storing[self._replay.store_synthetic.remote(batch.requests, batch.rows)] = batch
        self._service.add(report.seconds)
        self._counters.rows += report.rows
        self._counters.busy_seconds += report.seconds
        self._counters.version, self._counters.gpu_bytes = report.version, report.gpu_bytes

    def _finish(self, reference: ray.ObjectRef) -> None:
        batch = self._storing.pop(reference)
        try:
            ray.get(reference, timeout=_FAREWELL_SECONDS)
        except ObjectLostError:  # the rows went down with their node
            self._put_back(batch.requests)
            return
        self._latency.add(time.monotonic() - batch.began)
        self._counters.batches += 1
        self._counters.requests += len(batch.requests)

    def _rescale(self, age: int) -> None:
        if self._scaler is not None:
            peak = self._fleet.roster.take_peak()
            self._size = self._scaler.size(time.monotonic(), self._size, age, peak)

    def _put_back(self, requests: list[GenerationRequest]) -> None:
        self._counters.put_back += len(requests)
        ray.get(self._replay.put_back.remote(requests))

    def _hand_back(self) -> None:
        """What is unanswered goes back to the queue, what is on its way into the replay arrives there."""
        unanswered = [] if self._asked is None else list(ray.get(self._asked, timeout=_FAREWELL_SECONDS))
        self._asked = None
        if self._error is None and self._generating:
            waiting = list(self._generating)
            for reference in ray.wait(waiting, num_returns=len(waiting), timeout=self._drain_seconds)[0]:
                self._pass_on(reference)
        for batch in self._generating.values():
            unanswered += [] if batch.given_up else batch.requests
        self._generating.clear()
        if unanswered:
            self._put_back(unanswered)
        for reference in list(self._storing):
            self._finish(reference)
