"""The replay actor's process is killed under load: what was acknowledged is there afterwards, once."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from replay_actors import PATIENCE, SPACES, chunk, kill, wait_for_another_process

from atradiff.config import ServingConfig
from atradiff.ports import RowSink
from atradiff.replay.config import ReplayConfig
from atradiff.types import SyntheticRows
from cluster.placement import Resources
from cluster.replay_actor import ReplayActorConfig, RowsLostError, start_replay_actor
from cluster.replay_client import RemoteReplay

pytestmark = pytest.mark.usefixtures("local_ray")
KILLS = 2
ROWS, CHUNK = 1_000_000, 20
"""Of one sender: more than it will push, so that senders never count alike."""


@ray.remote(num_cpus=0, concurrency_groups={"push": 1})
class Runner:
    """Pushes chunks from its own process until told to stop."""

    def __init__(self, number: int, sink: RowSink) -> None:
        self.number, self.sink, self.acknowledged = number, sink, 0
        self.stopped = threading.Event()

    @ray.method(concurrency_group="push")
    def push(self) -> int:
        """The number of chunks that were acknowledged."""
        while not self.stopped.is_set():
            first = ROWS * self.number + CHUNK * self.acknowledged
            self.sink.push(chunk(first, CHUNK, f"runner {self.number}", self.acknowledged))
            self.acknowledged += 1
            time.sleep(0.005)
        return self.acknowledged

    def stop(self) -> None:
        self.stopped.set()


@pytest.mark.faults
def test_every_acknowledged_row_survives_a_killed_replay_actor(tmp_path: Path) -> None:
    config = ReplayActorConfig(snapshot_every=2_000, prefetch=4, resources=Resources(num_cpus=0))
    replay = ReplayConfig(capacity=200_000, rho=0.5, expected_length=1.0, max_request_age=10**9)  # a request per row
    actor = start_replay_actor(SPACES, replay, ServingConfig(16, 50), 0, config, journal=tmp_path)
    client = RemoteReplay(actor, config)
    client.store(chunk(0, CHUNK, "runner 0", 0))
    runners = [Runner.remote(i, client.sink) for i in (1, 2)]
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        pushing = [runner.push.remote() for runner in runners]
        learner, generator = pool.submit(_learn, client, stop), pool.submit(_generate, actor, stop)
        try:
            for _ in range(KILLS):
                _wait_for_more(client, 100 * CHUNK)
                wait_for_another_process(actor, kill(actor))
            _wait_for_more(client, 50 * CHUNK)
            ray.get([runner.stop.remote() for runner in runners], timeout=PATIENCE)
            acknowledged = ray.get(pushing, timeout=PATIENCE)
        finally:
            stop.set()
        assert learner.result(PATIENCE) > 0
        assert generator.result(PATIENCE) > 0

    expected = list(range(CHUNK)) + [
        ROWS * number + i for number, chunks in zip((1, 2), acknowledged, strict=True) for i in range(CHUNK * chunks)
    ]
    status = client.metrics()
    assert status["env_steps"] == status["real_rows"] == status["requests"] == len(expected)
    stored = ray.get(actor.consult.remote(lambda r: r.real["rewards"][: len(r)].tolist()), timeout=PATIENCE)
    assert sorted(stored) == expected
    assert status["recovered_rows"] > 0
    answered = status["trajectories"] + status["requests_pending"] + status["requests_outstanding"]
    assert answered + status["requests_dropped"] == status["requests"]
    assert status["synthetic_rows"] == status["trajectories"]
    client.close()


@pytest.mark.faults
def test_rows_that_died_with_their_process_are_missed(tmp_path: Path) -> None:
    """Without a journal an empty replay does not pass for a young one; a checkpoint puts it right."""
    config = ReplayActorConfig(resources=Resources(num_cpus=0))
    actor = start_replay_actor(SPACES, ReplayConfig(capacity=100), ServingConfig(), 0, config)
    client = RemoteReplay(actor, config)
    client.store(chunk(0, 10, "runner", 0))
    client.save(tmp_path)
    assert client.metrics()["restarts"] == 0
    kill(actor)
    with pytest.raises(RowsLostError, match=r"had no journal. Resume the run from its newest checkpoint"):
        _until_it_fails(client)
    with pytest.raises(RowsLostError):
        client.sample(1, 4)
    client.load(tmp_path)
    assert client.env_steps == 10
    assert client.metrics()["restarts"] == 1


@pytest.mark.faults
def test_an_older_copy_of_the_journal_is_not_taken_for_it(tmp_path: Path) -> None:
    """As on a node that the actor comes back to after it was elsewhere, and went on from a checkpoint there."""
    journal = tmp_path / "journal"
    config = ReplayActorConfig(resources=Resources(num_cpus=0))
    actor = start_replay_actor(SPACES, ReplayConfig(capacity=100), ServingConfig(), 0, config, journal=journal)
    client = RemoteReplay(actor, config)
    client.store(chunk(0, 10, "runner", 0))
    client.save(tmp_path / "checkpoint")
    client.store(chunk(10, 10, "runner", 1))
    shutil.copytree(journal, tmp_path / "older")
    client.load(tmp_path / "checkpoint")
    shutil.rmtree(journal)
    (tmp_path / "older").rename(journal)
    os.kill(int(ray.get(actor.status.remote())["process"]), signal.SIGKILL)
    with pytest.raises(RowsLostError, match="is of an earlier time on the node"):
        _until_it_fails(client)
    client.load(tmp_path / "checkpoint")
    assert client.env_steps == 10
    kill(actor)
    assert client.env_steps == 10  # it has a journal of its own again


def _until_it_fails(client: RemoteReplay) -> None:
    deadline = time.monotonic() + PATIENCE
    while client.env_steps == 10 and time.monotonic() < deadline:
        time.sleep(0.01)


def _learn(client: RemoteReplay, stop: threading.Event) -> int:
    learned = 0
    while not stop.is_set():
        batches = client.sample(2, 32)
        client.report_td_errors(batches, np.ones((2, 32), np.float32))
        learned += len(batches)
    return learned


def _generate(actor: Any, stop: threading.Event) -> int:
    """Answers requests with a row each, as the pool's dispatcher does."""
    answered = 0
    while not stop.is_set():
        requests = ray.get(actor.wait_for_requests.remote(64, 0.2), timeout=PATIENCE)
        if requests:
            made = SyntheticRows(chunk(0, len(requests), "", 0).rows, np.ones(len(requests), np.int64), 0)
            answered += ray.get(actor.store_synthetic.remote(requests, made), timeout=PATIENCE)
    return answered


def _wait_for_more(client: RemoteReplay, rows: int) -> None:
    wanted, deadline = client.env_steps + rows, time.monotonic() + PATIENCE
    while client.env_steps < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{client.env_steps} env steps after {PATIENCE} s, {wanted} were expected.")
        time.sleep(0.05)
