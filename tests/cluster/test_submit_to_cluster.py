"""Jobs on a real cluster of two nodes: they end as they ended there, outlive a node, and stop with a checkpoint."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.cli import main
from cluster.jobs import JobClient
from cluster.run_folder import RunFolder
from cluster.run_store import RunStore

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = "configs/tiny/hopper.yaml"
PATIENCE = 120.0


@dataclass
class TwoNodes:
    cluster: Cluster
    worker: Any
    address: str

    @property
    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.address)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    """A head with a dashboard and a worker node, both of this test alone; jobs find this Python as ``python``.

    Each node has a folder of its own, as on two machines: in a common one the second node's agent unpacks a job's
    working dir anew, under the feet of the job that runs in it.
    """
    ray.shutdown()
    own_folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # a short path: sockets lie in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("RAY_API_SERVER_ADDRESS", "")
        patch.delenv("RAY_ADDRESS", raising=False)
        # Jobs are taken by the head's agent, whose port is a fixed one by default: another Ray here may have it.
        small = {"num_cpus": 1, "object_store_memory": 80 * 1024**2, "dashboard_agent_listen_port": 0}
        cluster = Cluster()
        try:
            head = cluster.add_node(include_dashboard=True, dashboard_port=0, **small)
            worker = cluster.add_node(temp_dir=str(own_folder), **small)
            cluster.wait_for_nodes()
            yield TwoNodes(cluster, worker, f"http://{head.address_info['webui_url']}")
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(own_folder, ignore_errors=True)


def submit(two_nodes: TwoNodes, *words: str) -> int:
    """The exit status of ``atradiff submit``, called in the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        with pytest.raises(SystemExit) as stop:
            main(["submit", "--address", two_nodes.address, *words])
    return int(str(stop.value.code))


def wait_for(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def env_steps_of(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row["env_steps"] for row in csv.DictReader(file)]


def test_a_job_trains_and_outlives_a_node(
    two_nodes: TwoNodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "tiny-hopper" / "none" / "seed_0")
    removed = threading.Event()

    def remove_worker() -> None:
        wait_for(folder.config.exists)
        two_nodes.cluster.remove_node(two_nodes.worker)
        removed.set()

    remover = threading.Thread(target=remove_worker)
    remover.start()
    status = submit(two_nodes, CONFIG, "--output", str(tmp_path), "--env_steps", "1000")
    remover.join(PATIENCE)
    assert (status, removed.is_set()) == (0, True)
    assert folder.complete
    assert env_steps_of(folder.path) == [str(steps) for steps in range(100, 1001, 100)]
    shown = capfd.readouterr().out
    assert "job        raysubmit_" in shown
    assert f"tensorboard --logdir {folder.path}" in shown  # the last line of the job's own output


def test_a_failing_job_has_its_status_and_message(
    two_nodes: TwoNodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert submit(two_nodes, "--resume", str(tmp_path / "nothing")) == 1
    assert "is neither a run folder nor a checkpoint" in capfd.readouterr().out


def test_a_stopped_job_leaves_a_checkpoint_to_resume_from(
    two_nodes: TwoNodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "tiny-hopper" / "none" / "seed_0")
    words = [CONFIG, "--output", str(tmp_path), "--env_steps", "1000000"]
    assert submit(two_nodes, *words, "--detach") == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("job ")]
    job = line.split()[1]
    wait_for(folder.metrics.exists)
    client = JobClient(two_nodes.address)

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    client._follow = interrupted  # type: ignore[method-assign]
    assert client.attend(job, ask=lambda _: "n") == 130
    assert two_nodes.client.get_job_status(job) == JobStatus.RUNNING
    assert f"ray job stop --address {two_nodes.address} {job}" in capfd.readouterr().out
    assert client.attend(job, ask=lambda _: "y") == 130
    assert two_nodes.client.get_job_status(job) == JobStatus.STOPPED
    assert RunStore.of(folder.path).checkpoints.newest_whole() is not None


def test_rays_own_command_runs_a_config(two_nodes: TwoNodes, tmp_path: Path) -> None:
    command = ["job", "submit", "--address", two_nodes.address, "--working-dir", ".", "--"]
    run = ["python", "-m", "cluster.run", CONFIG, "--output", str(tmp_path)]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ray"), *command, *run],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert shlex.join(run) in done.stdout or "succeeded" in done.stdout
    assert env_steps_of(tmp_path / "tiny-hopper" / "none" / "seed_0") == ["100", "200"]
