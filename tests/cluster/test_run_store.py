"""A run is kept where its output says, folder or URI, and goes on from there: elsewhere, after damage, after a kill."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from checkpoint_owner import Owner
from object_store import ObjectStore

from atradiff.environments import make_env
from cluster.checkpoint import CheckpointStore
from cluster.checkpoint_files import DamagedCheckpoint, here
from cluster.commands import train as command
from cluster.compare import compare
from cluster.config import CheckpointConfig, RunConfig
from cluster.policy import load_policy
from cluster.progress import Progress
from cluster.run import train
from cluster.run_store import RunStore
from cluster.storage import Location


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs behind URIs are worked on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stop_at(env_steps: int, how: type[BaseException] = MemoryError) -> object:
    def watch(progress: Progress) -> None:
        if progress.env_steps == env_steps:
            raise how("killed")

    return watch


def steps_of(csv_file: Path) -> list[int]:
    with csv_file.open(newline="") as file:
        return [int(row["env_steps"]) for row in csv.DictReader(file)]


def test_small_files_are_mirrored_and_fetched(tmp_path: Path) -> None:
    objects = ObjectStore()
    store = RunStore(objects.location(), tmp_path / "work")
    assert not store.started
    with pytest.raises(FileNotFoundError):
        store.config_text()
    store.folder.tensorboard.mkdir(parents=True)
    for file in (store.folder.config, store.folder.summary, store.folder.tensorboard / "events"):
        file.write_text(file.name)
    store.folder.tell_progress(3)
    store.mirror()
    # in this order: the last ones say that a run has begun, and that it is complete
    assert list(objects.objects) == [f"bucket/run/{n}" for n in ("tensorboard/events", "config.yaml", "summary.json")]
    puts: list[str] = []
    objects.before_put = puts.append
    store.folder.summary.unlink()
    store.folder.metrics.write_text("env_steps\n")
    store.write_checkpoint(5, {"a": here(lambda folder: (folder / "x").touch())}, {}, keep=1)
    step = "checkpoints/step_000000000005"
    assert puts == [f"bucket/run/{name}" for name in ("metrics.csv", f"{step}/a/x", f"{step}/checkpoint.json")]
    elsewhere = RunStore(objects.location(), tmp_path / "elsewhere")
    assert (elsewhere.started, elsewhere.complete, elsewhere.config_text()) == (True, False, "config.yaml")
    (tmp_path / "elsewhere").mkdir()
    for name in ("stale", ".journal"):
        (tmp_path / "elsewhere" / name).touch()
    elsewhere.fetch()
    files = [p.relative_to(tmp_path / "elsewhere").as_posix() for p in (tmp_path / "elsewhere").rglob("*")]
    assert sorted(files) == [".journal", "config.yaml", "metrics.csv", "tensorboard", "tensorboard/events"]
    elsewhere.mirror()
    assert len(puts) == 3
    another = RunStore(ObjectStore().location(), tmp_path / "elsewhere")
    another.fetch()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_store_that_reaches_another_machine_brings_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(Location.of(f"file://{tmp_path}/kept"), tmp_path / "work")
    store.fetch()
    store.folder.path.mkdir()
    store.folder.config.write_text("env: x")
    store.mirror()
    store.folder.metrics.write_text("newer than what is kept")
    same_machine = pickle.loads(pickle.dumps(store))
    same_machine.ensure_here()
    assert same_machine.folder.metrics.exists()
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    other_machine = pickle.loads(pickle.dumps(store))
    other_machine.ensure_here()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["config.yaml"]
    other_machine.mirror()
    assert other_machine.started
    shared = RunStore(Location.of(tmp_path / "work"))
    shared.ensure_here()
    with pytest.raises(ValueError, match="is not to be seen on another"):
        RunStore(Location.of(tmp_path / "unseen")).ensure_here()


def test_a_trainer_fetches_what_the_one_before_left_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``driver`` and ``node`` have one working folder here, which each finds as the other left it: stale is worse."""
    store = RunStore(Location.of(f"file://{tmp_path}/kept"), tmp_path / "work")
    (store.location / "metrics.csv").write_text("kept")

    def begin(machine: str, session: RunStore) -> str:
        """What a new trainer of the session works on."""
        monkeypatch.setattr(socket, "gethostname", lambda: machine)
        handed: RunStore = pickle.loads(pickle.dumps(session))
        handed.ensure_here()
        found = handed.folder.metrics.read_text()
        handed.folder.metrics.write_text("not mirrored")
        return found

    for session in (store, RunStore(store.location, store.folder.path)):  # the second one is a run that was resumed
        monkeypatch.setattr(socket, "gethostname", lambda: "driver")
        session.fetch()
        session.folder.metrics.write_text("not mirrored")
        machines = ("driver", "driver", "node", "node", "driver", "driver", "node")
        found = [begin(machine, session) for machine in machines]
        assert [text == "kept" for text in found] == [False, False, True, False, True, False, True]


