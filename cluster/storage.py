"""Folders and files on this machine's disk, or wherever a ``pyarrow.fs`` URI leads: s3, gs, abfs, hdfs, file."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pyarrow import fs

from atradiff.staging import write_text

_CHUNK_BYTES = 8 << 20
_WITH_FOLDERS = ("local", "subtree", "hdfs")
"""File systems whose folders are made first, which show a file while it is written and can rename it. All others are
object stores: a file appears whole when it is closed, and making folders could ask for rights that nothing else needs.
"""
_TELLING = 3
"""The last parts of a run's name say which it is: name, augmentation, seed."""
_GCS_PATIENCE = "retry_limit_seconds=60"
"""Google's client would try for 15 minutes before it says that a bucket cannot be reached."""


def is_uri(text: str) -> bool:
    """Whether ``text`` is a URI rather than a path of this machine."""
    return "://" in text


def join(where: str, *names: str) -> str:
    """``where``, a path or a URI (whose ``?options`` stay at its end), followed by ``names``."""
    if not is_uri(where):
        return str(Path(where, *names))
    base, question, options = where.partition("?")
    return "/".join([base.rstrip("/"), *names]) + question + options


def working_folder(where: str) -> Path:
    """Where what is kept at this path or URI is worked on: the path itself, or a folder in the user's cache."""
    if not is_uri(where):
        return Path(where)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(where.encode()).hexdigest()[:12]
    return cache.joinpath("atradiff", "runs", name, *PurePosixPath(where.partition("?")[0]).parts[-_TELLING:])


@dataclass(frozen=True)
class Location:
    """A file or folder: ``path`` in ``filesystem``; ``name`` is what people call it, a path or a URI.

    May be pickled, so that an actor on another node can write to it. What is named by a plain path is
    :attr:`local`; a ``file://`` URI is treated like every other URI.
    """

    filesystem: fs.FileSystem
    path: str
    name: str

    @classmethod
    def of(cls, where: str | Path) -> Location:
        """Raises ``ValueError`` where no filesystem of pyarrow's understands the URI, or its driver is missing."""
        text = str(where)
        if not is_uri(text):
            path = str(Path(text).absolute())
            return cls(fs.LocalFileSystem(), path, path)
        try:
            filesystem, path = fs.FileSystem.from_uri(_patient(text))
        except (ValueError, OSError, NotImplementedError) as error:
            raise ValueError(
                f"{text} cannot be opened: {error}. Give a path, or a URI that begins with file:///, s3://, gs://, "
                "abfs:// or hdfs://."
            ) from error
        return cls(filesystem, path.rstrip("/"), join(text))

    def __truediv__(self, name: str) -> Location:
        return replace(self, path=str(PurePosixPath(self.path) / name), name=join(self.name, name))

    def __str__(self) -> str:
        return self.name

    @property
    def parent(self) -> Location:
        """The folder that this one is in."""
        if self.local is not None:
            return Location.of(self.local.parent)
        base, question, options = self.name.partition("?")
        name = base.rstrip("/").rpartition("/")[0] + question + options
        return replace(self, path=str(PurePosixPath(self.path).parent), name=name)

    @property
    def basename(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def local(self) -> Path | None:
        """The path on this machine; None behind a URI."""
        return None if is_uri(self.name) else Path(self.path)

    def exists(self) -> bool:
        """Whether there is a file or folder of this name."""
        return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def sizes_of(self, names: Sequence[str]) -> list[int | None]:
        """The bytes of these files of the folder, None for those that are not there."""
        infos = self.filesystem.get_file_info([(self / name).path for name in names])
        return [info.size if info.type == fs.FileType.File else None for info in infos]

    def folders(self) -> list[Location]:
        """The folders in this one, by name; none where it is not there."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return [self / name for name in sorted(i.base_name for i in found if i.type == fs.FileType.Directory)]

    def files_below(self) -> list[str]:
        """The names, relative to this folder, of all files in it and below."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True, recursive=True))
        paths = [PurePosixPath(info.path) for info in found if info.type == fs.FileType.File]
        return sorted(str(path.relative_to(PurePosixPath(self.path))) for path in paths)

    def read_text(self) -> str:
        """Raises ``FileNotFoundError``."""
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read()).decode("utf-8")

    def write_text(self, text: str) -> None:
        """Write the file whole or not at all, making its folder where needed."""
        if self.local is not None:
            write_text(self.local, text)
        else:
            self._put([text.encode("utf-8")])

    def upload(self, source: Path) -> None:
        """Write the file whole or not at all with the bytes of ``source``."""
        with source.open("rb") as file:
            self._put(iter(lambda: file.read(_CHUNK_BYTES), b""))

    def download(self, target: Path) -> str:
        """Copy the file to ``target``, making its folder where needed, and return its SHA-256."""
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for chunk in self._chunks():
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

    def sha256(self) -> str:
        """The hash of the file as it is stored: all of it is read."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def delete_file(self) -> None:
        """Delete the file; nothing where it is not there."""
        if self.exists():
            self.filesystem.delete_file(self.path)

    def delete_folder(self) -> None:
        """Delete the folder with all that is in it; nothing where it is not there."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def require_writable(self) -> None:
        """Write and delete a small file; raises ``ValueError`` with the reason where that fails."""
        probe = self / f".probe-{uuid.uuid4().hex[:8]}"
        try:
            self._make()
            probe.write_text("atradiff")
            probe.delete_file()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"nothing can be written to {self}: {error}. Check that the place exists, that this machine reaches "
                "it, and that its credentials may write and delete there."
            ) from error

    def _chunks(self) -> Iterator[bytes]:
        with self.filesystem.open_input_stream(self.path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield bytes(chunk)

    def _put(self, chunks: Iterator[bytes] | list[bytes]) -> None:
        if not self._has_folders:
            self._stream(self.path, chunks)
            return
        self.parent._make()
        folder, _, name = self.path.rpartition("/")
        staging = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.partial"
        self._stream(staging, chunks)
        if self.filesystem.type_name == "hdfs":  # its rename does not replace
            self.delete_file()
        self.filesystem.move(staging, self.path)

    def _stream(self, path: str, chunks: Iterator[bytes] | list[bytes]) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            for chunk in chunks:
                stream.write(chunk)

    def _make(self) -> None:
        if self._has_folders:
            self.filesystem.create_dir(self.path, recursive=True)

    @property
    def _has_folders(self) -> bool:
        return self.filesystem.type_name in _WITH_FOLDERS


def _patient(uri: str) -> str:
    """A ``gs://`` URI with a limit on its retries, unless it says one itself."""
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{_GCS_PATIENCE}"
