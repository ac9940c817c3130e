"""A run is trained by one process at a time, what it needs is made by one, and nothing stays locked or lying about."""

from __future__ import annotations

import csv
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from atradiff.config import SyntherFit
from cluster.config import RunConfig
from cluster.prepare import prepare
from cluster.run import train
from cluster.run_store import RunStore
from tests.second_process import Telling, holding, process, wait_for

_TRAIN = """
import sys, time
from pathlib import Path
from cluster.config import load_run_config
from cluster.run import train
config, begun = map(Path, sys.argv[1:])
def stay(progress):
    begun.touch()
    time.sleep(600)
train(load_run_config(config), stay)
"""
_PREPARE = """
import sys, time
from pathlib import Path
import cluster.prepare as made
from cluster.config import load_run_config
config, begun, go = map(Path, sys.argv[2:])
make = getattr(made, sys.argv[1])
def slow(*given, **named):
    begun.touch()
    while not go.exists():
        time.sleep(0.02)
    return make(*given, **named)
setattr(made, sys.argv[1], slow)
made.prepare(load_run_config(config))
"""


def written(run: RunConfig, path: Path) -> Path:
    path.write_text(run.to_yaml())
    return path


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_another_process_trains_is_left_alone_until_that_one_dies(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    run, begun = replace(tiny_run, augmentation="none"), tmp_path / "begun"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with process(_TRAIN, written(run, tmp_path / "run.yaml"), begun, env=environment) as other:
        wait_for(lambda: begun.exists() or other.poll() is not None)
        before = files(run.folder)
        said = rf"{run.folder} is being trained by another process \(pid {other.pid} on {socket.gethostname()}\): wait"
        for resume in (None, run.folder):
            with pytest.raises(ValueError, match=said):
                train(run, resume=resume)
        assert files(run.folder) == before
        other.send_signal(signal.SIGKILL)
        other.wait()
    with (train(run, resume=run.folder) / "metrics.csv").open(newline="") as file:
        assert [row["env_steps"] for row in csv.DictReader(file)] == ["200", "400"]
    assert not (run.folder / ".lock").exists()


def test_what_others_began_while_the_lock_was_waited_for_is_seen(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[[RunStore], AbstractContextManager[None]] = RunStore.alone

    def after_another(store: RunStore) -> AbstractContextManager[None]:
        store.folder.path.mkdir(parents=True)
        written(tiny_run, store.folder.config)
        return real(store)

    monkeypatch.setattr(RunStore, "alone", after_another)
    with pytest.raises(ValueError, match="already holds a run: go on with --resume"):
        train(tiny_run)


def test_a_start_that_fails_leaves_no_folder(tiny_run: RunConfig, tmp_path: Path) -> None:
    lost = replace(tiny_run, generator=replace(tiny_run.generator, path=str(tmp_path / "nowhere" / "model")))
    for run, said in ((replace(tiny_run, env="CartPole-v1"), "needs continuous actions"), (lost, "nowhere")):
        with pytest.raises((OSError, ValueError), match=said):
            train(run)
    assert not Path(tiny_run.output).exists()


def test_a_working_folder_is_emptied_but_for_the_lock(
    tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = replace(tiny_run, output=f"file://{tmp_path}/bucket")
    place = Path(run.where.removeprefix("file://"))
    place.mkdir(parents=True)
    written(run, place / "config.yaml")
    for begun in (True, False):  # of one that has begun, hidden files stay
        with RunStore.of(run.where).alone():
            (run.folder / "stale").touch()
            store = RunStore.of(run.where)
            if not begun:
                (place / "config.yaml").unlink()
            store.fetch()
            assert [path.name for path in run.folder.iterdir() if path.name != "config.yaml"] == [".lock"]


def test_a_run_behind_a_uri_is_kept_from_this_machines_others(
    tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = replace(tiny_run, output=f"file://{tmp_path}/bucket")
    said = f"{run.where} is being trained by another process"
    with holding(run.folder / ".lock", tmp_path / "go"), pytest.raises(ValueError, match=said):
        train(run)


@pytest.mark.slow
@pytest.mark.parametrize("making", ["collect", "fit_synther"])
def test_what_another_process_is_making_is_waited_for_and_used(
    making: str, tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(
        tiny_run,
        augmentation="synther",
        synther=replace(tiny_run.synther, fit=SyntherFit(steps=5)),
        data=replace(tiny_run.data, cache=str(tmp_path / "data")),
        generator=replace(tiny_run.generator, cache=str(tmp_path / "models")),
    )
    begun, go = tmp_path / "begun", tmp_path / "go"
    shown = Telling(lambda text: go.touch() if "waiting for" in text else None)
    with process(_PREPARE, making, written(run, tmp_path / "run.yaml"), begun, go) as other:
        wait_for(lambda: begun.exists() or other.poll() is not None)
        monkeypatch.setattr(f"cluster.prepare.{making}", None)
        monkeypatch.setattr("sys.stderr", shown)
        folder = prepare(run)
        assert other.wait() == 0
    assert f"waiting for another process (pid {other.pid} on {socket.gethostname()}) that makes" in shown.getvalue()
    assert folder is not None
    assert (folder / "config.json").is_file()
    assert list(tmp_path.rglob(".*")) == []
