"""The pool's thread: requests from the replay actor to generators, and the references of their rows back to it.

Nothing is lost on the way: a crashed generator is restarted by Ray with the batches it had, which give the same rows
again (their seed travels with them), and what is unanswered at the end goes back to the replay's queue.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError

from atradiff.adaptation.served import ServedCount
from atradiff.replay.requests import GenerationRequest
from atradiff.serving import request_seed
from cluster.dispatch import LatencyWindow, Scaler
from cluster.generator_actor import Served, Ticket
from cluster.generator_fleet import GeneratorFleet
from cluster.pool_config import PoolConfig
from cluster.replay_actor import RowsLostError

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
    version: int
    """The one that was being served when it was sent."""
    rows: ray.ObjectRef
    given_up: bool = False


@dataclass
class _Counters:
    batches: int = 0
    requests: int = 0
    rows: int = 0
    own_rows: int = 0
    put_back: int = 0
    version: int = 0
    gpu_bytes: int = 0
    busy_seconds: float = 0.0


class PoolDispatcher:
    """Keeps the generators of ``fleet`` busy with the requests of ``replay`` until it is stopped.

    ``ticket`` names the weights of the batches to come; whoever replaces it may do so at any time. With
    ``needs_policy`` no requests are taken before it names a policy, too.
    """

    def __init__(
        self,
        fleet: GeneratorFleet,
        replay: ActorHandle,
        config: PoolConfig,
        requests_per_batch: int,
        seed: int,
        ticket: Ticket,
        *,
        needs_policy: bool = False,
    ) -> None:
        self.ticket = ticket
        self.error: Exception | None = None
        self._fleet = fleet
        self._replay: Any = replay
        self._needs_policy = needs_policy
        self._config, self._requests_per_batch, self._seed = config, requests_per_batch, seed
        self._scaler = None if config.rule is None else Scaler(config.rule)
        self._size = config.generators
        self._asked: ray.ObjectRef | None = None
        self._id, self._questions = uuid.uuid4().hex, itertools.count()
        self._status: ray.ObjectRef | None = None
        self._generating: dict[ray.ObjectRef, _Batch] = {}
        self._storing: dict[ray.ObjectRef, _Batch] = {}
        self._returning: list[ray.ObjectRef] = []
        self._next_look = 0.0
        self._made = ServedCount(ticket.version)
        self._counters, self._latency, self._service = _Counters(), LatencyWindow(), LatencyWindow()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._drain_seconds = 0.0

    def run(self) -> None:
        """Work until :meth:`stop` or an error, then hand back; the first error is kept."""
        for part in (self._serve, self._hand_back):
            try:
                part()
            except Exception as error:  # whatever it is, the run hears of it
                self.error = self.error or error

    def stop(self, drain_s: float) -> None:
        """Ask for no more requests; those that are in flight are waited for, at most ``drain_s``."""
        self._drain_seconds = drain_s
        self._stopping.set()

    def resize(self, generators: int) -> None:
        """Work with so many generators from the next turn on; those that go finish what they have."""
        with self._lock:
            self._size = generators

    @property
    def processes(self) -> list[int]:
        """The process of each generator when it was last heard from."""
        with self._lock:
            return self._fleet.processes

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
                "own_rows": counters.own_rows,
                "requests_put_back": counters.put_back,
                "restarts": fleet.restarts,
                "latency_p50_ms": 1e3 * self._latency.quantile(0.5),
                "latency_p99_ms": 1e3 * self._latency.quantile(0.99),
                "service_p50_ms": 1e3 * self._service.quantile(0.5),
                "busy_seconds": counters.busy_seconds,
                "version_published": self.ticket.version,
                "version_served": counters.version,
                "gpu_bytes": counters.gpu_bytes,
            }

    def share_of_original(self) -> dict[str, float]:
        """``original_share`` (group ``adapter``) of this pool's trajectories; empty while there is one version only."""
        with self._lock:
            return self._made.metrics()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except RowsLostError:  # with the requests; new ones come once the run has restored its replay
                self._stopping.wait(_TICK_SECONDS)

    def _turn(self) -> None:
        with self._lock:
            self._fleet.resize(self._size)
            self._ask()
            self._look()
            questions = [reference for reference in (self._asked, self._status) if reference is not None]
            waiting = [*self._generating, *questions, *self._storing, *self._returning, *self._fleet.starting]
        if not waiting:
            self._stopping.wait(_TICK_SECONDS)
            return
        ready, _ = ray.wait(waiting, num_returns=1, timeout=_TICK_SECONDS)
        with self._lock:
            for reference in ready:
                self._take(reference)

    def _ask(self) -> None:
        """Have one question for requests at the replay actor, as long as somebody could answer them."""
        if self._needs_policy and self.ticket.own is None:
            return
        if self._asked is None and (batches := self._fleet.roster.wanted()):
            limit, question = batches * self._requests_per_batch, f"{self._id}-{next(self._questions)}"
            self._asked = self._replay.wait_for_requests.remote(limit, _POLL_SECONDS, question)

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        for batch in self._generating.values():
            if not batch.given_up and now - batch.began > self._config.patience:
                batch.given_up = True  # should it be answered after all, and by nobody before, the replay takes that
                self._put_back(batch.requests)
        if self._scaler is not None and self._status is None:
            self._status = self._replay.status.remote()

    def _take(self, reference: ray.ObjectRef) -> None:
        if reference == self._asked:
            self._asked = None
            self._send_all(ray.get(reference))
        elif reference == self._status:
            self._status = None
            self._rescale(int(ray.get(reference)["oldest_request_age"]))
        elif reference in self._generating:
            self._pass_on(reference)
        elif reference in self._storing:
            self._finish(reference)
        elif reference in self._returning:
            self._returning.remove(reference)
            ray.get(reference)
        else:
            self._fleet.arrived(reference)

    def _send_all(self, requests: list[GenerationRequest]) -> None:
        for start in range(0, len(requests), self._requests_per_batch):
            number = self._fleet.roster.choose()
            if number is None:  # retired since the question was asked
                self._put_back(requests[start:])
                return
            self._send(number, requests[start : start + self._requests_per_batch])

    def _send(self, number: int, requests: list[GenerationRequest]) -> None:
        states = np.stack([request.state for request in requests])
        seed = request_seed(self._seed, requests[0])
        began, ticket = time.monotonic(), self.ticket
        rows, report = self._fleet.send(number, states, seed, ticket)
        self._generating[report] = _Batch(number, requests, began, ticket.version, rows)

    def _pass_on(self, reference: ray.ObjectRef) -> None:
        """A batch is generated: its rows go to the replay by reference, its report is counted."""
        batch = self._generating[reference]
        report: Served = self._fleet.read(batch.number, reference)
        del self._generating[reference]
        self._fleet.roster.ended(batch.number)
        self._fleet.heard_from(batch.number, report.process)
        self._storing[self._replay.store_synthetic.remote(batch.requests, batch.rows)] = batch
        self._service.add(report.seconds)
        self._made.add(batch.version, report.version, report.trajectories)
        self._counters.rows += report.rows
        self._counters.own_rows += report.own_rows
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
        """Not waited for: a replay without a place does not answer, and whoever asks for metrics would wait, too."""
        self._counters.put_back += len(requests)
        self._returning.append(self._replay.put_back.remote(requests))

    def _hand_back(self) -> None:
        """What is unanswered goes back to the queue, what is on its way into the replay arrives there."""
        unanswered = [] if self._asked is None else list(ray.get(self._asked, timeout=_FAREWELL_SECONDS))
        self._asked = None
        if self.error is None and self._generating:
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
        ray.get(self._returning, timeout=_FAREWELL_SECONDS)
