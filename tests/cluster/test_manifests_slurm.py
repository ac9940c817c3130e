"""The Slurm script on two nodes that are both this machine: ``srun`` and ``scontrol`` are stand-ins, Ray is not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder
from cluster.run_store import RunStore
from tests.second_process import wait_for

ROOT = Path(__file__).parents[2]
PATIENCE = 700.0  # more than the script's own two waits of 300 seconds
STAND_INS = {
    "srun": """
        [[ $SRUN_CPUS_PER_TASK == "$SLURM_CPUS_PER_TASK" ]] || exit 9
        while [[ $1 == --* ]]; do shift; done
        exec "$@"
    """,
    "scontrol": "printf 'node1\\nnode2\\n'\n",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job; what its Rays leave in /tmp goes with it."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    number = str(os.getpid())
    yield {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ATRADIFF_BIN": str(Path(sys.executable).parent),
        "SLURM_JOB_ID": number,
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_CPUS_PER_TASK": "1",
    }
    for pid, _ in processes_of(number):
        os.kill(pid, signal.SIGKILL)
    for folder in Path("/tmp").glob(f"ray-{number}-*"):
        shutil.rmtree(folder)


def processes_of(number: str) -> list[tuple[int, str]]:
    """Processes, by id and command line, that are told of a Ray folder of the job."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.append((int(entry.name), (entry / "cmdline").read_bytes().decode(errors="replace")))
        except OSError:
            continue  # it has just ended
    return [(pid, line) for pid, line in found if f"/tmp/ray-{number}-" in line]


def test_a_job_of_two_nodes_that_is_out_of_time_writes_a_checkpoint(job: dict[str, str], tmp_path: Path) -> None:
    words = ["configs/tiny/hopper.yaml", "--output", str(tmp_path / "runs"), "--env_steps", "1000000"]
    folder = RunFolder(tmp_path / "runs" / "tiny-hopper" / "none" / "seed_0")
    log = tmp_path / "log"
    with log.open("w") as out:
        script = subprocess.Popen(
            ["bash", "cluster/manifests/slurm.sh", *words], cwd=ROOT, env=job, stdout=out, stderr=out
        )
        try:
            wait_for(lambda: script.poll() is not None or folder.metrics.exists(), PATIENCE)
            assert sum("raylet/raylet" in line for _, line in processes_of(job["SLURM_JOB_ID"])) >= 2
            script.send_signal(signal.SIGTERM)  # Slurm's, to the batch shell only
            status = script.wait(PATIENCE)
        finally:
            script.kill()
    shown = log.read_text()
    assert shown.count("Ray runtime started") == 2, shown
    assert (status, "go on with --resume" in shown) == (130, True), shown
    assert RunStore.of(folder.path).checkpoints.newest_whole() is not None
    wait_for(lambda: not processes_of(job["SLURM_JOB_ID"]))
