"""Algorithm 1 of ATraDiff: a replay buffer D = (D_s, D_o, rho, L) that asks for trajectories as it fills."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from atradiff.data.windows import Windows
from atradiff.replay.batch import Origin, OriginArray, ReplayBatch
from atradiff.replay.chunks import ChunkLog, ChunkName
from atradiff.replay.config import ReplayConfig
from atradiff.replay.links import EpisodeLinks
from atradiff.replay.offline import OfflineRows, offline_state, require_offline, require_same_offline
from atradiff.replay.requests import GenerationRequest, RequestQueue
from atradiff.replay.ring import ColumnRing, synthetic_columns, transition_columns
from atradiff.replay.watcher import Watcher
from atradiff.replay.windows import windows_from
from atradiff.types import BoolArray, FloatArray, IntArray, Spaces, Transitions

_FORMAT = 2
_STATE_FILE = "replay.json"
_QUEUE_FILE = "queue.npz"
_LINKS_FILE = "successors.npy"
_WATCHER_FOLDER = "watcher"
_LEAST_WEIGHT = 0.01
"""Of one trajectory in the moving average of lengths; the first hundred are averaged plainly: L is right soon."""


@dataclass
class ReplayCounters:
    """Everything that went in or out, since the first step of the run.

    Each request is answered by one of the ``trajectories``, or dropped for its age, or still waits or is outstanding.
    ``answers_ignored`` came to requests that were not outstanding, ``chunks_repeated`` had been stored before.
    """

    env_steps: int = 0
    requests: int = 0
    requests_dropped: int = 0
    trajectories: int = 0
    sampled_real: int = 0
    sampled_synthetic: int = 0
    sampled_offline: int = 0
    answers_ignored: int = 0
    chunks_repeated: int = 0


class MixedReplay:
    """Real rows D_o and synthetic rows D_s, mixed when sampled. Plain numpy, one process, reproducible from its seed.

    Rows are in whatever action scale the learner uses: the caller converts before it stores. ``watcher`` looks on.
    ``offline`` rows join each batch where the config has an ``offline_share``; checkpoints name but do not hold them.
    """

    def __init__(
        self,
        spaces: Spaces,
        config: ReplayConfig,
        seed: int,
        initial_length: float = 10.0,
        watcher: Watcher | None = None,
        offline: OfflineRows | None = None,
    ) -> None:
        self.config = config
        self.offline = require_offline(config, spaces, offline)
        self.watcher = watcher
        self.real = ColumnRing(transition_columns(spaces), config.capacity)
        self.synthetic = ColumnRing(synthetic_columns(spaces), config.synthetic_capacity)
        self.counters = ReplayCounters()
        self._links = EpisodeLinks(config.capacity)
        self._chunks = ChunkLog()
        self._rng = np.random.default_rng(seed)
        self._queue = RequestQueue()
        self._deficit = 0
        self._mean_length = config.expected_length or initial_length

    def __len__(self) -> int:
        return len(self.real)

    @property
    def nbytes(self) -> int:
        """Bytes of both rings, of the links between rows and of the offline rows; all there from the start."""
        offline = 0 if self.offline is None else self.offline.nbytes
        return self.real.nbytes + self.synthetic.nbytes + self._links.nbytes + offline

    @property
    def expected_length(self) -> float:
        """L: the fixed value of the config, or the moving average of the lengths that were stored."""
        return self.config.expected_length or self._mean_length

    @property
    def rho(self) -> float:
        """The synthetic share of a batch at this env step: a schedule may move it."""
        return self.config.rho_at(self.counters.env_steps)

    @property
    def drawable_synthetic(self) -> int:
        """How many rows of D_s are drawn from: the newest ones, where ``max_synthetic_age`` says so.

        The synthetic share of a batch stays rho however few they are; each is then drawn the more often.
        """
        age = self.config.max_synthetic_age
        if age is None:
            return len(self.synthetic)
        return self.synthetic.count_since("created_at", self.counters.env_steps - age)

    @property
    def pending(self) -> int:
        """Requests that wait: nobody has taken them, or they were put back."""
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Requests that were taken and neither answered nor put back."""
        return self._queue.outstanding

    @property
    def oldest_request_age(self) -> int:
        """Env steps since the oldest waiting request, 0 where none waits."""
        oldest = self._queue.oldest
        return 0 if oldest is None else self.counters.env_steps - oldest.requested_at

    def store(self, rows: Transitions, episodes: IntArray | None = None, chunk: ChunkName | None = None) -> IntArray:
        """Algorithm 1, Store: put n rows into D_o and queue requests from their next states; returns the row ids.

        ``episodes`` (n,) are the keys of the rows' episodes: with them :meth:`windows` can follow the rows, also over
        the borders of chunks. A ``chunk`` that was stored before is ignored and counted: no ids are returned.
        """
        if chunk is not None and self.has(chunk):
            self.counters.chunks_repeated += 1
            return np.empty(0, np.int64)
        self.require_fitting(rows, episodes)
        row_ids = self.real.add(dict(rows.items()))
        if episodes is None:
            self._links.add_unlinked(row_ids)
        else:
            self._links.add(row_ids, episodes, rows.terminated | rows.truncated, chunk.source if chunk else "")
        self._queue_requests(rows)
        self.counters.env_steps += len(rows)
        if chunk is not None:
            self._chunks.add(chunk)
        if self.watcher is not None:
            self.watcher.stored(row_ids, rows, episodes)
        return row_ids

    def has(self, chunk: ChunkName) -> bool:
        """Whether this chunk of rows was stored."""
        return chunk in self._chunks

    def require_fitting(self, rows: Transitions, episodes: IntArray | None) -> None:
        """Raise ``ValueError`` for rows that :meth:`store` could not take, before anything is changed."""
        n = self.real.require_fitting(dict(rows.items()))
        if episodes is not None and episodes.shape != (n,):
            raise ValueError(f"{n} rows need {n} episode keys, got an array of shape {episodes.shape}.")

    def windows(self, row_ids: IntArray, length: int) -> tuple[Windows, BoolArray, IntArray]:
        """Windows of ``length`` real rows from those of ``row_ids`` (M,) that still give one, which they are (M,), and
        the ids of their rows (N, length).

        There are as many windows, N, as the second has true entries, in the order of ``row_ids``. A row gives a window
        while it is in the ring and was followed long enough, or its episode terminated: then the window is padded as
        :class:`atradiff.data.windows.WindowSampler` pads it, and its last row's id stands for the padding.
        """
        return windows_from(self.real, self._links, row_ids, length)

    def report_td_errors(self, row_ids: IntArray, origins: OriginArray, td_errors: FloatArray) -> None:
        """Absolute TD errors (n,) of sampled rows: the watcher is told of the real ones."""
        if not len(row_ids) == len(origins) == len(td_errors):
            raise ValueError(f"{len(td_errors)} TD errors came for {len(row_ids)} rows ({len(origins)} marked).")
        if self.watcher is not None:
            real = origins == Origin.REAL
            self.watcher.scored(row_ids[real], td_errors[real])

    def take_requests(self, limit: int) -> list[GenerationRequest]:
        """The oldest requests, at most ``limit``: outstanding until they are answered or put back.

        Those that are already older than ``max_request_age`` are dropped and counted.
        """
        self.counters.requests_dropped += self._queue.drop_before(self._oldest_wanted)
        return self._queue.take(limit)

    def put_back(self, requests: list[GenerationRequest]) -> int:
        """Let taken requests wait again, in their places (their generation was interrupted); returns how many did.

        Those that are not outstanding, because they were answered meanwhile, stay so.
        """
        return self._queue.put_back(requests)

    def store_synthetic(
        self, requests: list[GenerationRequest], rows: Transitions, lengths: IntArray, generator_version: int | IntArray
    ) -> int:
        """Put the answers to ``requests`` into D_s and return the number of rows that went in.

        ``rows`` (N,) are the trajectories end to end, ``lengths`` (one per request) theirs, ``generator_version`` that
        of all rows or (N,) of each. Answers to requests older than ``max_request_age`` env steps are dropped and
        counted; a second answer to a request is ignored and counted.
        """
        if len(requests) != len(lengths) or int(np.sum(lengths)) != len(rows):
            raise ValueError(
                f"{len(requests)} requests, {len(lengths)} lengths that sum to {int(np.sum(lengths))} and {len(rows)} "
                "rows do not belong together."
            )
        expected = self._queue.settle(requests)
        fresh = expected & (np.array([r.requested_at for r in requests], np.int64) >= self._oldest_wanted)
        wanted = np.repeat(fresh, lengths)
        kept = rows[wanted]
        self.synthetic.add(
            {
                **dict(kept.items()),
                "generator_version": np.broadcast_to(generator_version, len(rows))[wanted].astype(np.int32),
                "created_at": np.full(len(kept), self.counters.env_steps, np.int64),
            }
        )
        for n, length in enumerate(lengths[fresh], start=self.counters.trajectories + 1):
            weight = max(1 / n, _LEAST_WEIGHT)
            self._mean_length += weight * (float(length) - self._mean_length)
        self.counters.trajectories += int(fresh.sum())
        self.counters.requests_dropped += int((expected & ~fresh).sum())
        self.counters.answers_ignored += int((~expected).sum())
        return len(kept)

    def sample(self, batch_size: int) -> ReplayBatch:
        """Algorithm 1, Sample: each row that is not offline is synthetic with probability rho; no D_s yet: real."""
        return self.sample_many(1, batch_size)

    def sample_many(self, count: int, batch_size: int) -> ReplayBatch:
        """``count`` batches end to end in one set of arrays: the same rows as from as many calls of :meth:`sample`."""
        if len(self.real) == 0:
            raise ValueError("the replay buffer is empty: store real transitions before sampling.")
        n = count * batch_size
        out = {name: np.empty((n, *c.shape), c.dtype) for name, c in self.real.columns.items()}
        row_ids, origins = np.empty(n, np.int64), np.empty(n, np.int8)
        for start in range(0, n, batch_size):
            for origin, part in self._parts(slice(start, start + batch_size)):
                origins[part] = origin
                row_ids[part] = self._draw(origin, {name: column[part] for name, column in out.items()})
        drawn = np.bincount(origins, minlength=len(Origin))
        self.counters.sampled_real += int(drawn[Origin.REAL])
        self.counters.sampled_synthetic += int(drawn[Origin.SYNTHETIC])
        self.counters.sampled_offline += int(drawn[Origin.OFFLINE])
        return ReplayBatch(Transitions(**out), row_ids, origins)

    def save(self, folder: Path) -> None:
        """Write everything into ``folder``: rings, links, requests, counters, random state and the watcher's part.

        Outstanding requests are written as waiting ones: who goes on from here has asked nobody yet. What stood there
        is replaced, and cannot be loaded until that is done.
        """
        (folder / _STATE_FILE).unlink(missing_ok=True)
        self.real.save(folder / "real")
        self.synthetic.save(folder / "synthetic")
        np.savez(folder / _QUEUE_FILE, **self._queue.everything())  # type: ignore[arg-type]
        successors, open_episodes = self._links.state()
        np.save(folder / _LINKS_FILE, successors[: len(self.real)])
        if self.watcher is not None:
            (folder / _WATCHER_FOLDER).mkdir(exist_ok=True)
            self.watcher.save(folder / _WATCHER_FOLDER)
        state = {
            "format": _FORMAT,
            "counters": asdict(self.counters),
            "deficit": self._deficit,
            "mean_length": self._mean_length,
            "rng": self._rng.bit_generator.state,
            "open_episodes": open_episodes,
            "offline": offline_state(self.offline),
            "chunks": self._chunks.state(),
        }
        (folder / _STATE_FILE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote.

        Raises ``ValueError``, changing nothing, where rings differ or a file is missing or damaged.
        """
        try:
            state = _read_state(folder)
            require_same_offline(state.get("offline"), self.offline, str(folder))
            with np.load(folder / _QUEUE_FILE, allow_pickle=False) as arrays:
                queue = RequestQueue.waiting(dict(arrays))
            successors = np.load(folder / _LINKS_FILE, allow_pickle=False)
            real, synthetic = self.real.read(folder / "real"), self.synthetic.read(folder / "synthetic")
            counters = ReplayCounters(**state["counters"])
            deficit, mean_length, random_state = state["deficit"], state["mean_length"], state["rng"]
            open_episodes, chunks = state["open_episodes"], state["chunks"]
            # A checkpoint of a run that had no watcher says nothing to one.
            if self.watcher is not None and (folder / _WATCHER_FOLDER).is_dir():
                self.watcher.load(folder / _WATCHER_FOLDER)
        except (OSError, EOFError, KeyError, TypeError, BadZipFile) as error:
            raise ValueError(f"{folder} is damaged or no replay's ({error}): take another checkpoint.") from error
        self.real.become(real)
        self.synthetic.become(synthetic)
        self._links.restore(successors, open_episodes)
        self._queue = queue
        self._chunks.restore(chunks)
        self.counters = counters
        self._deficit, self._mean_length = deficit, mean_length
        self._rng.bit_generator.state = random_state

    @property
    def _oldest_wanted(self) -> int:
        """The env step before which requests are too old to be answered."""
        return self.counters.env_steps - self.config.max_request_age

    def _queue_requests(self, rows: Transitions) -> None:
        """Requests per row: rate p = rho / ((1 - rho) L), which may exceed 1: floor(p) plus a Bernoulli of the rest.

        A terminal s' has no future to imagine: what it was due is carried over to the next row.
        """
        rho = self.rho
        rate = rho / ((1 - rho) * self.expected_length)
        whole = int(rate)
        due = np.cumsum(whole + (self._rng.random(len(rows)) < rate - whole), dtype=np.int64) + self._deficit
        open_rows = np.flatnonzero(~rows.terminated)
        asked = np.diff(due[open_rows], prepend=0)
        for i, n in zip(open_rows[asked > 0], asked[asked > 0], strict=True):
            self._request(rows.next_observations[i], self.counters.env_steps + int(i) + 1, int(n))
        if len(rows):
            self._deficit = int(due[-1] - (due[open_rows[-1]] if len(open_rows) else 0))

    def _request(self, state: FloatArray, env_step: int, n: int) -> None:
        for _ in range(n):
            self._queue.add(GenerationRequest(self.counters.requests, env_step, np.array(state, np.float32)))
            self.counters.requests += 1

    def _synthetic_share(self, batch_size: int) -> int:
        if self.drawable_synthetic == 0:
            return 0
        if self.config.split == "exact":
            return round(self.rho * batch_size)
        return int(self._rng.binomial(batch_size, self.rho))

    def _parts(self, batch: slice) -> Iterator[tuple[Origin, slice]]:
        """The rows of one batch by their origins; those that are none are left out."""
        size = batch.stop - batch.start
        lived = size if self.offline is None else size - round(self.config.offline_share * size)
        imagined = batch.start + lived - self._synthetic_share(lived)
        borders = (batch.start, imagined, batch.start + lived, batch.stop)
        for origin, (start, stop) in zip(Origin, pairwise(borders), strict=True):
            if stop > start:
                yield origin, slice(start, stop)

    def _draw(self, origin: Origin, out: dict[str, NDArray[Any]]) -> IntArray:
        """Fill ``out``'s columns (n, ...) with rows of that origin drawn uniformly; returns their ids (n,)."""
        count = len(out["rewards"])
        if origin is Origin.OFFLINE and self.offline is not None:
            rows = self._rng.integers(len(self.offline), size=count)
            self.offline.take(rows, out)
            return rows
        real = origin is Origin.REAL
        ring, drawable = (self.real, len(self.real)) if real else (self.synthetic, self.drawable_synthetic)
        row_ids = ring.total_added - 1 - self._rng.integers(drawable, size=count)
        ring.take(row_ids % ring.capacity, out)
        return row_ids


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / _STATE_FILE).read_text())
    found = state.get("format", 1)  # the first format did not say its number
    if found != _FORMAT:
        raise ValueError(
            f"{folder} holds a replay of format {found}, this version reads {_FORMAT}: resume with the version that "
            "wrote it, or start a new run."
        )
    return state
