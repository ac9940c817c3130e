"""The arithmetic of memory against the arrays themselves, and limits as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from atradiff.replay.memory import ReplayMemory, available_memory, require_memory
from atradiff.replay.mixed import MixedReplay, ReplayConfig
from atradiff.types import Spaces

GIB = 1024**3


@pytest.mark.parametrize(
    "spaces", [Spaces(17, "continuous", (-1.0,) * 6, (1.0,) * 6), Spaces(4, "discrete", n_actions=2)]
)
@pytest.mark.parametrize("config", [ReplayConfig(capacity=1000, rho=0.75), ReplayConfig(capacity=7, rho=0.0)])
def test_says_what_is_allocated(spaces: Spaces, config: ReplayConfig) -> None:
    assert ReplayMemory.of(spaces, config).total == MixedReplay(spaces, config, seed=0).nbytes


def test_refuses_with_the_arithmetic() -> None:
    spaces, config = Spaces(17, "continuous", (-1.0,) * 6, (1.0,) * 6), ReplayConfig(capacity=1_000_000, rho=0.5)
    needed = 1_000_000 * (2 * 68 + 24 + 4 + 2 + 8) + 1_000_000 * (2 * 68 + 24 + 4 + 2 + 4 + 8)
    assert require_memory(spaces, config, available=needed).total == needed
    with pytest.raises(
        ValueError,
        match=r"1000000 real rows x 174 bytes \+ 1000000 synthetic rows x 178 bytes = 0.33 GiB, but 0.16 GiB.*"
        r"capacity \(now 1000000; 500000 would just fit",
    ):
        require_memory(spaces, config, available=needed // 2)


def _machine(folder: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroups.mkdir()
    (proc / "meminfo").write_text(f"MemTotal: {8 * GIB // 1024} kB\nMemAvailable: {4 * GIB // 1024} kB\n")
    (proc / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return proc, cgroups


def test_without_limits_the_machine_decides(tmp_path: Path) -> None:
    files = {"job/memory.max": "max\n", "job/memory.current": f"{GIB}\n"}
    assert available_memory(*_machine(tmp_path, "0::/job\n", files)) == 4 * GIB


def test_a_limit_anywhere_above_the_process_counts_and_page_cache_does_not(tmp_path: Path) -> None:
    files = {
        "job/memory.max": f"{2 * GIB}\n",
        "job/memory.current": f"{GIB}\n",
        "job/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        "job/step/memory.max": "max\n",
    }
    assert available_memory(*_machine(tmp_path, "0::/job/step\n", files)) == 3 * GIB // 2


def test_groups_of_the_first_version(tmp_path: Path) -> None:
    files = {
        "memory/slurm/memory.limit_in_bytes": f"{GIB}\n",
        "memory/slurm/memory.usage_in_bytes": f"{GIB // 4}\n",
        "memory/slurm/memory.stat": "total_inactive_file 0\n",
    }
    assert available_memory(*_machine(tmp_path, "4:memory:/slurm\n0::/\n", files)) == 3 * GIB // 4


def test_in_a_container_the_path_of_the_group_may_not_exist(tmp_path: Path) -> None:
    files = {"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n"}
    assert available_memory(*_machine(tmp_path, "0::/../../docker/abc\n", files)) == 0


def test_this_machine_has_some() -> None:
    assert available_memory() > 0
