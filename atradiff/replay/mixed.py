"""Algorithm 1 of ATraDiff: a replay buffer D = (D_s, D_o, rho, L) that asks for trajectories as it fills."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atradiff.replay.ring import Column, ColumnRing, transition_columns
from atradiff.types import BoolArray, FloatArray, IntArray, Spaces, Transitions

_STATE_FILE = "replay.json"
_QUEUE_FILE = "queue.npz"
_LEAST_WEIGHT = 0.01
"""Of one trajectory in the moving average of lengths; the first hundred are averaged plainly: L is right soon."""


@dataclass(frozen=True)
class ReplayConfig:
    """rho is the share of synthetic rows in a batch (paper 4.2; it gives no value, SynthER's is 0.5).

    ``rho_end`` and ``rho_decay_steps`` change it linearly over that many env steps. ``expected_length`` is the paper's
    L; None keeps a moving average of the actual lengths. ``max_request_age`` (env steps): older replies are dropped.
    """

    capacity: int = 1_000_000
    rho: float = 0.5
    rho_end: float | None = None
    rho_decay_steps: int = 0
    expected_length: float | None = None
    split: Literal["binomial", "exact"] = "binomial"
    max_request_age: int = 10_000

    def __post_init__(self) -> None:
        for name, rho in (("rho", self.rho), ("rho_end", self.rho_end)):
            if rho is not None and not 0 <= rho < 1:
                raise ValueError(
                    f"{name} must lie in [0, 1), got {rho}: with 1 no real row would ever be learned from."
                )
        if self.rho_end is not None and self.rho_decay_steps < 1:
            raise ValueError(f"rho_end={self.rho_end} needs rho_decay_steps >= 1, got {self.rho_decay_steps}.")
        if self.expected_length is not None and self.expected_length < 1:
            raise ValueError(f"expected_length must be at least 1 transition, got {self.expected_length}.")
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1 transition, got {self.capacity}.")
        if self.split not in ("binomial", "exact"):
            raise ValueError(f"split must be 'binomial' or 'exact', got {self.split!r}.")
        if self.max_request_age < 0:
            raise ValueError(f"max_request_age must be at least 0 env steps, got {self.max_request_age}.")

    def rho_at(self, env_step: int) -> float:
        """The synthetic share after ``env_step`` env steps."""
        if self.rho_end is None:
            return self.rho
        return self.rho + (self.rho_end - self.rho) * min(env_step / self.rho_decay_steps, 1.0)

    @property
    def synthetic_capacity(self) -> int:
        """|D_s| such that the size ratio of full rings is rho / (1 - rho), as algorithm 1 keeps it."""
        rho = max(self.rho, self.rho_end or 0.0)
        return max(round(self.capacity * rho / (1 - rho)), 1)


@dataclass(frozen=True)
class GenerationRequest:
    """A trajectory is wanted from ``state`` (S,); ``request_id`` counts requests, ``requested_at`` is an env step."""

    request_id: int
    requested_at: int
    state: FloatArray


@dataclass(frozen=True)
class ReplayBatch:
    """B sampled rows: the real ones first, then the synthetic ones. Ids are those of each row's own ring."""

    transitions: Transitions
    row_ids: IntArray  # (B,)
    synthetic: BoolArray  # (B,)


@dataclass
class ReplayCounters:
    """Everything that went in or out, since the first step of the run."""

    env_steps: int = 0
    requests: int = 0
    requests_dropped: int = 0
    trajectories: int = 0
    sampled_real: int = 0
    sampled_synthetic: int = 0


class MixedReplay:
    """Real rows D_o and synthetic rows D_s, mixed when sampled. Plain numpy, one process, reproducible from its seed.

    Rows are in whatever action scale the learner uses: the caller converts before it stores.
    """

    def __init__(self, spaces: Spaces, config: ReplayConfig, seed: int, initial_length: float = 10.0) -> None:
        columns = transition_columns(spaces)
        self.config = config
        self.real = ColumnRing(columns, config.capacity)
        self.synthetic = ColumnRing(
            {**columns, "generator_version": Column("int32"), "created_at": Column("int64")}, config.synthetic_capacity
        )
        self.counters = ReplayCounters()
        self._columns = columns
        self._rng = np.random.default_rng(seed)
        self._queue: deque[GenerationRequest] = deque()
        self._deficit = 0
        self._mean_length = config.expected_length or initial_length

    def __len__(self) -> int:
        return len(self.real)

    @property
    def expected_length(self) -> float:
        """L: the fixed value of the config, or the moving average of the lengths that were stored."""
        return self.config.expected_length or self._mean_length

    @property
    def rho(self) -> float:
        return self.config.rho_at(self.counters.env_steps)

    @property
    def pending(self) -> int:
        """Requests that nobody has taken yet."""
        return len(self._queue)

    @property
    def oldest_request_age(self) -> int:
        """Env steps since the oldest queued request, 0 with an empty queue."""
        return self.counters.env_steps - self._queue[0].requested_at if self._queue else 0

    def store(self, rows: Transitions) -> IntArray:
        """Algorithm 1, Store: put n rows into D_o and queue requests from their next states; returns the row ids."""
        row_ids = self.real.add(dict(rows.items()))
        self._queue_requests(rows)
        self.counters.env_steps += len(rows)
        return row_ids

    def take_requests(self, limit: int) -> list[GenerationRequest]:
        """The oldest requests, at most ``limit``; they are the caller's from now on."""
        return [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]

    def put_back(self, requests: list[GenerationRequest]) -> None:
        """Return taken requests to the head of the queue (their generation was interrupted)."""
        self._queue.extendleft(reversed(requests))

    def store_synthetic(
        self, requests: list[GenerationRequest], rows: Transitions, lengths: IntArray, generator_version: int
    ) -> int:
        """Put the answers to ``requests`` into D_s and return the number of rows that went in.

        ``rows`` are the trajectories end to end, ``lengths`` (one per request) theirs. Answers to requests older than
        ``max_request_age`` env steps are dropped and counted.
        """
        if len(requests) != len(lengths) or int(np.sum(lengths)) != len(rows):
            raise ValueError(
                f"{len(requests)} requests, {len(lengths)} lengths that sum to {int(np.sum(lengths))} and {len(rows)} "
                "rows do not belong together."
            )
        oldest = self.counters.env_steps - self.config.max_request_age
        fresh = np.array([request.requested_at >= oldest for request in requests], bool)
        kept = rows[np.repeat(fresh, lengths)]
        self.synthetic.add(
            {
                **dict(kept.items()),
                "generator_version": np.full(len(kept), generator_version, np.int32),
                "created_at": np.full(len(kept), self.counters.env_steps, np.int64),
            }
        )
        for n, length in enumerate(lengths[fresh], start=self.counters.trajectories + 1):
            weight = max(1 / n, _LEAST_WEIGHT)
            self._mean_length += weight * (float(length) - self._mean_length)
        self.counters.trajectories += int(fresh.sum())
        self.counters.requests_dropped += int((~fresh).sum())
        return len(kept)

    def sample(self, batch_size: int) -> ReplayBatch:
        """Algorithm 1, Sample: each row is synthetic with probability rho; an empty D_s falls back to D_o."""
        if len(self.real) == 0:
            raise ValueError("the replay buffer is empty: store real transitions before sampling.")
        n_synthetic = self._synthetic_share(batch_size)
        n_real = batch_size - n_synthetic
        out = {name: np.empty((batch_size, *c.shape), c.dtype) for name, c in self._columns.items()}
        row_ids = np.empty(batch_size, np.int64)
        for ring, part in ((self.real, slice(0, n_real)), (self.synthetic, slice(n_real, batch_size))):
            n = part.stop - part.start
            if n:
                slots = self._rng.integers(len(ring), size=n)
                ring.take(slots, {name: column[part] for name, column in out.items()})
                row_ids[part] = ring.ids_of(slots)
        self.counters.sampled_real += n_real
        self.counters.sampled_synthetic += n_synthetic
        return ReplayBatch(Transitions(**out), row_ids, np.arange(batch_size) >= n_real)

    def save(self, folder: Path) -> None:
        """Write both rings, the queue, the counters and the random state into ``folder``."""
        self.real.save(folder / "real")
        self.synthetic.save(folder / "synthetic")
        np.savez(folder / _QUEUE_FILE, **self._queue_arrays())  # type: ignore[arg-type]
        state = {
            "counters": asdict(self.counters),
            "deficit": self._deficit,
            "mean_length": self._mean_length,
            "rng": self._rng.bit_generator.state,
        }
        (folder / _STATE_FILE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote. Raises ``ValueError`` where rings differ, ``OSError`` where files lack."""
        state = json.loads((folder / _STATE_FILE).read_text())
        with np.load(folder / _QUEUE_FILE, allow_pickle=False) as arrays:
            queue = [
                GenerationRequest(int(i), int(at), s)
                for i, at, s in zip(arrays["request_id"], arrays["requested_at"], arrays["state"], strict=True)
            ]
        self.real.load(folder / "real")
        self.synthetic.load(folder / "synthetic")
        self._queue = deque(queue)
        self.counters = ReplayCounters(**state["counters"])
        self._deficit = state["deficit"]
        self._mean_length = state["mean_length"]
        self._rng.bit_generator.state = state["rng"]

    def _queue_requests(self, rows: Transitions) -> None:
        """Requests per row: rate p = rho / ((1 - rho) L), which may exceed 1: floor(p) plus a Bernoulli of the rest.

        A terminal s' has no future to imagine: what it was due is carried over to the next row.
        """
        rho = self.rho
        rate = rho / ((1 - rho) * self.expected_length)
        whole = int(rate)
        due = whole + (self._rng.random(len(rows)) < rate - whole)
        for i in range(len(rows)):
            self._deficit += int(due[i])
            if self._deficit and not rows.terminated[i]:
                self._request(rows.next_observations[i], self.counters.env_steps + i + 1, self._deficit)
                self._deficit = 0

    def _request(self, state: FloatArray, env_step: int, n: int) -> None:
        for _ in range(n):
            self._queue.append(GenerationRequest(self.counters.requests, env_step, state.copy()))
            self.counters.requests += 1

    def _synthetic_share(self, batch_size: int) -> int:
        if len(self.synthetic) == 0:
            return 0
        if self.config.split == "exact":
            return round(self.rho * batch_size)
        return int(self._rng.binomial(batch_size, self.rho))

    def _queue_arrays(self) -> dict[str, NDArray[Any]]:
        size = self._columns["observations"].shape[0]
        return {
            "request_id": np.array([r.request_id for r in self._queue], np.int64),
            "requested_at": np.array([r.requested_at for r in self._queue], np.int64),
            "state": np.array([r.state for r in self._queue], np.float32).reshape(len(self._queue), size),
        }
