"""A whole run as actors: trained, adapted, shot at, stopped, resumed. All tests look at the same one: it is dear."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import ray

from benchmarks.ray_processes import processes
from benchmarks.soak import balance
from cluster.config import RunConfig, load_run_config
from cluster.placement import NoPlaceError, PlacementConfig
from cluster.progress import Progress
from cluster.run import Stopped, train
from cluster.run_store import RunStore
from tests.second_process import wait_for

CONFIG = Path(__file__).parents[2] / "configs" / "tiny" / "halfcheetah_cluster.yaml"
pytestmark = pytest.mark.usefixtures("local_ray")


def distributed(output: Path, made_once: Path) -> RunConfig:
    # one env runner: the run cannot go on without it
    flags = ["--cluster.rollouts.env_runners=1", "--cluster.pool.generators=2", "--serving.own_share=0.5"]
    run = load_run_config(CONFIG, flags)
    return replace(
        run,
        output=str(output),
        data=replace(run.data, cache=str(made_once / "data")),
        generator=replace(run.generator, cache=str(made_once / "models")),
    )


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def most(rows: list[dict[str, str]], column: str) -> float:
    """The largest value in a column; cells are empty where it is not known yet."""
    return max(float(row[column] or 0) for row in rows)


def kill_one(role: str) -> bool:
    """False where nobody plays it at the moment."""
    pids = processes(role, os.getpid())
    if pids:
        os.kill(pids[0], signal.SIGKILL)
    return bool(pids)


@dataclass
class Told:
    """What a watcher of a run was told, and the number of messages before the last kill."""

    run: RunConfig
    env_steps: list[int] = field(default_factory=list)
    before_kill: int = 0

    def __call__(self, progress: Progress) -> None:
        self.env_steps.append(progress.env_steps)

    def kill(self, role: str) -> bool:
        killed = kill_one(role)
        self.before_kill = len(self.env_steps) if killed else self.before_kill
        return killed


@pytest.fixture(scope="module")
def under_fire(local_ray: None, tmp_path_factory: pytest.TempPathFactory, made_once: Path) -> Told:  # noqa: ARG001
    """A run that lost a process of each role, and was stopped once its curve told that the new adapter had adapted."""
    run = replace(distributed(tmp_path_factory.mktemp("runs"), made_once), env_steps=10**6)
    victims, told = ["generator", "trainer", "replay", "env_runner", "adapter"], Told(run)

    def watch(progress: Progress) -> None:
        if not told.env_steps:
            with pytest.raises(ValueError, match=f"is being trained by another process .pid {os.getpid()} on"):
                train(run)
        told(progress)
        if not victims and most(curve(run.folder), "adapter/restarts") >= 1:
            os.kill(os.getpid(), signal.SIGINT)
        elif victims and progress.env_steps >= 300 * (6 - len(victims)) and told.kill(victims[0]):
            victims.pop(0)

    with pytest.raises(Stopped):
        train(run, watch)
    return told


@pytest.fixture(scope="module")
def resumed(under_fire: Told) -> Told:
    """The same run, resumed without a journal; its replay is killed once."""
    checkpoint = RunStore.of(under_fire.run.folder).checkpoints.newest_whole()
    assert checkpoint is not None
    assert under_fire.run.cluster is not None
    forgetful = replace(under_fire.run.cluster, journal="off")
    told = Told(replace(under_fire.run, cluster=forgetful, env_steps=checkpoint.step + 500))

    def watch(progress: Progress) -> None:
        told(progress)
        if not told.before_kill and progress.env_steps >= checkpoint.step + 100:
            told.kill("replay")

    train(told.run, watch, resume=under_fire.run.folder)
    return told


@pytest.mark.faults
def test_any_process_may_die_and_training_goes_on(under_fire: Told) -> None:
    assert under_fire.env_steps == sorted(under_fire.env_steps)  # nothing that was acknowledged is lost
    assert under_fire.env_steps[-1] > under_fire.env_steps[under_fire.before_kill - 1] >= 1_500


@pytest.mark.faults
def test_a_stopped_run_goes_on_where_it_was(under_fire: Told, resumed: Told) -> None:
    folder, run = under_fire.run.folder, resumed.run
    assert resumed.env_steps[0] >= under_fire.env_steps[-1]
    assert json.loads((folder / "summary.json").read_text())["env_steps"] >= run.env_steps
    rows = curve(folder)
    assert [int(row["env_steps"]) for row in rows] == sorted({int(row["env_steps"]) for row in rows})
    before = [row for row in rows if int(row["env_steps"]) <= under_fire.env_steps[-1]][-1]
    assert float(before["trainer/restarts"]) == 1
    assert float(before["pool/restarts"]) >= 1
    for role in ("sampling/env_runner_restarts", "replay/restarts", "adapter/restarts"):
        assert most(rows, role) >= 1, role
    assert float(rows[-1]["replay/synthetic_rows"]) > 0
    assert float(rows[-1]["pool/size"]) == 2
    assert float(rows[-1]["pool/own_rows"]) > 0
    checkpoint = RunStore.of(folder).checkpoints.newest_whole()
    assert checkpoint is not None
    assert {file.name.partition("/")[0] for file in checkpoint.manifest.files} == {"algorithm", "replay", "adaptation"}
    with checkpoint.part("adaptation").open() as adapter:
        assert json.loads((adapter / "adapter.json").read_text())["number"] >= 1
    roles = ("trainer", "replay", "generator", "adapter")
    wait_for(lambda: not any(processes(role, os.getpid()) for role in roles))  # Ray takes its time to end them


@pytest.mark.faults
def test_a_replay_that_lost_its_memory_goes_back_to_the_checkpoint(under_fire: Told, resumed: Told) -> None:
    told = resumed.env_steps
    assert resumed.before_kill > 0
    assert under_fire.env_steps[-1] <= told[resumed.before_kill]
    assert told[: resumed.before_kill] == sorted(told[: resumed.before_kill])
    assert told[resumed.before_kill :] == sorted(told[resumed.before_kill :])
    assert all(one == other for one, other in balance(resumed.run).values())


def test_a_run_that_finds_no_place_leaves_nothing_behind(tmp_path: Path, made_once: Path) -> None:
    cluster_run = distributed(tmp_path, made_once)
    assert cluster_run.cluster is not None
    hungry = replace(
        cluster_run.cluster,
        trainer=replace(cluster_run.cluster.trainer, num_cpus=10_000),
        placement=PlacementConfig(wait_seconds=1),
    )
    with pytest.raises(NoPlaceError, match="1 x trainer: 10000 CPU"):
        train(replace(cluster_run, cluster=hungry))
    assert not (cluster_run.folder / "config.yaml").exists()
    wait_for(lambda: ray.available_resources().get("CPU") == pytest.approx(ray.cluster_resources()["CPU"]))
