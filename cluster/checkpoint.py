"""Checkpoints of a whole run, on disk or behind a URI: written so that a kill at any moment leaves an older whole one.

::

    step_000000012000/
      algorithm/       trainer: weights, optimisers, temperature, random state, metrics
      replay/          replay actor: both rings as npy, requests (queued and out), counters, random state, and the
                       index of windows to pick from, where the diffuser is adapted
      adaptation/      adapter: raw and EMA weights of the diffuser, and the optimisers, where it is adapted
      checkpoint.json  step, time, state (env steps, seconds, last return), every file's size and SHA-256

Which parts there are is the run's affair: in process the algorithm's holds the replay. On a disk the files are gathered
in a hidden folder, synced, and take their name with one rename; an object store has no rename, there the manifest,
written last, is what makes a folder a checkpoint. Deleting goes the other way: the manifest goes first. A name is never
used twice at once. One process at a time writes to a store.

Hashing costs one more pass over the files, from memory: 0.7 s of CPU for each GiB on the machine this was written on.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from atradiff.staging import staged_folder, sync_file, sync_folder, write_text
from cluster.checkpoint_files import (
    MANIFEST,
    DamagedCheckpoint,
    FileEntry,
    Manifest,
    Part,
    StoredPart,
    require_hashes,
    require_sizes,
)
from cluster.storage import Location

_NAME = re.compile(r"step_(\d{12})(?:\.(\d+))?")
_HIDDEN = re.compile(r"\.step_\d{12}.*\.partial")
_PART = re.compile(r"[a-z][a-z_]*")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    location: Location
    manifest: Manifest

    def __str__(self) -> str:
        return str(self.location)

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def state(self) -> dict[str, Any]:
        return self.manifest.state

    def part(self, name: str) -> StoredPart:
        """The part that was written under this name; raises ``ValueError`` where there is none."""
        prefix = f"{name}/"
        files = [f for f in self.manifest.files if f.name.startswith(prefix)]
        if not files:
            parts = sorted({f.name.partition("/")[0] for f in self.manifest.files})
            raise ValueError(f"{self} has no part {name}, only {', '.join(parts)}: it is of another kind of run.")
        return StoredPart(self.location / name, tuple(replace(f, name=f.name.removeprefix(prefix)) for f in files))


class CheckpointStore:
    """The checkpoints of one run, in a folder or behind a URI."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def write(self, step: int, parts: Mapping[str, Part], state: Mapping[str, Any], keep: int) -> Checkpoint:
        """Have every part write its files, then the manifest; then delete all but the newest ``keep`` checkpoints.

        Whatever a part raises is passed on: older checkpoints are then as they were.
        """
        _require_part_names(parts)
        self.clean()
        target = self._free(step)
        if self.location.local is None:
            manifest = _gather(target, step, parts, state)
            (target / MANIFEST).write_text(manifest.to_json())
        else:
            manifest = self._write_local(target, step, parts, state)
        for old in [folder for folder in self._folders() if _has_manifest(folder)][:-keep]:
            _delete(old)
        return Checkpoint(target, manifest)

    def newest_whole(self) -> Checkpoint | None:
        """The newest checkpoint whose files all have the sizes and hashes of its manifest; every byte is read.

        Damaged and unfinished ones are warned of by name and passed over. None where none was ever finished; raises
        :class:`DamagedCheckpoint` where some were and none is whole.
        """
        for folder in self.location.folders():
            if _HIDDEN.fullmatch(folder.basename):
                _logger.warning("%s was not finished and is not used.", folder)
        damaged = []
        for folder in reversed(self._folders()):
            try:
                return read_checkpoint(folder)
            except DamagedCheckpoint as error:
                _logger.warning("%s Trying the one before.", error)
                damaged += [str(error)] if _has_manifest(folder) else []
        if damaged:
            raise DamagedCheckpoint(f"no checkpoint in {self.location} is whole. " + " ".join(damaged))
        return None

    def named(self, name: str) -> Checkpoint:
        """The checkpoint of this folder name; raises :class:`DamagedCheckpoint` where it is not whole."""
        return read_checkpoint(self.location / name)

    def drop_after(self, step: int) -> None:
        """Delete newer checkpoints: who resumes an older one abandons the future that they hold.

        Those that cannot be read are renamed (``.step_000000012000.damaged-1``): another version may read them.
        """
        for folder in self._folders():
            if _order(folder)[0] <= step:
                continue
            if _has_manifest(folder) and not _can_be_read(folder):
                _logger.warning("%s cannot be read and is kept in %s.", folder, _set_aside(folder))
            else:
                _delete(folder)

    def clean(self) -> None:
        """Delete what a killed writer left unfinished."""
        for folder in self.location.folders():
            unfinished = _NAME.fullmatch(folder.basename) and not _has_manifest(folder)
            if unfinished or _HIDDEN.fullmatch(folder.basename):
                folder.delete_folder()

    def _folders(self) -> list[Location]:
        """Everything that has a checkpoint's name, oldest first."""
        return sorted((f for f in self.location.folders() if _NAME.fullmatch(f.basename)), key=_order)

    def _free(self, step: int) -> Location:
        """A name for the step that nothing has yet: what is there is never written over."""
        attempts = [_order(folder)[1] for folder in self._folders() if _order(folder)[0] == step]
        suffix = f".{max(attempts) + 1}" if attempts else ""
        return self.location / f"step_{step:012d}{suffix}"

    def _write_local(
        self, target: Location, step: int, parts: Mapping[str, Part], state: Mapping[str, Any]
    ) -> Manifest:
        out, folder = target.local, self.location.local
        if out is None or folder is None:
            raise ValueError(f"{target} is no path of this machine.")
        with staged_folder(out) as staging:
            manifest = _gather(Location.of(staging), step, parts, state)
            write_text(staging / MANIFEST, manifest.to_json())
            sync_file(staging / MANIFEST)
            sync_folder(staging)
        sync_folder(folder)
        return manifest


