"""A whole run as actors: trained, adapted, stopped, resumed, shot at."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from benchmarks.ray_processes import processes
from benchmarks.soak import balance
from cluster.config import RunConfig, load_run_config
from cluster.placement import NoPlaceError, PlacementConfig
from cluster.run import Stopped, train
from cluster.run_store import RunStore
from cluster.session import Progress

CONFIG = Path(__file__).parents[2] / "configs" / "tiny" / "halfcheetah_cluster.yaml"
pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def cluster_run(tmp_path: Path, made_once: Path) -> RunConfig:
    run = load_run_config(CONFIG)
    return replace(
        run,
        output=str(tmp_path / "runs"),
        data=replace(run.data, cache=str(made_once / "data")),
        generator=replace(run.generator, cache=str(made_once / "models")),
    )


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def interrupt_once(ready: Callable[[], bool]) -> Callable[[Progress], None]:
    """A watcher that does what Ctrl-C does."""

    def watch(progress: Progress) -> None:
        if progress.env_steps >= 200 and ready():
            os.kill(os.getpid(), signal.SIGINT)

    return watch


def all_gone(roles: tuple[str, ...], patience: float = 30.0) -> bool:
    """Whether the processes of these roles end; Ray takes its time to end what it was told to."""
    deadline = time.monotonic() + patience
    while any(processes(role, os.getpid()) for role in roles):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def newest_step(run: RunConfig) -> int:
    checkpoint = RunStore.of(run.folder).checkpoints.newest_whole()
    return -1 if checkpoint is None else checkpoint.step


def test_a_run_as_actors_is_stopped_and_resumed(cluster_run: RunConfig) -> None:
    adapted = cluster_run.folder / ".adapter"
    with pytest.raises(Stopped):
        train(replace(cluster_run, env_steps=10**6), interrupt_once(lambda: any(adapted.glob("*[1-9]"))))
    stopped_at = newest_step(cluster_run)
    run = replace(cluster_run, env_steps=stopped_at + 400)
    seen: list[int] = []
    folder = train(run, lambda progress: seen.append(progress.env_steps), resume=cluster_run.folder)
    assert seen[0] >= stopped_at
    assert json.loads((folder / "summary.json").read_text())["env_steps"] >= stopped_at + 400
    rows = curve(folder)
    assert [int(row["env_steps"]) for row in rows] == sorted({int(row["env_steps"]) for row in rows})
    last = rows[-1]
    assert float(last["replay/synthetic_rows"]) > 0
    assert float(last["pool/size"]) == 2
    assert all(one == other for one, other in balance(cluster_run).values())
    checkpoint = RunStore.of(folder).checkpoints.newest_whole()
    assert checkpoint is not None
    assert {file.name.partition("/")[0] for file in checkpoint.manifest.files} == {"algorithm", "replay", "adaptation"}
    with checkpoint.part("adaptation").open() as adapter:
        assert json.loads((adapter / "adapter.json").read_text())["number"] >= 1
    assert all_gone(("trainer", "replay", "generator", "adapter"))


@pytest.mark.faults
def test_any_process_may_die_and_training_goes_on(cluster_run: RunConfig) -> None:
    run = replace(cluster_run, env_steps=4_000)
    victims = ["generator", "trainer", "replay", "env_runner", "adapter"]
    told: list[int] = []

    def watch(progress: Progress) -> None:
        told.append(progress.env_steps)
        if victims and progress.env_steps >= 500 * (6 - len(victims)):
            os.kill(processes(victims.pop(0), os.getpid())[0], signal.SIGKILL)

    folder = train(run, watch)
    assert not victims
    assert told == sorted(told)  # nothing that was acknowledged is lost
    last = curve(folder)[-1]
    assert float(last["trainer/restarts"]) == 1
    assert float(last["pool/restarts"]) >= 1
    assert all(one == other for one, other in balance(run).values())


@pytest.mark.faults
def test_a_replay_that_lost_its_memory_goes_back_to_the_checkpoint(cluster_run: RunConfig) -> None:
    assert cluster_run.cluster is not None
    forgetful = replace(cluster_run.cluster, replay=replace(cluster_run.cluster.replay, journal="off"))
    run = replace(cluster_run, cluster=forgetful, env_steps=1_500)
    told: list[int] = []

    def watch(progress: Progress) -> None:
        told.append(progress.env_steps)
        if progress.env_steps >= 300 and told == sorted(told) and processes("replay", os.getpid()):
            os.kill(processes("replay", os.getpid())[0], signal.SIGKILL)
            told.append(10**6)  # once only

    train(run, watch)
    resumed_at = told[told.index(10**6) + 1]
    assert resumed_at >= 200
    assert all(one == other for one, other in balance(run).values())


def test_a_run_that_finds_no_place_leaves_nothing_behind(cluster_run: RunConfig) -> None:
    assert cluster_run.cluster is not None
    hungry = replace(
        cluster_run.cluster,
        trainer=replace(cluster_run.cluster.trainer, num_cpus=10_000),
        placement=PlacementConfig(wait_seconds=1),
    )
    with pytest.raises(NoPlaceError, match="1 x trainer: 10000 CPU"):
        train(replace(cluster_run, cluster=hungry))
    assert not (cluster_run.folder / "config.yaml").exists()
    assert ray.available_resources()["CPU"] == pytest.approx(ray.cluster_resources()["CPU"])
