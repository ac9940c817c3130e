"""What actors write and read by themselves, in a folder that they and we must both see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.checkpoint_files import DamagedCheckpoint, FileEntry, Part, StoredPart, require_sizes
from cluster.storage import Location

_SHARE = (
    "Checkpoints need a folder that all machines of the cluster share (storage behind a URI passes through TMPDIR), or "
    "a placement of ActorServices that keeps its actors on the machine of the algorithm."
)


def write_into(folder: Path, write: Part) -> None:
    """Have an actor ``write`` its part into ``folder``; ``OSError`` where it is on a machine without it."""
    location = Location.of(folder)
    entries = write(location)
    try:
        require_sizes(location, entries)
    except DamagedCheckpoint as error:
        raise OSError(f"{folder} was written by an actor on another machine, here {error}. {_SHARE}") from error


def read_from(folder: Path, read: Callable[[StoredPart], None]) -> None:
    """Have an actor ``read`` what is in ``folder``; ``ValueError`` where it sees other files there than we do."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [FileEntry(file.relative_to(folder).as_posix(), file.stat().st_size, "") for file in files]
    try:
        read(StoredPart(Location.of(folder), tuple(entries)))
    except DamagedCheckpoint as error:
        raise ValueError(f"{folder} is not the same for an actor on another machine: {error}. {_SHARE}") from error
