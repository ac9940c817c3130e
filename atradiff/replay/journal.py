"""A replay that outlives its process: every acknowledged chunk of real rows is written down before the sender hears.

::

    FOLDER/
      snapshot-000004/   the whole replay at some moment, as MixedReplay.save writes it, with checksums
      segment-000004.log the chunks stored since, as records (atradiff/replay/journal_records.py)
      generation         tells copies of the journal on several nodes apart (atradiff/replay/journal_folder.py)

**Guarantee.** When the process dies at any moment, also of SIGKILL, every acknowledged real row comes back, once:
its record is in the operating system's hands before the acknowledgement. When the machine dies (power, kernel, node),
rows come back if the folder is on a file system that outlives it and ``sync`` was on: then each chunk waits for the
disk (``fsync``). Without ``sync`` a power cut may take the last seconds: no older file goes before the disk holds the
snapshot that replaces it. What it costs: ``benchmarks.replay_actor``.

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
from atradiff.replay.journal_folder import (
    JournalDamaged,
    generation_of,
    lock,
    renew_generation,
    require_whole,
    write_checksums,
)
from atradiff.replay.journal_records import ends_in_one_piece, read_records, record, write_parts
from atradiff.replay.mixed import MixedReplay
from atradiff.staging import staged_folder, sync_folder, sync_tree

_SNAPSHOT, _SEGMENT = re.compile(r"snapshot-(\d{6})"), re.compile(r"segment-(\d{6})\.log")

_LOCK_PATIENCE_SECONDS = 30.0
"""A process that was told to end may take that long before it lets go of the folder."""

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
    time of a recovery grows with the run. Call :meth:`recover` (or :meth:`begin`) once, before
    anything else.
    """

    def __init__(self, folder: Path, snapshot_every: int, *, sync: bool = False) -> None:
        if snapshot_every < 1:
            raise ValueError(f"snapshot_every must be at least 1 row, got {snapshot_every}.")
        self.folder = folder
        self.snapshot_every = snapshot_every
        self._sync = sync
        self._file: int | None = None
        self._lock: int | None = None
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

    @property
    def generation(self) -> str:
        """Whose journal this is, see :func:`atradiff.replay.journal_folder.generation_of`; there from the recovery on.

        Raises ``ValueError`` before that.
        """
        generation = generation_of(self.folder)
        if generation is None:
            raise ValueError(f"the journal in {self.folder} was not opened yet: recover() comes first.")
        return generation

    def recover(self, replay: MixedReplay, *, lock_patience: float = _LOCK_PATIENCE_SECONDS) -> Recovery:
        """Bring an empty ``replay`` to where the journal ends, and go on writing there; an empty folder is fine.

        Raises ``ValueError`` where the journal is of another configuration, :class:`JournalDamaged` where it is not
        what was written, ``OSError`` where another process still writes it after ``lock_patience`` seconds.
        """
        self._enter(lock_patience)
        try:
            return self._recover(replay)
        except BaseException:
            self.close()
            raise

    def begin(self, *, lock_patience: float = _LOCK_PATIENCE_SECONDS) -> None:
        """Instead of :meth:`recover`: go on as an empty journal of a new generation; what is there goes."""
        self._enter(lock_patience)
        self.renew()
        for path in (*_numbered(self.folder, _SNAPSHOT).values(), *_numbered(self.folder, _SEGMENT).values()):
            _delete(path)
        self._file = self._open(self._segment(0))

    def renew(self) -> None:
        """From now on no copy of the journal that was made before is taken for this one."""
        renew_generation(self.folder)

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
        """Save ``replay`` whole and start the journal anew from there; old files go once the disk holds the new ones.

        Raises ``OSError`` where the disk is full: the journal goes on as it was, and a snapshot is due again after
        another ``snapshot_every`` rows.
        """
        self._require_open()
        self._rows = 0
        number = self._number + 1
        file = self._open(self._segment(number))  # before the snapshot: there is no going on without it
        try:
            with staged_folder(self.folder / f"snapshot-{number:06d}") as stage:
                replay.save(stage)
                write_checksums(stage)
                sync_tree(stage)
        except BaseException:
            os.close(file)
            raise
        self._close_segment()
        self._file, self._number, self._bytes = file, number, 0
        sync_folder(self.folder)
        self._delete_older()

    def close(self) -> None:
        """Close the segment and let others have the folder; what was appended stays."""
        self._close_segment()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _enter(self, patience: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder, patience)

    def _recover(self, replay: MixedReplay) -> Recovery:
        if generation_of(self.folder) is None:
            self.renew()
        snapshots = _numbered(self.folder, _SNAPSHOT)
        self._number = max(snapshots, default=0)
        self._require_snapshot()
        if snapshots:
            require_whole(snapshots[self._number])
            replay.load(snapshots[self._number])
        snapshot_rows = replay.counters.env_steps
        segment = self._segment(self._number)
        chunks = self._replay_segment(segment, replay) if segment.exists() else 0
        cut = _cut(segment, self._bytes)
        if cut:
            _logger.warning("%s: cut off %d bytes after %d whole chunks.", segment, cut, chunks)
        self._file = self._open(segment)
        self._delete_older()
        return Recovery(snapshot_rows, chunks, replay.counters.env_steps - snapshot_rows, cut)

    def _require_snapshot(self) -> None:
        """Raise :class:`JournalDamaged` where chunks go on from a snapshot that is not there."""
        for number, segment in _numbered(self.folder, _SEGMENT).items():
            if number > self._number and segment.stat().st_size > 0:
                raise JournalDamaged(f"the snapshot that {segment} goes on from is missing")

    def _segment(self, number: int) -> Path:
        return self.folder / f"segment-{number:06d}.log"

    def _open(self, segment: Path) -> int:
        file = os.open(segment, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self._sync:
            sync_folder(self.folder)
        return file

    def _close_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

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
        """Remove segments and snapshots that a newer snapshot replaces, and what belongs to one that never got whole.

        No segment but an empty one is newer than the newest snapshot.
        """
        snapshots, segments = _numbered(self.folder, _SNAPSHOT), _numbered(self.folder, _SEGMENT)
        for number, path in (*segments.items(), *snapshots.items()):
            if number != self._number:
                _delete(path)
        for path in self.folder.glob(".snapshot-*.partial"):
            shutil.rmtree(path)


def _numbered(folder: Path, name: re.Pattern[str]) -> dict[int, Path]:
    matches = ((name.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in matches if match}


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _cut(segment: Path, end: int) -> int:
    """Shorten ``segment`` to ``end`` bytes; returns how many that took.

    What goes is kept in a file beside it where that is more than one record that was being written.
    """
    extra = segment.stat().st_size - end if segment.exists() else 0
    if not extra:
        return 0
    if not ends_in_one_piece(segment, end):
        aside = segment.with_name(f"{segment.name}.damaged-{end}")
        with segment.open("rb") as source, aside.open("wb") as target:
            source.seek(end)
            shutil.copyfileobj(source, target)
        _logger.warning("%s: a chunk in its midst is damaged, what follows is kept in %s.", segment, aside)
    os.truncate(segment, end)
    return extra
