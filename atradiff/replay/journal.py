"""A replay that outlives its process: every acknowledged chunk of real rows is written down before the sender hears.

::

    FOLDER/
      snapshot-000004/   the whole replay at some moment, as MixedReplay.save writes it
      segment-000004.log the chunks stored since, as records (atradiff/replay/journal_records.py)

**Guarantee.** When the process dies at any moment, also of SIGKILL, every acknowledged real row comes back, once:
its record is in the operating system's hands before the acknowledgement. When the machine dies (power, kernel, node),
rows come back if the folder is on a file system that outlives it and ``sync`` was on: then each chunk waits for the
disk (``fsync``). Without ``sync`` a power cut may take the last seconds. What it costs: ``benchmarks.replay_actor``.

**What does not come back.** Synthetic rows since the snapshot: the requests of those real rows are queued again, and
those not too old by then (``max_request_age``) are answered anew. Counts of what was sampled since the snapshot. The
order in which rows are sampled afterwards is another one.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from atradiff.ports import EpisodeRows
from atradiff.replay.chunks import ChunkName
from atradiff.replay.journal_records import read_records, record, write_parts
from atradiff.replay.mixed import MixedReplay
from atradiff.staging import staged_folder

_SNAPSHOT, _SEGMENT = re.compile(r"snapshot-(\d{6})"), re.compile(r"segment-(\d{6})\.log")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """What was found in a journal: rows inside the snapshot, and what was stored after it."""

    snapshot_rows: int
    chunks: int
    rows: int
    bytes_cut: int
    """At the end of the last segment: a record that was being written when the process died, or damage."""


class Journal:
    """The chunks that a replay has stored, on disk. One process at a time writes into ``folder``.

    ``snapshot_every`` rows the replay is saved whole and the journal starts again, so that neither its size nor the
    time of a recovery grows with the run. Call :meth:`recover` once, before anything else.
    """

    def __init__(self, folder: Path, snapshot_every: int, *, sync: bool = False) -> None:
        if snapshot_every < 1:
            raise ValueError(f"snapshot_every must be at least 1 row, got {snapshot_every}.")
        self.folder = folder
        self.snapshot_every = snapshot_every
        self._sync = sync
        self._file: int | None = None
        self._number = 0
        self._bytes = 0
        self._rows = 0

    @property
    def nbytes(self) -> int:
        """Size of the segment that is being written."""
        return self._bytes

    @property
    def snapshot_due(self) -> bool:
        """Whether ``snapshot_every`` rows were written since the last snapshot."""
        return self._rows >= self.snapshot_every

    def recover(self, replay: MixedReplay) -> Recovery:
        """Bring an empty ``replay`` to where the journal ends, and go on writing there; an empty folder is fine.

        Raises ``ValueError`` where the journal is of another configuration.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        snapshots = _numbered(self.folder, _SNAPSHOT)
        self._number = max(snapshots, default=0)
        if snapshots:
            replay.load(snapshots[self._number])
        snapshot_rows = replay.counters.env_steps
        segment = self._segment(self._number)
        chunks = self._replay_segment(segment, replay) if segment.exists() else 0
        cut = _cut(segment, self._bytes)
        if cut:
            _logger.warning("%s: cut off %d bytes after %d whole chunks.", segment, cut, chunks)
        self._open(segment)
        self._delete_older()
        return Recovery(snapshot_rows, chunks, replay.counters.env_steps - snapshot_rows, cut)

    def append(self, chunk: EpisodeRows) -> None:
        """Write ``chunk`` down: once this returns it survives the process (with ``sync`` the machine).

        Raises ``OSError``, leaving the journal as it was, where the disk is full or gone.
        """
        file = self._require_open()
        try:
            written = write_parts(file, record(chunk))
            if self._sync:
                os.fsync(file)
        except BaseException:
            os.ftruncate(file, self._bytes)  # the next record must not follow half of this one
            raise
        self._bytes += written
        self._rows += len(chunk.rows)

    def snapshot(self, replay: MixedReplay) -> None:
        """Save ``replay`` whole and start the journal anew from there; old files go once the new ones are whole."""
        self._require_open()
        number = self._number + 1
        with staged_folder(self.folder / f"snapshot-{number:06d}") as stage:
            replay.save(stage)
            if self._sync:
                _sync_files(stage)
        self.close()
        self._number, self._bytes, self._rows = number, 0, 0
        self._open(self._segment(number))
        self._delete_older()

    def close(self) -> None:
        """Close the segment; what was appended stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _segment(self, number: int) -> Path:
        return self.folder / f"segment-{number:06d}.log"

    def _open(self, segment: Path) -> None:
        self._file = os.open(segment, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self._sync:
            _sync_folder(self.folder)

    def _require_open(self) -> int:
        if self._file is None:
            raise ValueError(f"the journal in {self.folder} is not open: recover() comes first, close() last.")
        return self._file

    def _replay_segment(self, segment: Path, replay: MixedReplay) -> int:
        chunks = 0
        for chunk, end in read_records(segment):
            replay.store(chunk.rows, chunk.episodes, ChunkName(chunk.source, chunk.sequence))
            self._bytes = end
            self._rows += len(chunk.rows)
            chunks += 1
        return chunks

    def _delete_older(self) -> None:
        """Remove segments and snapshots that a newer snapshot replaces, and halves of ones that never got whole."""
        for number, path in _numbered(self.folder, _SEGMENT).items():
            if number < self._number:
                path.unlink()
        for number, path in _numbered(self.folder, _SNAPSHOT).items():
            if number < self._number:
                shutil.rmtree(path)
        for path in self.folder.glob(".snapshot-*.partial"):
            shutil.rmtree(path)


def _numbered(folder: Path, name: re.Pattern[str]) -> dict[int, Path]:
    matches = ((name.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in matches if match}


def _cut(segment: Path, end: int) -> int:
    """Shorten ``segment`` to ``end`` bytes; returns how many that took."""
    extra = segment.stat().st_size - end if segment.exists() else 0
    if extra:
        os.truncate(segment, end)
    return extra


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