def test_a_run_is_found_from_its_place_and_from_a_checkpoint(tmp_path: Path) -> None:
    for where in (str(tmp_path / "path" / "run"), f"file://{tmp_path}/uri/run"):
        location = Location.of(where)
        store = RunStore(location)
        assert store.find_checkpoint() is None
        for step in (5, 6):
            store.write_checkpoint(step, {"a": here(lambda folder: (folder / "x").touch())}, {"n": step}, keep=2)
        with pytest.raises(ValueError, match="neither a run folder nor a checkpoint"):
            RunStore.of(where)
        (location / "config.yaml").write_text("env: x")
        newest = RunStore.of(where).find_checkpoint()
        assert newest is not None
        assert newest.step == 6
        named = RunStore.of(f"{where}/checkpoints/step_000000000005").find_checkpoint()
        assert named is not None
        assert named.state == {"n": 5}
        Path(location.path, "checkpoints", "step_000000000005", "a", "x").unlink()
        with pytest.raises(DamagedCheckpoint, match="a/x is missing"):
            RunStore.of(f"{where}/checkpoints/step_000000000005").find_checkpoint()


@pytest.mark.usefixtures("local_ray")
def test_a_run_behind_a_uri_goes_on_on_another_machine(
    tiny_run: RunConfig, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(replace(tiny_run, name="whole"))
    models = tmp_path / "models"
    run = replace(
        tiny_run,
        output=f"file://{tmp_path}/bucket",
        checkpoint=CheckpointConfig(every=100, keep=2),
        generator=replace(tiny_run.generator, cache=str(models)),
    )
    with pytest.raises(MemoryError):
        train(run, stop_at(300))
    kept = tmp_path / "bucket" / run.name / "atradiff" / "seed_0"
    assert run.where == f"file://{kept}"
    assert steps_of(kept / "metrics.csv") == [200]
    with pytest.raises(ValueError, match=r"file:///.* already holds a run"):
        train(run)
    shutil.rmtree(models)  # neither the model nor the working copy is on the other machine
    shutil.rmtree(own_cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    command(["--resume", run.where])
    assert not models.exists()
    assert json.loads((kept / "summary.json").read_text())["env_steps"] == 400
    assert list((kept / "tensorboard").iterdir())
    assert steps_of(kept / "metrics.csv") == steps_of(whole / "metrics.csv") == [200, 400]
    env = make_env(run.env)
    assert env.action_space.contains(load_policy(run.where, env).act(env.reset(seed=0)[0], env))


@pytest.mark.usefixtures("local_ray")
def test_half_an_uploaded_diffuser_is_not_taken_for_a_whole_one(
    tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(tiny_run, output=f"file://{tmp_path}/bucket", checkpoint=CheckpointConfig(every=100, keep=2))
    kept = Path(Location.of(run.where).path)
    upload = Location.upload

    def die(self: Location, source: Path) -> None:
        if source.name == "lengths.safetensors":
            raise MemoryError("killed")
        upload(self, source)

    with monkeypatch.context() as patch:
        patch.setattr(Location, "upload", die)
        with pytest.raises(MemoryError):
            train(run)
    assert [path.name for path in kept.iterdir()] == ["diffuser"]
    with pytest.raises(MemoryError):
        train(run, stop_at(200))  # nothing has begun there: no --resume
    files = {path.name for path in (kept / "diffuser").iterdir()}
    assert {"config.json", "lengths.safetensors", "model.safetensors"} <= files
    (kept / "diffuser" / "lengths.safetensors").unlink()  # as versions left it that began with config.yaml
    command(["--resume", run.where])
    assert {path.name for path in (kept / "diffuser").iterdir()} == files


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_actor_writes_and_reads_its_own_part(scheme: str, tmp_path: Path) -> None:
    owner = Owner.options(num_cpus=0).remote()
    store = CheckpointStore(Location.of(f"{scheme}{tmp_path}/checkpoints"))
    store.write(7, {"owner": lambda target: ray.get(owner.write.remote(target))}, {}, keep=1)
    checkpoint = store.newest_whole()
    assert checkpoint is not None
    pid = ray.get(owner.read.remote(checkpoint.part("owner")))
    assert pid not in (0, os.getpid())
    os.kill(pid, 0)  # the owner's own
    ray.kill(owner)


@pytest.mark.usefixtures("local_ray")
def test_a_damaged_checkpoint_is_passed_over_and_told(tiny_run: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    run = replace(tiny_run, augmentation="none", checkpoint=CheckpointConfig(every=100, keep=2))
    with pytest.raises(MemoryError):
        train(run, stop_at(350))
    newest = run.folder / "checkpoints" / "step_000000000300"
    weights = newest / "algorithm" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedCheckpoint, match=r"weights\.safetensors has"):
        train(run, resume=newest)
    seen: list[int] = []
    train(run, lambda progress: seen.append(progress.env_steps), resume=run.folder)
    assert seen[0] == 250
    assert "weights.safetensors has" in caplog.text
    assert steps_of(run.folder / "metrics.csv") == [200, 400]


def test_a_place_that_cannot_be_used_is_refused_before_any_work(tiny_run: RunConfig, tmp_path: Path) -> None:
    fresh = replace(tiny_run, data=replace(tiny_run.data, cache=str(tmp_path / "unused")))
    with pytest.raises(ValueError, match=r"nfs://host/runs/.* cannot be opened"):
        train(replace(fresh, output="nfs://host/runs"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="nothing can be written to"):
        train(replace(fresh, output=f"file://{tmp_path}/file"))
    with pytest.raises(ValueError, match="folder of this machine"):
        compare(replace(fresh, output="s3://bucket/runs"), seeds=[0])
    assert not (tmp_path / "unused").exists()


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_killed_driver_is_resumed_and_no_step_is_lost_or_counted_twice(tiny_run: RunConfig, tmp_path: Path) -> None:
    run = replace(
        tiny_run,
        output=f"file://{tmp_path}/kept",
        env_steps=1_000_000,
        checkpoint=CheckpointConfig(every=50, keep=2),
    )
    config = tmp_path / "config.yaml"
    config.write_text(run.to_yaml())
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen([sys.executable, "-m", "cluster.run", str(config)], env=environment)
    store = CheckpointStore(Location.of(run.where) / "checkpoints")
    kept = Path(Location.of(run.where).path)
    try:
        while driver.poll() is None and len(list(kept.glob("checkpoints/*"))) < 2:
            time.sleep(0.1)
        time.sleep(1.0)
        assert driver.poll() is None
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    checkpoint = store.newest_whole()
    assert checkpoint is not None
    target = checkpoint.step // 200 * 200 + 400
    command(["--resume", run.where, "--env_steps", str(target)])
    assert json.loads((kept / "summary.json").read_text())["env_steps"] == target
    assert steps_of(kept / "metrics.csv") == list(range(200, target + 1, 200))
    last = store.newest_whole()
    assert last is not None
    with last.part("algorithm").open() as folder:
        rings = json.loads((folder / "replay" / "real" / "ring.json").read_text())
    assert rings["total_added"] == target
