"""What a journal gives back after the process that wrote it is gone, wherever it was interrupted."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_worlds import SPACES, answer, chunk, numbered

from atradiff.ports import EpisodeRows
from atradiff.replay import journal as journal_module
from atradiff.replay.chunks import ChunkName
from atradiff.replay.journal import Journal, Recovery
from atradiff.replay.journal_folder import JournalDamaged, generation_of, set_aside
from atradiff.replay.journal_records import read_records, record, write_parts
from atradiff.replay.mixed import MixedReplay, ReplayConfig
from atradiff.types import Spaces

_OPEN: dict[Path, Journal] = {}


def _replay(seed: int = 0, capacity: int = 1000, spaces: Spaces = SPACES) -> MixedReplay:
    return MixedReplay(spaces, ReplayConfig(capacity=capacity, rho=0.5, expected_length=1.0), seed)  # a request per row


def _open(
    folder: Path, snapshot_every: int = 1000, *, sync: bool = False, **options: int
) -> tuple[MixedReplay, Journal, Recovery]:
    if folder in _OPEN:  # the process that had it is gone
        _OPEN.pop(folder).close()
    replay, journal = _replay(**options), Journal(folder, snapshot_every, sync=sync)
    _OPEN[folder] = journal
    return replay, journal, journal.recover(replay)


def _contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("generation", ".lock"))


def _store(replay: MixedReplay, journal: Journal, new: EpisodeRows) -> None:
    journal.append(new)
    replay.store(new.rows, new.episodes, ChunkName(new.source, new.sequence))


def _rewards(replay: MixedReplay) -> list[float]:
    assert len(replay) == replay.real.total_added, "the ring of these tests never overflows"
    return replay.real["rewards"][: len(replay)].tolist()


@pytest.mark.parametrize("sync", [False, True])
def test_everything_acknowledged_comes_back(tmp_path: Path, sync: bool) -> None:
    replay, journal, found = _open(tmp_path / "journal", sync=sync)
    assert found == Recovery(0, 0, 0, 0)
    for i in range(5):
        _store(replay, journal, chunk(10 * i, 10, sequence=i))
    again, journal, found = _open(tmp_path / "journal", sync=sync)  # the first was not closed: its process is gone
    assert found == Recovery(snapshot_rows=0, chunks=5, rows=50, bytes_cut=0)
    for name in again.real.columns:
        np.testing.assert_array_equal(again.real[name][:50], replay.real[name][:50], err_msg=name)
    assert again.windows(np.arange(50), 20)[1].sum() == 31  # links over the borders of chunks, too
    assert again.pending == again.counters.requests == 50
    _store(again, journal, chunk(50, 10, sequence=5))
    assert _rewards(_open(tmp_path / "journal")[0]) == list(range(60))


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    cut=st.floats(0, 1),
    garbage=st.binary(max_size=40),
)
def test_cut_at_any_byte_all_whole_chunks_before_it_come_back(sizes: list[int], cut: float, garbage: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        replay, journal, _ = _open(folder)
        ends = [0]
        for i, n in enumerate(sizes):
            _store(replay, journal, chunk(sum(sizes[:i]), n, sequence=i))
            ends.append(journal.nbytes)
        journal.close()
        (segment,) = folder.glob("segment-*.log")
        length = round(cut * ends[-1])
        segment.write_bytes(segment.read_bytes()[:length] + garbage)

        whole = sum(end <= length for end in ends[1:])
        if garbage and length < ends[-1]:  # it may happen to be what was cut off
            data = segment.read_bytes()
            whole = sum(data[:end] == _written(sizes)[:end] for end in ends[1:])
        again, journal, found = _open(folder)
        assert found.chunks == whole
        assert _rewards(again) == list(range(sum(sizes[:whole])))
        assert found.bytes_cut == length + len(garbage) - ends[whole]
        assert segment.stat().st_size == ends[whole]

        _store(again, journal, chunk(500, 3, source="next"))  # what is written after a cut can be read
        journal.close()
        assert _rewards(_open(folder)[0]) == [*range(sum(sizes[:whole])), 500, 501, 502]


def _written(sizes: list[int]) -> bytes:
    chunks = [chunk(sum(sizes[:i]), n, sequence=i) for i, n in enumerate(sizes)]
    return b"".join(bytes(part) for one in chunks for part in record(one))


@settings(max_examples=60)
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_ends_what_is_believed(at: float, flip: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        replay, journal, _ = _open(folder)
        for i in range(3):
            _store(replay, journal, chunk(4 * i, 4, sequence=i))
        size = journal.nbytes // 3
        journal.close()
        (segment,) = folder.glob("segment-*.log")
        data = bytearray(segment.read_bytes())
        place = int(at * len(data))
        data[place] ^= flip
        segment.write_bytes(data)
        again, _, found = _open(folder)
        assert found.chunks == place // size
        assert _rewards(again) == list(range(4 * (place // size)))


def test_a_snapshot_takes_the_place_of_what_was_before(tmp_path: Path) -> None:
    replay, journal, _ = _open(tmp_path, snapshot_every=20)
    for i in range(2):
        assert not journal.snapshot_due
        _store(replay, journal, chunk(10 * i, 10, sequence=i))
    requests = replay.take_requests(8)
    made = answer(5, 2, version=3)
    replay.store_synthetic(requests[:5], made.rows, made.lengths, 3)
    assert journal.snapshot_due
    journal.snapshot(replay)
    assert not journal.snapshot_due
    assert journal.nbytes == 0
    assert _contents(tmp_path) == ["segment-000001.log", "snapshot-000001"]
    _store(replay, journal, chunk(20, 10, sequence=2))
    again, _, found = _open(tmp_path)
    assert found == Recovery(snapshot_rows=20, chunks=1, rows=10, bytes_cut=0)
    assert _rewards(again) == list(range(30))
    assert again.windows(np.array([0]), 30)[1].all()
    assert (len(again.synthetic), again.counters.trajectories) == (10, 5)
    assert [r.request_id for r in again.take_requests(100)] == list(range(5, 30))  # those on loan wait again
    assert again.store(numbered(0, 10), np.zeros(10, np.int64), ChunkName("runner", 1)).tolist() == []


@pytest.mark.parametrize(
    "moment", ["while it is written", "before it has its name", "before the segment", "before old files go"]
)
def test_killed_at_any_moment_of_a_snapshot(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "journal"
    replay, journal, _ = _open(folder)
    _store(replay, journal, chunk(0, 10))
    journal.snapshot(replay)
    _store(replay, journal, chunk(10, 10, sequence=1))

    def die(*_: object, **__: object) -> None:
        shutil.copytree(folder, tmp_path / "left")  # what a process that is killed now leaves behind
        raise KeyboardInterrupt

    target, name = {
        "while it is written": (replay.synthetic, "save"),
        "before it has its name": (Path, "rename"),
        "before the segment": (Journal, "_open"),
        "before old files go": (journal_module, "_numbered"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, name, die)
        with pytest.raises(KeyboardInterrupt):
            journal.snapshot(replay)
    again, journal, found = _open(tmp_path / "left")
    assert _rewards(again) == list(range(20))
    assert found.snapshot_rows == (20 if moment == "before old files go" else 10)
    number = 1 if found.snapshot_rows == 10 else 2
    assert _contents(tmp_path / "left") == [
        f"segment-{number:06d}.log",
        f"snapshot-{number:06d}",
    ]
    _store(again, journal, chunk(20, 5, sequence=2))
    assert _rewards(_open(tmp_path / "left")[0]) == list(range(25))


def test_the_disk_holds_a_snapshot_before_older_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a power cut needs it: also without ``sync``."""
    replay, journal, _ = _open(tmp_path)
    _store(replay, journal, chunk(0, 10))
    journal.snapshot(replay)
    synced: set[tuple[int, int]] = set()
    fsync, delete = os.fsync, journal_module._delete

    def note(file: int) -> None:
        synced.add((os.fstat(file).st_dev, os.fstat(file).st_ino))
        fsync(file)

    def check(path: Path) -> None:
        snapshot = tmp_path / "snapshot-000002"
        needed = [tmp_path, snapshot, *snapshot.rglob("*")]
        assert len(needed) > 10
        assert {(item.stat().st_dev, item.stat().st_ino) for item in needed} <= synced
        delete(path)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(journal_module, "_delete", check)
    journal.snapshot(replay)
    assert _contents(tmp_path) == ["segment-000002.log", "snapshot-000002"]


