"""``python -m benchmarks.pool --json F``: how the generator pool scales, how long answers take, how soon it recovers.

The generator is a simulated device: it sleeps for 30 ms and returns rows of Hopper's widths, so that what is measured
is the pool itself (Ray, the dispatcher, the way of the rows), also on two cores. The replay is a stand-in, an actor
with the methods and threads of the replay actor and requests of the same kind: it hands them out as fast as they are
taken, or at given times, and notes when the answers are in, but does not keep them. All of it takes 4 to 5 ms of CPU
per batch (``cpu_ms_per_batch``), so that eight generators at 267 batches per second need more than half of two cores:
on a machine that does other work, latencies are those of its scheduler.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from atradiff.config import ServingConfig
from atradiff.replay.requests import GenerationRequest
from atradiff.types import FloatArray, Spaces, SyntheticRows, SyntheticTrajectories, Transitions
from benchmarks.figures import show
from benchmarks.ray_session import ray_session
from cluster.generator_pool import GeneratorPool
from cluster.pool_config import PoolConfig

HOPPER = Spaces(11, "continuous", (-1.0,) * 3, (1.0,) * 3)
SERVICE_SECONDS = 0.03
BATCH = 64
ROWS = 10
LOAD = 0.8
FULL_RATE = 0.95
STORING_SECONDS = 30.0
_Task = FloatArray | None


class SimulatedDevice:
    """Takes its time and returns trajectories of :data:`ROWS` rows."""

    spaces, version, starts_at_states = HOPPER, 0, True

    def __init__(self) -> None:
        zeros = np.zeros((BATCH, ROWS), np.float32)
        actions = np.zeros((BATCH, ROWS, 3), np.float32)
        states = np.random.default_rng(0).standard_normal((BATCH, ROWS + 1, 11), np.float32)
        self._made = SyntheticTrajectories(states, actions, zeros, zeros > 0, np.full(BATCH, ROWS), 0)

    def generate(self, states: FloatArray, task: _Task = None, *, generator_seed: int) -> SyntheticTrajectories:  # noqa: ARG002
        """The same trajectories each time, after ``SERVICE_SECONDS`` of sleep."""
        time.sleep(SERVICE_SECONDS)
        return self._made


def unchanged(rows: Transitions) -> Transitions:
    return rows


class LoadSource:
    """The replay actor's side of the pool: batch k is there from ``arrivals[k]`` on (seconds after :meth:`begin`).

    Without ``arrivals`` there is always another batch.
    """

    def __init__(self) -> None:
        self._states = list(np.random.default_rng(1).standard_normal((BATCH, 11), np.float32))
        self.begin(None)

    def begin(self, arrivals: Sequence[float] | None) -> None:
        """Forget what was; the clock starts now. An answer to an older batch is not counted."""
        self._first = getattr(self, "_next", 0)
        self._next = self._first
        self._arrivals = arrivals
        self._began = time.perf_counter()
        self._due: dict[int, float] = {}
        self._returned: list[list[GenerationRequest]] = []
        self._finished: list[tuple[float, float]] = []

    @ray.method(concurrency_group="waiting")
    def wait_for_requests(self, limit: int, timeout_s: float, question: str) -> list[GenerationRequest]:  # noqa: ARG002
        """Whole batches, at most ``limit`` requests; waits ``timeout_s`` at most for the first to be due."""
        if self._returned:
            return self._returned.pop()
        taken: list[GenerationRequest] = []
        time.sleep(min(max(self._seconds_to_next(), 0.0), timeout_s))
        while len(taken) + BATCH <= limit and self._seconds_to_next() <= 0:
            taken += self._take()
        return taken

    def _seconds_to_next(self) -> float:
        k = (self._next - self._first) // BATCH
        if self._arrivals is None:
            return 0.0
        return self._arrivals[k] - self.now() if k < len(self._arrivals) else math.inf

    def _take(self) -> list[GenerationRequest]:
        k, ids = (self._next - self._first) // BATCH, range(self._next, self._next + BATCH)
        self._next += BATCH
        self._due[ids[0]] = self.now() if self._arrivals is None else self._arrivals[k]
        return [GenerationRequest(i, 0, state) for i, state in zip(ids, self._states, strict=True)]

    @ray.method(concurrency_group="answers")
    def put_back(self, requests: list[GenerationRequest]) -> None:
        """Hand these out again, first of all."""
        self._returned += [requests[i : i + BATCH] for i in range(0, len(requests), BATCH)]

    @ray.method(concurrency_group="answers")
    def store_synthetic(self, requests: list[GenerationRequest], made: SyntheticRows) -> int:
        """Note when a batch was answered; a second answer does not count. Returns its rows."""
        due = self._due.pop(requests[0].request_id, None)
        if due is not None:
            self._finished.append((time.perf_counter() - self._began, due))
        return len(made.rows)

    def finished(self) -> list[tuple[float, float]]:
        """(answered, due) of each batch so far, in seconds after :meth:`begin`."""
        return list(self._finished)  # a copy: answers go on coming while it travels

    def unanswered(self) -> int:
        """Batches that were handed out and are not answered."""
        return len(self._due)

    def close(self) -> None:
        """No more batches; those that are handed out may be answered."""
        self._arrivals = []

    def process(self) -> int:
        """Its process, to read CPU time of."""
        return os.getpid()

    def now(self) -> float:
        """Seconds after :meth:`begin`."""
        return time.perf_counter() - self._began


@dataclass(frozen=True)
class Bench:
    """A pool at work over a source."""

    pool: GeneratorPool
    source: Any

    def resize(self, generators: int) -> None:
        """Return once so many generators are at work."""
        self.pool.scale(generators)
        while self.pool.metrics()["size"] != generators or self.pool.metrics()["starting"] > 0:
            time.sleep(0.1)

    def finished(self) -> list[tuple[float, float]]:
        """See :meth:`LoadSource.finished`; raises what broke the pool."""
        self.pool.check()
        return ray.get(self.source.finished.remote())

    def rate(self, seconds: float) -> float:
        """Batches per second with requests always at hand; the first half second does not count."""
        ray.get(self.source.begin.remote(None))
        time.sleep(seconds + 0.5)
        times = np.array([answered for answered, _ in self.finished()])
        return float(((times >= 0.5) & (times < 0.5 + seconds)).sum() / seconds)

    def latencies(self, arrivals: Sequence[float]) -> FloatArray:
        """Seconds from each batch's arrival until its rows were stored."""
        ray.get(self.source.begin.remote(arrivals))
        while len(self.finished()) < len(arrivals):
            time.sleep(0.2)
        return np.array([answered - due for answered, due in self.finished()], np.float32)

    def cpu_seconds(self) -> dict[str, float]:
        """What the driver, the stand-in and the generators have used so far."""
        processes = {
            "driver": [os.getpid()],
            "replay": [ray.get(self.source.process.remote())],
            "generators": self.pool.processes(),
        }
        return {name: sum(map(cpu_seconds, members)) for name, members in processes.items()}

    def service_seconds(self) -> float:
        """Median time in which a generator answers a batch."""
        return self.pool.metrics()["service_p50_ms"] / 1e3


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far, as Linux tells it."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def even_arrivals(rate: float, seconds: float, rng: np.random.Generator) -> list[float]:
    """One batch per interval, at a random moment of its middle half: many env runners that step steadily."""
    n = int(rate * seconds)
    return ((np.arange(n) + rng.uniform(0.25, 0.75, n)) / rate).tolist()


