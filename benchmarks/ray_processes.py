"""The worker processes of this driver's own local Ray, by what Ray calls them. Linux."""

from __future__ import annotations

from pathlib import Path

TITLES = {
    "trainer": "ray::Trainer",
    "replay": "ray::ReplayActor",
    "generator": "ray::GeneratorActor",
    "adapter": "ray::AdapterActor",
    "env_runner": "ray::DirectEnvRunner",
    "learner": "ray::_WrappedExecutable",
}
"""How Ray titles the process of each role of a run; a method's name may follow."""


def processes(role: str, driver: int) -> list[int]:
    """Processes of ``role`` whose Ray was started by the process ``driver``."""
    title = TITLES[role]
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _title(entry) == title]
    return sorted(pid for pid in found if driver in _ancestors(pid))


def _title(entry: Path) -> str | None:
    """``ray::Trainer`` of ``ray::Trainer.advance``; None for a process that has ended."""
    try:
        return (
            (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0 ").partition(".")[0].partition("(")[0]
        )
    except OSError:
        return None


def _ancestors(pid: int) -> list[int]:
    line: list[int] = []
    while pid > 1:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(status.rpartition(")")[2].split()[1])
        line.append(pid)
    return line
