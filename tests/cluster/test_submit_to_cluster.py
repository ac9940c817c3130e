"""Jobs on a real cluster of two nodes: they end as they ended there, outlive a node, and stop with a checkpoint."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_actors

from benchmarks.ray_processes import TITLES
from benchmarks.soak import balance
from cluster.cli import main
from cluster.config import load_run_config
from cluster.jobs import JobClient
from cluster.run_folder import RunFolder
from cluster.run_store import RunStore
from tests.second_process import PATIENCE, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
CONFIG = "configs/tiny/hopper.yaml"
DISTRIBUTED = "configs/tiny/halfcheetah_cluster.yaml"
ROLES = {title.removeprefix("ray::"): role for role, title in TITLES.items()}
CPUS = 2.0


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
        small = {"num_cpus": CPUS, "object_store_memory": 80 * 1024**2, "dashboard_agent_listen_port": 0}
        cluster = Cluster()
        try:
            head = cluster.add_node(include_dashboard=True, dashboard_port=0, resources={"head": 1}, **small)
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


def env_steps_of(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row["env_steps"] for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Seat:
    """Where an actor of a run sits; ``restarts`` counts the places that Ray had to find for it after the first."""

    role: str
    node: str
    restarts: int


def seats(two_nodes: TwoNodes, state: str) -> list[Seat]:
    """The actors of runs on this cluster that are in ``state``, as Ray tells of them."""
    actors = list_actors(two_nodes.address, filters=[("state", "=", state)], detail=True)
    known = [actor for actor in actors if actor.class_name in ROLES]
    return [Seat(ROLES[actor.class_name], actor.node_id, int(actor.num_restarts)) for actor in known]


def hold_all_but(two_nodes: TwoNodes, cpus: float) -> str:
    """A job that leaves so many CPUs of the head to others, until it is stopped."""
    jobs: list[str] = []

    def taken() -> bool:
        try:
            job = two_nodes.client.submit_job(
                entrypoint="sleep 1000", entrypoint_num_cpus=CPUS - cpus, entrypoint_resources={"head": 0.1}
            )
        except RuntimeError as error:
            if "No available agent" not in str(error):  # it comes up a little after its node
                raise
            return False
        jobs.append(job)
        return True

    wait_for(taken)
    wait_for(lambda: two_nodes.client.get_job_status(jobs[0]) == JobStatus.RUNNING)
    return jobs[0]


def test_a_distributed_run_outlives_a_node(
    two_nodes: TwoNodes, tmp_path: Path, made_once: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The trainer is on the head, all that it works with on the other node, which goes: they come back beside it."""
    made = [f"--data.cache={made_once / 'data'}", f"--generator.cache={made_once / 'models'}"]
    settings = ["--output", str(tmp_path), "--env_steps", "1200", *made, "--cluster.trainer.custom={head: 0.1}"]
    run = load_run_config(ROOT / DISTRIBUTED, settings)
    folder = RunFolder(run.folder)
    held = hold_all_but(two_nodes, 0.2)
    lost: list[Seat] = []

    def remove_worker() -> None:
        wait_for(folder.metrics.exists)
        lost.extend(seat for seat in seats(two_nodes, "ALIVE") if seat.node == two_nodes.worker.node_id)
        two_nodes.cluster.remove_node(two_nodes.worker)
        two_nodes.client.stop_job(held)

    remover = threading.Thread(target=remove_worker)
    remover.start()
    status = submit(two_nodes, DISTRIBUTED, *settings)
    remover.join(PATIENCE)
    shown = capfd.readouterr().out
    assert status == 0, shown
    assert "job        raysubmit_" in shown
    assert f"tensorboard --logdir {folder.path}" in shown  # the last line of the job's own output
    roles = Counter(seat.role for seat in lost)
    assert roles == {"env_runner": 1, "replay": 1, "generator": 1, "adapter": 1}
    assert Counter(seat.role for seat in seats(two_nodes, "DEAD") if seat.restarts) == roles
    curve = env_steps_of(folder.path)
    assert int(curve[-1]) >= 1200
    assert curve == sorted(set(curve), key=int)
    assert folder.complete
    assert all(one == other for one, other in balance(run).values())


def test_a_failing_job_has_its_status_and_message(
    two_nodes: TwoNodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By our command, and by Ray's own."""
    words = ["--resume", str(tmp_path / "nothing")]
    assert submit(two_nodes, *words) == 1
    ray_job = [Path(sys.executable).parent / "ray", "job", "submit", "--address", two_nodes.address]
    done = subprocess.run(
        [*ray_job, "--working-dir", ".", "--", "python", "-m", "cluster.run", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    for shown in (capfd.readouterr().out, done.stdout + done.stderr):
        assert "is neither a run folder nor a checkpoint" in shown


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