def poisson_arrivals(rate: float, seconds: float, rng: np.random.Generator) -> list[float]:
    """Batches that know nothing of each other: the hardest case."""
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds))).tolist()


def latency_figures(seconds: FloatArray, service: float) -> dict[str, float]:
    """Quantiles of ``seconds`` (batches,) in milliseconds, and the 99th over the time of ``service``."""
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"p50_ms": 1e3 * float(p50), "p99_ms": 1e3 * float(p99), "p99_over_service_time": float(p99) / service}


def measure_scaling(bench: Bench, most: int, seconds: float) -> dict[str, Any]:
    """Rates at 1 and ``most`` generators, and the CPU time per batch at ``most``."""
    bench.resize(1)
    alone = bench.rate(seconds)
    bench.resize(most)
    before, batches = bench.cpu_seconds(), bench.pool.metrics()["batches"]
    together = bench.rate(seconds)
    batches = max(bench.pool.metrics()["batches"] - batches, 1)
    cpu = {name: 1e3 * (used - before[name]) / batches for name, used in bench.cpu_seconds().items()}
    return {
        "batches_per_second": {"1": alone, str(most): together},
        "scaling_efficiency": together / (most * alone),
        "cpu_ms_per_batch": cpu | {"all": sum(cpu.values())},
    }


