"""The driver of a distributed run dies, and all that it held with it; the run goes on from what its journal knows."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from atradiff.replay.journal_records import read_records
from benchmarks.ray_processes import TITLES, processes
from benchmarks.soak import balance
from cluster.commands import train as command
from cluster.config import load_run_config
from cluster.distributed import _adapter_states
from cluster.run_store import RunStore
from cluster.storage import Location
from tests.second_process import wait_for

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "tiny" / "halfcheetah_cluster.yaml"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]


def curve(folder: Path) -> list[dict[str, str]]:
    if not (folder / "metrics.csv").exists():
        return []
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Journalled:
    """What a journal holds: rows that its snapshot counts, imagined rows in that, and the chunks since."""

    rows: int
    imagined: int
    chunks: list[tuple[str, int, int]]  # source, sequence, rows

    @classmethod
    def of(cls, run: Path) -> Journalled:
        (segment,), (snapshot,) = ((run / ".journal").glob(names) for names in ("segment-*.log", "snapshot-*"))
        counters = json.loads((snapshot / "replay.json").read_text())["counters"]
        ring = json.loads((snapshot / "synthetic" / "ring.json").read_text())
        chunks = [(str(chunk.source), chunk.sequence, len(chunk.rows)) for chunk, _ in read_records(segment)]
        return cls(counters["env_steps"], ring["total_added"], chunks)

    @property
    def all_rows(self) -> int:
        return self.rows + sum(rows for _, _, rows in self.chunks)


@pytest.mark.usefixtures("local_ray")
def test_a_killed_driver_loses_no_row_and_counts_none_twice(tmp_path: Path, made_once: Path) -> None:
    settings = [
        f"--output={tmp_path / 'runs'}",
        f"--data.cache={made_once / 'data'}",
        f"--generator.cache={made_once / 'models'}",
        "--evaluation.every=100",
        "--checkpoint.every=400",
        "--adaptation=null",
    ]
    run = load_run_config(CONFIG, settings)
    folder = run.folder
    words = [sys.executable, "-m", "cluster.run", str(CONFIG), *settings, "--env_steps=1000000"]
    with (tmp_path / "log").open("w") as log:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        driver = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=environment)
        try:
            wait_for(lambda: driver.poll() is not None or any(int(row["env_steps"]) >= 500 for row in curve(folder)))
            actors = [pid for role in TITLES for pid in processes(role, driver.pid)]
        finally:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
    assert actors, (tmp_path / "log").read_text()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in actors))

    lived, known = curve(folder), Journalled.of(folder)
    checkpoint = RunStore.of(folder).checkpoints.newest_whole()
    assert checkpoint is not None
    assert known.all_rows > known.rows >= checkpoint.step >= 400
    assert len(set(known.chunks)) == len(known.chunks)
    assert known.imagined > 0
    command(["--resume", str(folder), f"--env_steps={known.all_rows + 100}"])

    done = json.loads((folder / "summary.json").read_text())["env_steps"]
    assert Journalled.of(folder).all_rows == done >= known.all_rows + 100
    assert float(curve(folder)[len(lived)]["replay/synthetic_rows"]) >= min(known.imagined, run.replay.capacity)
    assert balance(run)["env steps = rows ever stored"] == (done, done)
    assert all(one == other for one, other in balance(run).values())
    assert curve(folder)[: len(lived)] == lived
    steps = [int(row["env_steps"]) for row in curve(folder)]
    assert steps == sorted(set(steps))


def test_a_new_run_keeps_its_adapters_states_apart_from_those_of_the_run_before_it(tmp_path: Path) -> None:
    def states(*, resumed: bool) -> str:
        run = SimpleNamespace(store=SimpleNamespace(location=Location.of(tmp_path)), resumed=resumed)
        return _adapter_states(run)  # type: ignore[arg-type]

    assert states(resumed=True) == ""  # begun before there were names
    first = states(resumed=False)
    assert states(resumed=True) == first
    assert states(resumed=False) != first
