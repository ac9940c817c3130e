"""A part of an RLlib checkpoint that is a folder of plain files, never pickled and never passed through the driver."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray.rllib.utils.checkpoints import Checkpointable

from atradiff.staging import staged_folder


class FolderComponent(Checkpointable):
    """Calls ``save(folder)`` and ``load(folder)`` when RLlib writes and reads its checkpoints.

    The folder is written under a temporary name and renamed. On a remote filesystem it is copied from and to a
    temporary local one. :meth:`get_state` is empty: what counts lies in the files.
    """

    def __init__(self, save: Callable[[Path], None], load: Callable[[Path], None]) -> None:
        self._save = save
        self._load = load

    def save_to_path(
        self, path: str | Path | None = None, *, filesystem: pyarrow.fs.FileSystem | None = None, **_: Any
    ) -> str:
        """Write a folder at ``path`` (None: a temporary one) of ``filesystem`` (None: the local one); returns where."""
        target = Path(tempfile.mkdtemp()) / "state" if path is None else Path(path)
        if _is_local(filesystem):
            with staged_folder(target) as staged:
                self._save(staged)
            return str(target)
        with tempfile.TemporaryDirectory() as scratch:
            self._save(Path(scratch))
            pyarrow.fs.copy_files(scratch, target.as_posix(), destination_filesystem=filesystem)
        return str(target)

    def restore_from_path(self, path: str | Path, *, filesystem: pyarrow.fs.FileSystem | None = None, **_: Any) -> None:
        """Read what :meth:`save_to_path` wrote; a remote folder is fetched first."""
        if _is_local(filesystem):
            self._load(Path(path))
            return
        with tempfile.TemporaryDirectory() as scratch:
            pyarrow.fs.copy_files(Path(path).as_posix(), scratch, source_filesystem=filesystem)
            self._load(Path(scratch))

    def get_state(
        self,
        components: str | Collection[str] | None = None,  # noqa: ARG002
        *,
        not_components: str | Collection[str] | None = None,  # noqa: ARG002
        **_: Any,
    ) -> dict[str, Any]:
        """Empty: see the class."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to do: the state is in the files."""

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {}


def _is_local(filesystem: pyarrow.fs.FileSystem | None) -> bool:
    return filesystem is None or isinstance(filesystem, pyarrow.fs.LocalFileSystem)