def measure_latency(bench: Bench, capacity: float, seconds: float) -> dict[str, Any]:
    """At :data:`LOAD` of the ``capacity`` (batches per second) just measured; the bar is on even arrivals."""
    service = bench.service_seconds()
    rate, rng = LOAD * capacity, np.random.default_rng(2)
    even = latency_figures(bench.latencies(even_arrivals(rate, seconds, rng)), service)
    poisson = latency_figures(bench.latencies(poisson_arrivals(rate, seconds, rng)), service)
    return {
        "offered_batches_per_second": rate,
        "service_ms": 1e3 * service,
        "p99_over_service_time": even["p99_over_service_time"],
        "even": even,
        "poisson": poisson,
    }


def measure_recovery(bench: Bench, generators: int, seconds: float) -> dict[str, float]:
    """SIGKILL to one generator under full load: seconds until the rate is back, and batches never answered."""
    bench.resize(generators)
    normal = bench.rate(2.0)
    killed = ray.get(bench.source.now.remote())
    os.kill(bench.pool.processes()[0], signal.SIGKILL)
    time.sleep(seconds)
    times = np.array([answered for answered, _ in bench.finished()])
    ray.get(bench.source.close.remote())
    while bench.pool.metrics()["in_flight"] > 0:
        time.sleep(0.1)
    deadline = time.monotonic() + STORING_SECONDS
    while ray.get(bench.source.unanswered.remote()) and time.monotonic() < deadline:
        time.sleep(0.1)  # what was generated last is being stored
    return {
        "recovery_seconds": recovery_seconds(times, killed, normal),
        "batches_lost": ray.get(bench.source.unanswered.remote()),
        "restarts": bench.pool.metrics()["restarts"],
    }


def recovery_seconds(times: FloatArray, killed: float, normal: float, span: float = 1.0) -> float:
    """From the kill to the start of the first ``span`` seconds at :data:`FULL_RATE` of ``normal``; nan: not seen."""
    for start in np.arange(killed, times.max(initial=killed) - span, 0.05):
        if ((times >= start) & (times < start + span)).sum() >= FULL_RATE * normal * span:
            return float(start - killed)
    return float("nan")


def measure(most: int, seconds: float, recovery_seconds: float) -> dict[str, Any]:
    """Batches per second up to ``most`` generators, latencies, recovery from a kill; ``seconds`` for each of them."""
    # As in the replay actor, who waits for requests does not keep answers from going in.
    groups = {"waiting": 1, "answers": 1}
    source = ray.remote(num_cpus=0, concurrency_groups=groups)(LoadSource).remote()
    config = PoolConfig(generators=1, num_cpus=0.1, num_gpus=0.0)
    with GeneratorPool(SimulatedDevice(), source, config, ServingConfig(BATCH), 0, unchanged) as pool:
        bench = Bench(pool, source)
        figures: dict[str, Any] = {"generators": most, "requests_per_batch": BATCH, "rows_per_batch": BATCH * ROWS}
        figures |= measure_scaling(bench, most, seconds)
        figures |= measure_latency(bench, figures["batches_per_second"][str(most)], seconds)
        figures |= measure_recovery(bench, min(most, 2), recovery_seconds)
    return figures


def main() -> None:
    """Print the figures of :func:`measure`; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--generators", type=int, default=8, help="generators to scale to")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    args = parser.parse_args()
    with ray_session():
        figures = measure(args.generators, args.seconds, max(args.seconds, 8.0))
    show(figures, args.json)


if __name__ == "__main__":
    main()
