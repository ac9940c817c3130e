"""How much memory a replay takes, and whether this machine, or this container, has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atradiff.replay.config import ReplayConfig
from atradiff.replay.ring import row_bytes, synthetic_columns, transition_columns
from atradiff.types import Spaces

_LINK_BYTES = 8
"""The id of the next row of the episode, kept for each real row."""


@dataclass(frozen=True)
class ReplayMemory:
    """Rows and bytes per row of both rings; they are allocated once, so this is all that they will ever take.

    Offline rows are not allocated by the replay: they lie in Ray's object store, or in a mapped file.
    """

    real_rows: int
    real_row_bytes: int
    synthetic_rows: int
    synthetic_row_bytes: int
    offline_rows: int = 0
    offline_row_bytes: int = 0

    @classmethod
    def of(cls, spaces: Spaces, config: ReplayConfig, offline_rows: int = 0) -> ReplayMemory:
        """What a replay of these settings takes; the capacities count, not how full it is."""
        return cls(
            config.capacity,
            row_bytes(transition_columns(spaces)) + _LINK_BYTES,
            config.synthetic_capacity,
            row_bytes(synthetic_columns(spaces)),
            offline_rows,
            row_bytes(transition_columns(spaces)),
        )

    @property
    def rings(self) -> int:
        """Bytes that the replay allocates."""
        return self.real_rows * self.real_row_bytes + self.synthetic_rows * self.synthetic_row_bytes

    @property
    def total(self) -> int:
        """Bytes with the offline rows."""
        return self.rings + self.offline_rows * self.offline_row_bytes

    def __str__(self) -> str:
        text = (
            f"{self.real_rows} real rows x {self.real_row_bytes} bytes + {self.synthetic_rows} synthetic rows x "
            f"{self.synthetic_row_bytes} bytes = {_gib(self.rings)}"
        )
        if self.offline_rows == 0:
            return text
        offline = self.offline_rows * self.offline_row_bytes
        return f"{text} beside {self.offline_rows} offline rows x {self.offline_row_bytes} bytes = {_gib(offline)}"


def require_memory(
    spaces: Spaces, config: ReplayConfig, available: int | None = None, offline_rows: int = 0
) -> ReplayMemory:
    """What the replay takes; raises ``ValueError`` with the arithmetic where ``available`` bytes hold no such rings.

    ``available`` None asks the machine: see :func:`available_memory`. ``offline_rows`` have their memory already.
    """
    needed = ReplayMemory.of(spaces, config, offline_rows)
    free = available_memory() if available is None else available
    if needed.rings > free:
        raise ValueError(
            f"the replay needs {needed}, but {_gib(free)} of memory are free here: lower replay.capacity (now "
            f"{config.capacity}; {int(config.capacity * free / needed.rings)} would just fit), lower replay.rho, or "
            "use a machine with more memory."
        )
    return needed


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take: what the machine has left, or less where a cgroup limits it.

    Reads cgroups of both versions, as Docker, Kubernetes and Slurm set them. Page cache counts as free.
    """
    return min(_machine_memory(proc), *_cgroup_memory(proc, cgroups))


def _machine_memory(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise ValueError(f"{proc / 'meminfo'} has no MemAvailable: the memory of this machine is unknown.")


def _cgroup_memory(proc: Path, cgroups: Path) -> Iterator[int]:
    """What each limited cgroup above this process has left; at least one number, which may be no limit at all."""
    yield 1 << 62
    for group in _memory_groups(proc, cgroups):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            if (group / limit).is_file() and (text := (group / limit).read_text().strip()) != "max":
                used = int((group / usage).read_text()) - _statistic(group / "memory.stat", cache)
                yield max(int(text) - used, 0)


def _memory_groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Folders of the groups that hold this process, from its own up to the root; in a container they may be hidden."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = cgroups / "memory" if controllers == "memory" else cgroups
        if controllers in ("", "memory"):
            own = root / path.lstrip("/")
            yield from (group for group in (own, *own.parents) if group.is_relative_to(root))


def _statistic(file: Path, name: str) -> int:
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)


def _gib(n: int) -> str:
    return f"{n / 1024**3:.2f} GiB"
