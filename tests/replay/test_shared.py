"""Many threads on one replay, and the order of journal, rows and acknowledgement."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from replay_worlds import SPACES, answer, chunk, numbered

from atradiff.config import ServingConfig
from atradiff.ports import EpisodeRows
from atradiff.replay.journal import Journal
from atradiff.replay.mixed import MixedReplay, ReplayConfig
from atradiff.replay.shared import SharedReplay
from atradiff.types import FloatArray, IntArray, Transitions

PATIENCE = 120.0


class Notes:
    """A watcher that writes down what it hears."""

    def __init__(self) -> None:
        self.rows: list[float] = []
        self.scores: list[tuple[int, float]] = []

    def stored(self, row_ids: IntArray, rows: Transitions, episodes: IntArray | None) -> None:
        assert episodes is not None
        assert len(row_ids) == len(episodes) == len(rows)
        self.rows += rows.rewards.tolist()

    def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
        self.scores += list(zip(row_ids.tolist(), td_errors.tolist(), strict=True))

    def save(self, folder: Path) -> None:
        np.save(folder / "rows.npy", self.rows)

    def load(self, folder: Path) -> None:
        self.rows = np.load(folder / "rows.npy").tolist()


def _shared(
    journal: Path | None = None,
    *,
    serving: ServingConfig | None = None,
    watcher: Notes | None = None,
    every: int = 10**6,
) -> SharedReplay:
    config = ReplayConfig(capacity=5000, rho=0.5, expected_length=1.0)  # a request per row
    replay = MixedReplay(SPACES, config, seed=0, watcher=watcher)
    log = None if journal is None else Journal(journal, every)
    return SharedReplay(replay, serving or ServingConfig(4, 50), log)


def test_waits_until_requests_are_due() -> None:
    shared = _shared()
    shared.store(chunk(0, 3))
    assert shared.wait_for_requests(8, timeout_s=0.01) == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(shared.wait_for_requests, 8, PATIENCE)
        assert not waiting.done()
        shared.store(chunk(3, 1, sequence=1))  # now a batch is pending
        assert [r.request_id for r in waiting.result(PATIENCE)] == [0, 1, 2, 3]
        waiting = pool.submit(shared.wait_for_requests, 8, PATIENCE)
        shared.put_back([])
        shared.store(chunk(4, 5, sequence=2))
        assert len(waiting.result(PATIENCE)) == 4  # the fifth waits for three more
    shared.store(chunk(9, 8, sequence=3))
    assert [r.request_id for r in shared.wait_for_requests(12, 0.0)] == list(range(8, 16))  # two batches at once


def test_a_question_that_is_asked_again_has_the_same_answer() -> None:
    """As when the reply was lost: what was lent with it is not lost for ever."""
    shared = _shared()
    shared.store(chunk(0, 12))
    first = shared.wait_for_requests(4, 0.0, "one")
    assert [r.request_id for r in first] == [0, 1, 2, 3]
    assert [r.request_id for r in shared.wait_for_requests(4, 0.0, "one")] == [0, 1, 2, 3]
    assert shared.status()["requests_outstanding"] == 4
    assert [r.request_id for r in shared.wait_for_requests(4, 0.0, "two")] == [4, 5, 6, 7]
    assert [r.request_id for r in shared.wait_for_requests(4, 0.0)] == [8, 9, 10, 11]
    assert shared.wait_for_requests(4, 0.0) == []


def test_a_request_that_waited_long_is_due_alone() -> None:
    shared = _shared(serving=ServingConfig(1000, max_wait=5))
    shared.store(chunk(0, 1))
    assert shared.wait_for_requests(8, 0.0) == []
    shared.store(chunk(1, 4, sequence=1))
    assert shared.wait_for_requests(8, 0.0) == []  # age 4
    shared.store(chunk(5, 1, sequence=2))
    assert len(shared.wait_for_requests(8, 0.0)) == 6


def test_threads_together_lose_and_repeat_nothing(tmp_path: Path) -> None:
    shared = _shared(tmp_path, every=300)
    stop = threading.Event()

    def push(sender: int) -> None:
        for sequence in range(40):
            new = chunk(1000 * sender + 10 * sequence, 10, f"runner {sender}", sequence, episode=sender)
            shared.store(new)
            shared.store(new)  # as after a lost acknowledgement

    def learn() -> int:
        while shared.env_steps == 0:
            pass
        learned = 0
        while not stop.is_set():
            batch = shared.sample(2, 16)
            shared.report_td_errors(batch.row_ids, batch.synthetic, np.ones(32, np.float32))
            learned += 32
        return learned

    def generate() -> int:
        rows = 0
        while not stop.is_set() or shared.status()["requests_pending"] >= 4:
            requests = shared.wait_for_requests(8, 0.01)
            rows += shared.store_synthetic(requests, answer(len(requests), 2)) if requests else 0
        return rows

    with ThreadPoolExecutor(5) as pool:
        learner, generator = pool.submit(learn), pool.submit(generate)
        for sender in [pool.submit(push, i) for i in range(3)]:
            sender.result(PATIENCE)
        stop.set()
        learned, rows = learner.result(PATIENCE), generator.result(PATIENCE)
    status = shared.status()
    assert status["env_steps"] == status["real_rows"] == 1200
    assert status["chunks_repeated"] == 120
    assert status["synthetic_rows"] == rows == 2 * status["trajectories"]
    assert status["requests"] == 1200 == status["trajectories"] + status["requests_pending"]
    assert learned > 0
    shared.close()
    again = _shared(tmp_path)
    assert again.env_steps == 1200
    everything = again.consult(lambda replay: sorted(replay.real["rewards"][:1200].tolist()))
    assert everything == [1000 * sender + i for sender in range(3) for i in range(400)]


def test_rows_that_do_not_fit_never_reach_the_journal(tmp_path: Path) -> None:
    shared = _shared(tmp_path)
    good = chunk(0, 2)
    wide = replace(good.rows, observations=np.zeros((2, 9), np.float32))
    with pytest.raises(ValueError, match=r"observations has values of shape \(9,\)"):
        shared.store(replace(good, rows=wide))
    assert shared.store(good) == 2
    shared.close()
    assert _shared(tmp_path).env_steps == 2


def test_a_full_disk_costs_the_snapshot_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = _shared(tmp_path, every=4)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MixedReplay, "save", full)
        assert shared.store(chunk(0, 5)) == 5
        assert "No space left on device" in caplog.text
        assert shared.store(chunk(5, 3, sequence=1)) == 8  # too early to try again
        assert caplog.text.count("No space left") == 1
    assert not list(tmp_path.glob("*snapshot*"))
    assert shared.store(chunk(8, 2, sequence=2)) == 10
    assert len(list(tmp_path.glob("snapshot-*"))) == 1
    shared.close()
    assert _shared(tmp_path).consult(lambda replay: replay.real["rewards"][:10].tolist()) == list(range(10))


def test_a_watcher_hears_of_real_rows_and_comes_back_with_them(tmp_path: Path) -> None:
    notes = Notes()
    shared = _shared(tmp_path, watcher=notes, every=4)
    shared.store(chunk(0, 5))  # a snapshot follows
    shared.store(chunk(5, 2, sequence=1))
    shared.store(chunk(5, 2, sequence=1))
    assert notes.rows == [0, 1, 2, 3, 4, 5, 6]
    shared.report_td_errors(np.array([3, 0, 4]), np.array([False, True, False]), np.array([0.5, 9, 0.25], np.float32))
    assert notes.scores == [(3, 0.5), (4, 0.25)]
    with pytest.raises(ValueError, match="2 TD errors came for 1 rows"):
        shared.report_td_errors(np.array([3]), np.array([False]), np.zeros(2, np.float32))
    shared.close()
    later = Notes()
    again = _shared(tmp_path, watcher=later)
    assert later.rows == notes.rows
    assert again.consult(lambda replay: replay.watcher) is later


def test_a_checkpoint_is_a_snapshot_too(tmp_path: Path) -> None:
    """A run that is killed goes on from its journal: the imagined rows that its checkpoint has are there as well."""
    notes = Notes()
    shared = _shared(tmp_path / "journal", watcher=notes)
    shared.store(chunk(0, 6))
    shared.store_synthetic(shared.wait_for_requests(4, 0.0), answer(4, 3, version=5))
    shared.save(tmp_path / "checkpoint")
    shared.store(chunk(6, 2, sequence=1))
    shared.close()
    again = _shared(tmp_path / "journal", watcher=Notes())
    assert again.env_steps == 8
    assert (again.status()["synthetic_rows"], again.status()["generator_version"]) == (12, 5)
    assert again.consult(lambda replay: replay.real["rewards"][:8].tolist()) == list(range(8))
    assert [request.request_id for request in again.wait_for_requests(8, 0.0)] == [4, 5, 6, 7]  # no one twice


def test_loading_starts_the_journal_anew(tmp_path: Path) -> None:
    first = _shared(tmp_path / "journal")
    first.store(chunk(0, 6))
    requests = first.wait_for_requests(4, 0.0)
    first.store_synthetic(requests, answer(4, 3, version=5))
    first.save(tmp_path / "checkpoint")
    first.store(chunk(6, 6, sequence=1))
    generation = first.generation
    first.load(tmp_path / "checkpoint")
    assert first.generation != generation
    assert first.env_steps == 6
    assert first.status()["generator_version"] == 5
    assert first.store(chunk(6, 6, sequence=1)) == 12  # its sender was restored as well and sends it again
    first.close()
    again = _shared(tmp_path / "journal")
    assert again.env_steps == 12
    assert again.status()["recovered_rows"] == 12
    assert again.status()["synthetic_rows"] == 12


def test_status_tells_the_fill_of_the_rings() -> None:
    shared = _shared()
    shared.store(EpisodeRows(numbered(0, 1000), np.zeros(1000, np.int64), "a", 0))
    status = shared.status()
    assert (status["real_fill"], status["synthetic_fill"], status["journal_bytes"]) == (0.2, 0, 0)
    assert all(isinstance(value, int | float) for value in status.values())
