"""The replay actor as its users see it: a learner's :class:`RemoteReplay`, an env runner's :class:`ActorRowSink`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError

from atradiff.ports import EpisodeRows, RowSink
from atradiff.replay.batch import ReplayBatch
from atradiff.types import FloatArray
from cluster.ray_runtime import answer_of
from cluster.replay_actor import ReplayActorConfig
from cluster.shared_folder import read_from, write_into


@dataclass(frozen=True)
class ActorRowSink:
    """Puts an env runner's rows straight into the replay actor; an :class:`atradiff.ports.RowSink`."""

    actor: ActorHandle

    def push(self, chunk: EpisodeRows) -> None:
        """Return once the rows are in the actor, and in its journal where it has one.

        Waits while the actor restarts: Ray sends the chunk again, and the actor knows it by its name.
        """
        ray.get(self.actor.store.remote(chunk))


class RemoteReplay:
    """The replay actor behind ``actor``; an :class:`atradiff.ports.ReplayService`.

    While a learner works on its batches the next ones are on their way: rows that were stored in between are first
    seen some batches later (``config.prefetch``). ``raise_errors`` is called by :meth:`serve` and raises what went
    wrong in those who answer requests.
    """

    def __init__(
        self,
        actor: ActorHandle,
        config: ReplayActorConfig | None = None,
        raise_errors: Callable[[], None] | None = None,
    ) -> None:
        config = config or ReplayActorConfig()
        self._actor = actor
        self._batches = _Prefetch(actor, config.prefetch, config.batches_per_call)
        self._reports = _Unacknowledged(config.unacknowledged)
        self._raise_errors = raise_errors
        self._began = time.perf_counter()
        self._process: float | None = None
        self._restarts = 0

    @property
    def env_steps(self) -> int:
        """Real rows stored since the first step of the run, by everybody: asks the actor (under a millisecond)."""
        return int(ray.get(self._actor.env_steps.remote()))

    @property
    def sink(self) -> RowSink:
        return ActorRowSink(self._actor)

    def store(self, chunk: EpisodeRows) -> None:
        """Algorithm 1, Store, in the learner's action scale; returns once the rows are safe."""
        ray.get(self._actor.store.remote(chunk))

    def serve(self) -> None:
        """Raise what those who answer requests could not deal with; the answers themselves come without being asked."""
        if self._raise_errors is not None:
            self._raise_errors()

    def sample(self, count: int, batch_size: int) -> list[ReplayBatch]:
        """``count`` batches of ``batch_size`` rows; their arrays are read-only and shared with nobody."""
        return self._batches.take(count, batch_size)

    def report_td_errors(self, batches: list[ReplayBatch], td_errors: FloatArray) -> None:
        """Send absolute TD errors (count, B) on their way; raises what an earlier report met."""
        row_ids = np.concatenate([batch.row_ids for batch in batches])
        origins = np.concatenate([batch.origins for batch in batches])
        self._reports.add(self._actor.report_td_errors.remote(row_ids, origins, np.ravel(td_errors)))

    def metrics(self) -> dict[str, float]:
        """Those of the actor, how long this learner waited for batches since it began, and the restarts it saw."""
        lived = time.perf_counter() - self._began
        status: dict[str, float] = ray.get(self._actor.status.remote())
        process, waited = status.pop("process"), self._batches.seconds_waited
        self._restarts += self._process not in (None, process)
        self._process = process
        return status | {
            "learner_wait": waited,
            "learner_wait_share": waited / lived,
            "restarts": self._restarts,
        }

    def save(self, folder: Path) -> None:
        """Have the actor write everything into ``folder``; waits for reports under way first.

        Raises ``OSError`` where it is on a machine without that folder.
        """
        self.settle()
        write_into(folder, lambda target: answer_of(self._actor.write.remote(target)))

    def load(self, folder: Path) -> None:
        """Have the actor become what :meth:`save` wrote; batches sampled before are forgotten."""
        read_from(folder, lambda part: answer_of(self._actor.read.remote(part)))
        self.forget()

    def settle(self) -> None:
        """Wait until every report is with the actor; raises what one of them met."""
        self._reports.wait()

    def forget(self) -> None:
        """Drop the batches that were sampled ahead: the actor holds other rows now."""
        self._batches.forget()

    def close(self) -> None:
        """Wait for the reports under way. The actor belongs to whoever started it."""
        self.settle()
        self.forget()


class _Prefetch:
    """Batches of one size that were asked for before they are needed."""

    def __init__(self, actor: ActorHandle, ahead: int, per_call: int) -> None:
        self._actor, self._ahead, self._per_call = actor, ahead, per_call
        self._calls: deque[tuple[Any, int]] = deque()  # references to answers, and how many batches each holds
        self._ready: deque[ReplayBatch] = deque()
        self._batch_size = 0
        self.seconds_waited = 0.0

    def take(self, count: int, batch_size: int) -> list[ReplayBatch]:
        """``count`` batches of ``batch_size`` rows, asked for ahead; those of another size are forgotten."""
        began = time.perf_counter()
        if batch_size != self._batch_size:
            self.forget()
            self._batch_size = batch_size
        self._ask(count)
        while len(self._ready) < count:
            self._ready.extend(self._next_answer())
        taken = [self._ready.popleft() for _ in range(count)]
        self._ask(self._ahead)
        self.seconds_waited += time.perf_counter() - began
        return taken

    def forget(self) -> None:
        self._calls.clear()
        self._ready.clear()

    def _ask(self, wanted: int) -> None:
        """Have at least ``wanted`` batches here or on their way."""
        coming = len(self._ready) + sum(batches for _, batches in self._calls)
        while coming < wanted:
            batches = min(self._per_call, wanted - coming) if self._ahead == 0 else self._per_call
            self._calls.append((self._actor.sample.remote(batches, self._batch_size), batches))
            coming += batches

    def _next_answer(self) -> Iterator[ReplayBatch]:
        reference, batches = self._calls.popleft()
        try:
            answer: ReplayBatch = ray.get(reference)
        except ObjectLostError:  # with its node: others will do
            answer = ray.get(self._actor.sample.remote(batches, self._batch_size))
        for i in range(batches):
            rows = slice(i * self._batch_size, (i + 1) * self._batch_size)
            yield ReplayBatch(answer.transitions[rows], answer.row_ids[rows], answer.origins[rows])


class _Unacknowledged:
    """Calls whose answers nobody needs, but whose errors must not be lost; at most ``limit`` are under way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: deque[Any] = deque()

    def add(self, call: Any) -> None:
        """Keep ``call`` in mind; raise what an earlier one raised, and wait for the oldest where too many are open."""
        self._calls.append(call)
        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        while self._calls and (self._calls[0] in done or len(self._calls) > self._limit):
            ray.get(self._calls.popleft())

    def wait(self) -> None:
        while self._calls:
            ray.get(self._calls.popleft())
