"""The replay of a distributed run without the distribution: many callers, one lock, and a journal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition
from typing import TypeVar

import numpy as np

from atradiff.config import ServingConfig
from atradiff.ports import EpisodeRows
from atradiff.replay.batch import OriginArray, ReplayBatch
from atradiff.replay.chunks import ChunkName
from atradiff.replay.journal import Journal, Recovery
from atradiff.replay.metrics import replay_metrics
from atradiff.replay.mixed import MixedReplay
from atradiff.replay.requests import GenerationRequest
from atradiff.types import FloatArray, IntArray, SyntheticRows

_logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class SharedReplay:
    """A :class:`MixedReplay` for many threads. With a journal, a chunk is written down before it is acknowledged.

    :attr:`recovery` says what the journal gave back at the start (None without one). ``anew``: what the journal holds
    is thrown away instead.
    """

    def __init__(
        self, replay: MixedReplay, serving: ServingConfig, journal: Journal | None = None, *, anew: bool = False
    ) -> None:
        self._replay = replay
        self._serving = serving
        self._journal = journal
        self._changed = Condition()
        self.recovery: Recovery | None = None
        if journal is not None and anew:
            journal.begin()
        elif journal is not None:
            self.recovery = journal.recover(replay)
        self._newest_version = _newest_version(replay)
        self._answered: tuple[str, list[GenerationRequest]] = ("", [])

    @property
    def generation(self) -> str | None:
        """Of the journal, None without one: drawn anew when the replay becomes another one."""
        return None if self._journal is None else self._journal.generation

    @property
    def env_steps(self) -> int:
        """Real rows stored since the first step of the run."""
        return self._replay.counters.env_steps

    def store(self, chunk: EpisodeRows) -> int:
        """Take in a chunk, unless it was taken in before; returns the env steps, and by that acknowledges it.

        ``ValueError`` for rows of other columns, ``OSError`` where the journal cannot be written: then nothing is kept.
        """
        name = ChunkName(chunk.source, chunk.sequence)
        with self._changed:
            if self._journal is not None and not self._replay.has(name):
                self._replay.require_fitting(chunk.rows, chunk.episodes)
                self._journal.append(chunk)
            self._replay.store(chunk.rows, chunk.episodes, name)
            self._snapshot_if_due()
            self._changed.notify_all()
            return self.env_steps

    def sample(self, count: int, batch_size: int) -> ReplayBatch:
        """``count`` batches end to end, (count * batch_size, ...) in all."""
        with self._changed:
            return self._replay.sample_many(count, batch_size)

    def report_td_errors(self, row_ids: IntArray, origins: OriginArray, td_errors: FloatArray) -> None:
        """Absolute TD errors (n,) of sampled rows."""
        with self._changed:
            self._replay.report_td_errors(row_ids, origins, td_errors)

    def wait_for_requests(self, limit: int, timeout_s: float, question: str = "") -> list[GenerationRequest]:
        """At most ``limit`` requests once some are due by the :class:`ServingConfig`; none after ``timeout_s``.

        Whole batches where there is one: who cuts them again, from the first request on, has the batches that a server
        in process makes. Who names its ``question`` gets the same answer when it has to ask again because the first
        answer did not arrive.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if question and question == self._answered[0]:
                return self._answered[1]
            while not self._due():
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return []
            self._answered = question, self._replay.take_requests(min(limit, self._whole_batches()))
            return self._answered[1]

    def put_back(self, requests: list[GenerationRequest]) -> int:
        """Let taken requests wait again; returns how many were still outstanding."""
        with self._changed:
            back = self._replay.put_back(requests)
            self._changed.notify_all()
            return back

    def store_synthetic(self, requests: list[GenerationRequest], answer: SyntheticRows) -> int:
        """Put the answer to ``requests`` into D_s; returns the number of rows that went in."""
        with self._changed:
            versions = answer.versions
            self._newest_version = max(self._newest_version, int(versions.max(initial=0)))
            return self._replay.store_synthetic(requests, answer.rows, answer.lengths, versions)

    def consult(self, question: Callable[[MixedReplay], _Answer]) -> _Answer:
        """``question(replay)`` with the lock held: how an adapter asks its watcher, ``replay.watcher``, for rows."""
        with self._changed:
            return question(self._replay)

    def status(self) -> dict[str, float]:
        """Counters and gauges of this moment, by the names of docs/metrics.md."""
        with self._changed:
            replay, journal = self._replay, self._journal
            return replay_metrics(replay, self._newest_version) | {
                "requests_outstanding": replay.outstanding,
                "answers_ignored": replay.counters.answers_ignored,
                "chunks_repeated": replay.counters.chunks_repeated,
                "journal_bytes": 0 if journal is None else journal.nbytes,
                "recovered_rows": 0 if self.recovery is None else self.recovery.snapshot_rows + self.recovery.rows,
            }

    def save(self, folder: Path) -> None:
        """Write everything that is needed to go on into ``folder``, which is made where it is missing.

        The journal goes on from here, too: who recovers from it later than this has all that ``folder`` has, and not
        only the real rows.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with self._changed:
            self._replay.save(folder)
            self._snapshot()

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote; the journal starts a new generation. ``ValueError`` where it does not fit."""
        with self._changed:
            self._replay.load(folder)
            if self._journal is not None:
                self._journal.renew()
                self._journal.snapshot(self._replay)
            self._newest_version = _newest_version(self._replay)
            self._changed.notify_all()

    def close(self) -> None:
        """Close the journal; what was stored stays in it."""
        with self._changed:
            if self._journal is not None:
                self._journal.close()

    def _snapshot_if_due(self) -> None:
        if self._journal is not None and self._journal.snapshot_due:
            self._snapshot()

    def _snapshot(self) -> None:
        """Every chunk is in the journal by now, whether there is room for a snapshot or not."""
        if self._journal is None:
            return
        try:
            self._journal.snapshot(self._replay)
        except OSError as error:
            again, folder = self._journal.snapshot_every, self._journal.folder
            _logger.warning(
                "No snapshot in %s (%s): tried again after %d rows; until then it grows.", folder, error, again
            )

    def _whole_batches(self) -> int:
        """Waiting requests that fill batches; all of them where not one is filled (and its first is due)."""
        pending, size = self._replay.pending, self._serving.requests_per_batch
        return pending - pending % size or pending

    def _due(self) -> bool:
        pending, age = self._replay.pending, self._replay.oldest_request_age
        return pending >= self._serving.requests_per_batch or (pending > 0 and age >= self._serving.max_wait)


def _newest_version(replay: MixedReplay) -> int:
    versions = replay.synthetic["generator_version"][: len(replay.synthetic)]
    return int(np.max(versions, initial=0))
