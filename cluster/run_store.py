"""Where a run is kept: its own folder, or a URI that a local working folder is mirrored to."""

from __future__ import annotations

import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atradiff.locking import LOCK_FILE, locked
from cluster.checkpoint import Checkpoint, CheckpointStore
from cluster.checkpoint_files import Part
from cluster.run_folder import RunFolder
from cluster.storage import Location, working_folder

_CHECKPOINTS = "checkpoints"
_MIRRORED_LAST = ("config.yaml", "summary.json")
"""They say that a run has begun, and that it is complete: whatever is killed before, the rest is there by then."""
_TRAINED_ON = ".trained-on"
"""Whose driver began the session, and the machine that its newest trainer works on."""


class RunStore:
    """A run's files to work with (:attr:`folder`) and the place that keeps them (:attr:`location`) with checkpoints.

    For a path both are the same. Behind a URI the small files are mirrored with :meth:`mirror`, checkpoints are
    written and read there directly. A run kept behind a URI can be resumed on any machine that reaches it. May be
    pickled: the process that receives it calls :meth:`ensure_here`.
    """

    def __init__(self, location: Location, folder: Path | None = None) -> None:
        self.location = location
        self.folder = RunFolder(folder or working_folder(location.name))
        self.checkpoints = CheckpointStore(location / _CHECKPOINTS)
        self._named: str | None = None
        self._mirrored: dict[str, tuple[int, int]] = {}
        self._machine: str | None = None
        self._session = uuid.uuid4().hex

    @classmethod
    def of(cls, where: str | Path, folder: Path | None = None) -> RunStore:
        """The run that ``where`` is, or that it is a checkpoint of; raises ``ValueError`` where it is neither.

        ``folder``: where to work when ``where`` is a URI, None for :func:`working_folder`.
        """
        location = Location.of(where)
        if (location / "config.yaml").exists():
            return cls(location, folder)
        run = location.parent.parent
        if not (run / "config.yaml").exists():
            raise ValueError(f"{where} is neither a run folder nor a checkpoint of one: there is no config.yaml.")
        store = cls(run, folder)
        store._named = location.basename
        return store

    @property
    def names_checkpoint(self) -> bool:
        """Whether it was found by one of its checkpoints, which is then the one to go on from."""
        return self._named is not None

    @property
    def started(self) -> bool:
        return (self.location / "config.yaml").exists()

    @property
    def complete(self) -> bool:
        return (self.location / "summary.json").exists()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from training the run during the block; raises ``ValueError`` where one does.

        The working folder is what is locked: behind a URI, nobody sees who trains on another machine.
        """

        def refuse(holder: str) -> None:
            """``holder``: who trains it."""
            raise ValueError(
                f"{self.location} is being trained by another process ({holder}): wait for it, or choose another "
                "--name or --output."
            )

        with locked(self.folder.path / LOCK_FILE, refuse):
            yield

    def config_text(self) -> str:
        """The run's resolved config, as YAML."""
        return (self.location / "config.yaml").read_text()

    def fetch(self) -> None:
        """Behind a URI: make the working folder what is kept there (without checkpoints), whatever it was before.

        Hidden files stay if the run has begun: they are what its actors left on this machine, such as a journal.
        """
        if self.location.local is not None:
            return
        self._forget(hidden=not self.started)
        for name in self.location.files_below():
            if not name.startswith(f"{_CHECKPOINTS}/") and not _hidden(name):
                (self.location / name).download(self.folder.path / name)
        self._mirrored = {name: self._stamp(name) for name in self._files()}
        self._machine = socket.gethostname()

    def ensure_here(self) -> None:
        """For a process that was handed the store of a run that has begun: see to it that its files are here, too.

        Behind a URI they are fetched wherever the trainer before was on another machine: what lies here, also where
        the driver is, is then from before that. Where it was on this one, its files are ahead of what was mirrored.

        Raises ``ValueError`` where the run is kept in a folder that this machine does not share.
        """
        here = socket.gethostname()
        if self.location.local is None:
            if here != self._last_machine():
                self.fetch()
            (self.location / _TRAINED_ON).write_text(f"{self._session} {here}")
        elif not self.started:
            raise ValueError(
                f"{self.location} is not to be seen on {here}, where a part of the run was placed: set output to a "
                "folder that all machines share, or to a URI (s3://, gs://, hdfs://)."
            )

    def mirror(self) -> None:
        """Behind a URI: bring it up to date with the working folder. Nothing to do for a path."""
        if self.location.local is not None:
            return
        files = self._files()
        for name in self._mirrored.keys() - set(files):
            (self.location / name).delete_file()
            del self._mirrored[name]
        for name in files:
            stamp = self._stamp(name)
            if self._mirrored.get(name) != stamp:
                (self.location / name).upload(self.folder.path / name)
                self._mirrored[name] = stamp

    def find_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from: the one that was named, else the newest whole one; None where none is yet.

        Raises :class:`cluster.checkpoint_files.DamagedCheckpoint` where what there is cannot be used.
        """
        return self.checkpoints.named(self._named) if self._named else self.checkpoints.newest_whole()

    def write_checkpoint(
        self, env_steps: int, parts: Mapping[str, Part], state: Mapping[str, Any], keep: int
    ) -> Checkpoint:
        """:meth:`CheckpointStore.write`, with the small files of this moment before it.

        In this order the curve behind a URI may be ahead of the newest checkpoint, from where a resumed run cuts it
        back, but never lacks what came before it.
        """
        self.mirror()
        return self.checkpoints.write(env_steps, parts, state, keep)

    def _last_machine(self) -> str | None:
        """Where the session's newest trainer worked; before the first one, where its driver fetched the run."""
        note = self.location / _TRAINED_ON
        session, _, machine = (note.read_text() if note.exists() else "").partition(" ")
        return machine if session == self._session else self._machine

    def _forget(self, *, hidden: bool) -> None:
        """Empty the working folder, all of it or what is not hidden; who holds it goes on holding it."""
        for path in self.folder.path.glob("*"):
            if path.name != LOCK_FILE and (hidden or not path.name.startswith(".")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _files(self) -> list[str]:
        """Names of what is mirrored, in its order: all but hidden files, which are for watchers on this machine."""
        root = self.folder.path
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        last = {name: order for order, name in enumerate(_MIRRORED_LAST)}
        return sorted((name for name in names if not _hidden(name)), key=lambda name: (last.get(name, -1), name))

    def _stamp(self, name: str) -> tuple[int, int]:
        stat = (self.folder.path / name).stat()
        return stat.st_size, stat.st_mtime_ns


def _hidden(name: str) -> bool:
    """Files for this machine only, and what a killed upload left behind a URI."""
    return any(part.startswith(".") for part in name.split("/"))
