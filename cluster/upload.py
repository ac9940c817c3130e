"""What a job takes along: the folder with the code and configs, without what is large or made anew."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

LIMIT_BYTES = 100 * 1000**2
ANYWHERE = (".git", ".venv", "venv", "__pycache__", "*.egg-info", "node_modules", ".*_cache", ".hypothesis")
AT_THE_TOP = ("runs", "data", "models")
_LARGEST_SHOWN = 5


@dataclass(frozen=True)
class Upload:
    """``folder`` is uploaded, except for :data:`ANYWHERE`, :data:`AT_THE_TOP`, what git ignores, and ``exclude``.

    ``exclude`` has names or paths under the folder; ``*`` stands for anything (``docs``, ``notebooks/*.mp4``).
    """

    folder: Path
    exclude: tuple[str, ...] = ()

    @property
    def patterns(self) -> list[str]:
        """The exclusions as Ray's ``runtime_env`` takes them: those of ``.gitignore``, from the folder downwards."""
        return [*ANYWHERE, *(f"/{name.strip('/')}" for name in (*AT_THE_TOP, *self.exclude))]

    def takes(self, path: Path) -> bool:
        """Whether ``path`` travels with the job."""
        try:
            relative = PurePosixPath(path.absolute().relative_to(self.folder.absolute()).as_posix())
        except ValueError:
            return False
        return not self._excluded(relative)

    def require_size(self) -> int:
        """Bytes to upload; raises ``ValueError`` with the largest folders where they are too many for one upload."""
        sizes: Counter[str] = Counter()
        for path in self._files():
            parts = path.parts
            sizes["/".join(parts[: min(2, len(parts) - 1)]) or "."] += (self.folder / path).lstat().st_size
        total = sum(sizes.values())
        if total > LIMIT_BYTES:
            largest = ", ".join(f"{name} {_megabytes(size)}" for name, size in sizes.most_common(_LARGEST_SHOWN))
            raise ValueError(
                f"{self.folder} has {_megabytes(total)} to upload, more than {_megabytes(LIMIT_BYTES)}: {largest}. "
                "Leave out what the job does not need with --exclude NAME (more than once, if need be), and put data "
                "where the cluster's nodes can read it."
            )
        return total

    def _excluded(self, path: PurePosixPath) -> bool:
        if any(fnmatch(part, pattern) for part in path.parts for pattern in ANYWHERE):
            return True
        parents = [str(path), *(str(parent) for parent in path.parents)]
        return any(fnmatch(parent, name.strip("/")) for parent in parents for name in (*AT_THE_TOP, *self.exclude))

    def _files(self) -> Iterator[PurePosixPath]:
        """The files that are uploaded, relative to the folder."""
        listed = _files_known_to_git(self.folder)
        for path in _all_files(self) if listed is None else listed:
            if not self._excluded(path) and (self.folder / path).exists():
                yield path


def _files_known_to_git(folder: Path) -> list[PurePosixPath] | None:
    """Files that git has or would add; None where ``folder`` is no part of a checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [PurePosixPath(name) for name in done.stdout.split("\0") if name]


def _all_files(upload: Upload) -> Iterator[PurePosixPath]:
    for root, folders, files in os.walk(upload.folder):
        here = PurePosixPath(Path(root).relative_to(upload.folder).as_posix())
        folders[:] = [name for name in folders if not upload._excluded(here / name)]
        yield from (here / name for name in files)


def _megabytes(size: int) -> str:
    return f"{size / 1000**2:.1f} MB"


def find_working_dir(start: Path) -> Path:
    """The checkout of this project that ``start`` lies in; ``start`` itself where it lies in none."""
    return next((folder for folder in (start, *start.parents) if (folder / "cluster" / "run.py").is_file()), start)


def inside(folder: Path, path: str, what: str) -> str:
    """``path`` relative to ``folder``; raises ``ValueError`` where it is no file under it."""
    file = Path(os.path.abspath(path))  # without "..", and without following links out of the folder
    if not file.is_file():
        raise ValueError(f"{what} {path} is not there.")
    if not file.is_relative_to(folder.absolute()):
        raise ValueError(
            f"{what} {file} does not lie under {folder}, the folder that is uploaded with the job: move it there, or "
            "name another folder with --working-dir."
        )
    return file.relative_to(folder.absolute()).as_posix()


def words_of(values: Sequence[tuple[str, str | None]]) -> list[str]:
    """``--name value`` for each pair that has a value."""
    return [word for name, value in values if value is not None for word in (f"--{name}", value)]
