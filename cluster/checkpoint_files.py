"""What a checkpoint is made of: parts that their owners write and read, and a manifest that tells their files.

An owner is whoever holds what is stored: the trainer its algorithm, the replay actor its rings, the adapter its
diffuser. It gets a :class:`Location`, which may be pickled, and calls :func:`write_part` in its own process, so that
large arrays reach the disk or the object store without passing through anybody else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from atradiff.staging import sync_file, sync_folder
from cluster.storage import Location

MANIFEST = "checkpoint.json"
_FORMAT = 2
_TOLD = 3
_SCRATCH = "atradiff-checkpoint-"


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not whole, with what is wrong."""


@dataclass(frozen=True)
class FileEntry:
    """A file: its ``name`` relative to the checkpoint's (or part's) folder, its bytes and their SHA-256 in hex."""

    name: str
    size: int
    sha256: str


Part = Callable[[Location], list[FileEntry]]
"""Makes an owner write its files into a folder with :func:`write_part`, and returns what that returned."""


def here(writer: Callable[[Path], None]) -> Part:
    """The :data:`Part` of an owner in this very process."""
    return partial(write_part, writer=writer)


def write_part(target: Location, writer: Callable[[Path], None]) -> list[FileEntry]:
    """Let ``writer`` fill a folder; its files are in ``target``, and safe, when this returns.

    What is in ``target`` already goes: an owner that died as it wrote is asked again by Ray. Behind a URI the folder is
    a temporary one (in ``TMPDIR``, which must hold the part) that is uploaded.
    """
    if target.local is not None:
        if target.local.exists():
            shutil.rmtree(target.local)
        target.local.mkdir(parents=True)
        writer(target.local)
        entries = _entries(target.local)
        _sync(target.local, entries)
        return entries
    with TemporaryDirectory(prefix=_SCRATCH) as scratch:
        writer(Path(scratch))
        entries = _entries(Path(scratch))
        for entry in entries:
            (target / entry.name).upload(Path(scratch) / entry.name)
    return entries


@dataclass(frozen=True)
class StoredPart:
    """One part of a whole checkpoint. May be pickled: its owner opens it in its own process."""

    location: Location
    files: tuple[FileEntry, ...]

    @contextmanager
    def open(self) -> Iterator[Path]:
        """A local folder with the files: the checkpoint's own, or behind a URI a copy that is deleted afterwards.

        Raises :class:`DamagedCheckpoint` where a file differs from what was written, of local ones only its size.
        """
        require_sizes(self.location, self.files)
        if self.location.local is not None:
            yield self.location.local
            return
        with TemporaryDirectory(prefix=_SCRATCH) as scratch:
            for entry in self.files:
                digest = (self.location / entry.name).download(Path(scratch) / entry.name)
                _require_hash(self.location, entry, digest)
            yield Path(scratch)


@dataclass(frozen=True)
class Manifest:
    """Written last: with it a checkpoint is whole. ``state`` is what the run says of itself, as JSON."""

    step: int
    written_at: str
    state: dict[str, Any]
    files: tuple[FileEntry, ...]

    def to_json(self) -> str:
        """With a digest of everything else in it, so that a damaged manifest is known for one."""
        body = json.loads(json.dumps({"format": _FORMAT, **asdict(self)}))  # keys are strings, as when it is read
        return json.dumps({**body, "sha256": _digest(body)}, indent=1)

    @classmethod
    def read(cls, folder: Location) -> Manifest:
        """Raises :class:`DamagedCheckpoint` where there is none, it was changed, or it is of another version."""
        try:
            body = json.loads((folder / MANIFEST).read_text())
        except FileNotFoundError as error:
            raise DamagedCheckpoint(f"it has no {MANIFEST}: its writing was not finished") from error
        except ValueError as error:
            raise DamagedCheckpoint(f"its {MANIFEST} is damaged ({error})") from error
        if not isinstance(body, dict) or "format" not in body:
            raise DamagedCheckpoint(f"its {MANIFEST} tells no format: it was written by another version, or damaged")
        if body.pop("sha256", None) != _digest(body):
            raise DamagedCheckpoint(f"its {MANIFEST} was changed after it was written")
        if body["format"] != _FORMAT:
            raise DamagedCheckpoint(f"it has format {body['format']}, this version reads {_FORMAT}")
        files = tuple(FileEntry(**entry) for entry in body["files"])
        return cls(body["step"], body["written_at"], body["state"], files)


def require_sizes(folder: Location, files: Sequence[FileEntry]) -> None:
    """Raise :class:`DamagedCheckpoint` where a file is missing or has another size than its entry says."""
    wrong = []
    for entry, size in zip(files, folder.sizes_of([entry.name for entry in files]), strict=True):
        if size is None:
            wrong.append(f"{entry.name} is missing")
        elif size != entry.size:
            wrong.append(f"{entry.name} has {size:,} bytes, its manifest says {entry.size:,}")
    if wrong:
        more = f" and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        raise DamagedCheckpoint("; ".join(wrong[:_TOLD]) + more)


def require_hashes(folder: Location, files: Sequence[FileEntry]) -> None:
    """Read every file, and raise :class:`DamagedCheckpoint` where one has other bytes than were written."""
    for entry in files:
        _require_hash(folder, entry, (folder / entry.name).sha256())


def _require_hash(folder: Location, entry: FileEntry, digest: str) -> None:
    if digest != entry.sha256:
        raise DamagedCheckpoint(
            f"{entry.name} in {folder} has other bytes than were written: SHA-256 {digest[:12]}..., its manifest says "
            f"{entry.sha256[:12]}..."
        )


def _entries(folder: Path) -> list[FileEntry]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [_entry(path, path.relative_to(folder).as_posix()) for path in files]


def _entry(path: Path, name: str) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(name, path.stat().st_size, digest)


def _sync(folder: Path, entries: Sequence[FileEntry]) -> None:
    for entry in entries:
        sync_file(folder / entry.name)
    for path in {folder, *((folder / entry.name).parent for entry in entries)}:
        sync_folder(path)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode("utf-8")).hexdigest()