def test_a_generation_lasts_until_the_replay_becomes_another_one(tmp_path: Path) -> None:
    replay, journal, _ = _open(tmp_path)
    first = journal.generation
    _store(replay, journal, chunk(0, 10))
    journal.snapshot(replay)
    _, journal, _ = _open(tmp_path)
    assert generation_of(tmp_path) == journal.generation == first
    journal.renew()
    assert journal.generation != first
    second = journal.generation
    journal.close()
    new = Journal(tmp_path, 1000)
    new.begin()
    assert new.generation not in (first, second)
    new.append(chunk(0, 3))
    new.close()
    assert _rewards(_open(tmp_path)[0]) == [0, 1, 2]
    assert generation_of(tmp_path / "nowhere") is None


@pytest.mark.parametrize("harm", ["shorter", "another byte", "missing", "no checksums", "no snapshot"])
def test_a_damaged_snapshot_is_told_from_one_of_another_configuration(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "journal"
    replay, journal, _ = _open(folder)
    _store(replay, journal, chunk(0, 10))
    journal.snapshot(replay)
    _store(replay, journal, chunk(10, 10, sequence=1))
    file = max((folder / "snapshot-000001").rglob("*.np*"), key=lambda path: path.stat().st_size)
    data = file.read_bytes()
    {
        "shorter": lambda: file.write_bytes(data[:40]),
        "another byte": lambda: file.write_bytes(data[:-1] + bytes([data[-1] ^ 1])),
        "missing": file.unlink,
        "no checksums": (folder / "snapshot-000001" / "checksums.json").unlink,
        "no snapshot": lambda: shutil.rmtree(folder / "snapshot-000001"),
    }[harm]()
    with pytest.raises(JournalDamaged):
        _open(folder)
    aside = set_aside(folder)
    assert aside.name == "journal.damaged-1"
    assert not folder.exists()
    folder.mkdir()
    assert set_aside(folder).name == "journal.damaged-2"


def test_what_follows_a_damaged_chunk_is_kept_aside(tmp_path: Path) -> None:
    replay, journal, _ = _open(tmp_path)
    for i in range(3):
        _store(replay, journal, chunk(4 * i, 4, sequence=i))
    size = journal.nbytes // 3
    (segment,) = tmp_path.glob("segment-*.log")
    data = bytearray(segment.read_bytes())
    data[size + size // 2] ^= 1
    segment.write_bytes(data)
    again, _, found = _open(tmp_path)
    assert (_rewards(again), found.bytes_cut) == ([0, 1, 2, 3], 2 * size)
    assert (tmp_path / f"segment-000000.log.damaged-{size}").read_bytes() == bytes(data[size:])
    segment.write_bytes(data[: size + size // 2])  # one that was being written is nobody's loss
    _open(tmp_path)
    assert len(list(tmp_path.glob("*damaged*"))) == 1


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    _, journal, _ = _open(tmp_path)
    with pytest.raises(OSError, match=r"another process has written to the journal .* end the run that it belongs to"):
        Journal(tmp_path, 10).recover(_replay(), lock_patience=0.2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Journal(tmp_path, 10).recover, _replay(), lock_patience=60)
        journal.close()
        assert waiting.result(60) == Recovery(0, 0, 0, 0)


def test_a_failed_append_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay, journal, _ = _open(tmp_path)
    _store(replay, journal, chunk(0, 3))

    def full(file: int, parts: list[memoryview]) -> int:
        write_parts(file, [parts[0], parts[1][:5]])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "write_parts", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append(chunk(3, 3, sequence=1))
    _store(replay, journal, chunk(3, 3, sequence=1))
    assert _rewards(_open(tmp_path)[0]) == list(range(6))


def test_records_keep_kinds_and_shapes(tmp_path: Path) -> None:
    spaces = Spaces(4, "discrete", n_actions=3)
    rng = np.random.default_rng(0)
    replay = _replay(spaces=spaces)
    rows = {n: (rng.random((7, *c.shape)) * 5).astype(c.dtype) for n, c in replay.real.columns.items()}
    rows["observations"] = np.asfortranarray(rows["observations"])
    sent = EpisodeRows(type(numbered(0, 1))(**rows), np.array([2**62, *[-1] * 6]), 'a "name" with \u00e9', 2**40)
    with (tmp_path / "log").open("wb") as file:
        write_parts(file.fileno(), record(sent))
    ((read, end),) = read_records(tmp_path / "log")
    assert end == (tmp_path / "log").stat().st_size
    assert (read.source, read.sequence, read.episodes.tolist()) == (sent.source, sent.sequence, sent.episodes.tolist())
    for (name, mine), (_, yours) in zip(read.rows.items(), sent.rows.items(), strict=True):
        assert mine.dtype == yours.dtype, name
        np.testing.assert_array_equal(mine, yours, err_msg=name)


def test_misuse_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="snapshot_every must be at least 1 row, got 0"):
        Journal(tmp_path, 0)
    with pytest.raises(ValueError, match=r"is not open: recover\(\) comes first"):
        Journal(tmp_path, 10).append(chunk(0, 1))
    replay, journal, _ = _open(tmp_path)
    _store(replay, journal, chunk(0, 1))
    strange = EpisodeRows(numbered(0, 1), np.array([None]), "a", 0)
    with pytest.raises(ValueError, match=r"columns \['episodes'\] are not made of numbers"):
        journal.append(strange)
    journal.snapshot(replay)
    with pytest.raises(ValueError, match="holds a ring of 1000 rows, this one has 50"):
        _open(tmp_path, capacity=50)