def read_checkpoint(folder: Location) -> Checkpoint:
    """The checkpoint in ``folder``; raises :class:`DamagedCheckpoint`, which says what is wrong."""
    try:
        manifest = Manifest.read(folder)
        require_sizes(folder, manifest.files)
        require_hashes(folder, manifest.files)
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{folder} is not a whole checkpoint: {error}.") from error
    return Checkpoint(folder, manifest)


def _gather(target: Location, step: int, parts: Mapping[str, Part], state: Mapping[str, Any]) -> Manifest:
    files: list[FileEntry] = []
    for name, part in parts.items():
        written = part(target / name)
        _require_seen(target / name, written)
        files += [replace(entry, name=f"{name}/{entry.name}") for entry in written]
    return Manifest(step, time.strftime("%Y-%m-%dT%H:%M:%S%z"), dict(state), tuple(files))


def _require_seen(folder: Location, written: list[FileEntry]) -> None:
    """An owner on another node writes to that node's disk, unless all nodes share it."""
    try:
        require_sizes(folder, written)
    except DamagedCheckpoint as error:
        raise OSError(
            f"what the owner of {folder} wrote cannot be seen from here ({error}). Where its process runs on another "
            "machine, set output to a folder that all machines share, or to a URI (s3://, gs://, hdfs://)."
        ) from error


def _require_part_names(parts: Mapping[str, Part]) -> None:
    for name in parts:
        if not _PART.fullmatch(name):
            raise ValueError(f"a checkpoint's part is named by small letters and underscores, got {name!r}.")


def _order(folder: Location) -> tuple[int, int]:
    """Step and attempt: the second checkpoint of a step is named ``step_000000012000.1``."""
    match = _NAME.fullmatch(folder.basename)
    if match is None:
        raise ValueError(f"{folder} is no checkpoint's name.")
    return int(match[1]), int(match[2] or 0)


def _has_manifest(folder: Location) -> bool:
    return (folder / MANIFEST).exists()


def _can_be_read(folder: Location) -> bool:
    """By its manifest and the sizes of its files: it is about to be deleted, and may be large."""
    try:
        require_sizes(folder, Manifest.read(folder).files)
    except DamagedCheckpoint:
        return False
    return True


def _set_aside(folder: Location) -> Location:
    """Give ``folder`` a name under which nobody looks for a checkpoint; returns that. Behind a URI it is copied."""
    number = 1
    while (aside := folder.parent / f".{folder.basename}.damaged-{number}").exists():
        number += 1
    if folder.local is not None and aside.local is not None:
        folder.local.rename(aside.local)
        return aside
    for name in folder.files_below():
        with TemporaryDirectory() as scratch:
            (folder / name).download(Path(scratch) / "copy")
            (aside / name).upload(Path(scratch) / "copy")
    _delete(folder)
    return aside


def _delete(folder: Location) -> None:
    """The manifest first: a deletion that is killed half way leaves nothing that looks like a checkpoint."""
    (folder / MANIFEST).delete_file()
    folder.delete_folder()
