"""The replay actor over a real Ray: what its callers may rely on."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from replay_actors import PATIENCE, SPACES, chunk

from atradiff.config import ServingConfig
from atradiff.data.trajectories import Trajectories
from atradiff.replay.config import ReplayConfig
from atradiff.replay.mixed import MixedReplay
from atradiff.replay.offline import OfflineRows
from atradiff.types import SyntheticRows
from cluster.checkpoint_files import StoredPart
from cluster.placement import Resources
from cluster.replay_actor import ReplayActorConfig, start_replay_actor
from cluster.storage import Location

pytestmark = pytest.mark.usefixtures("local_ray")
REPLAY = ReplayConfig(capacity=1000, rho=0.5, expected_length=1.0)  # a request per row
NOTHING = Resources(num_cpus=0)


def _start(journal: Path | None = None, **options: Any) -> Any:
    config = ReplayActorConfig(resources=NOTHING)
    return start_replay_actor(SPACES, REPLAY, ServingConfig(4, 50), 7, config, journal=journal, **options)


def _get(reference: Any) -> Any:
    return ray.get(reference, timeout=PATIENCE)


def test_is_the_plain_replay_in_another_process() -> None:
    actor, plain = _start(), MixedReplay(SPACES, REPLAY, 7)
    for i in range(4):
        sent = chunk(10 * i, 10, "a", i)
        assert _get(actor.store.remote(sent)) == 10 * (i + 1)
        plain.store(sent.rows, sent.episodes)
    requests = _get(actor.wait_for_requests.remote(6, 0.0))
    same = plain.take_requests(6)
    assert [(r.request_id, r.requested_at, *r.state) for r in requests] == [
        (r.request_id, r.requested_at, *r.state) for r in same
    ]
    made = SyntheticRows(chunk(0, 12, "", 0).rows, np.full(6, 2), generator_version=3)
    assert _get(actor.store_synthetic.remote(requests, ray.put(made))) == 12
    plain.store_synthetic(same, made.rows, made.lengths, 3)
    ours, theirs = _get(actor.sample.remote(3, 32)), plain.sample_many(3, 32)
    np.testing.assert_array_equal(ours.row_ids, theirs.row_ids)
    np.testing.assert_array_equal(ours.synthetic, theirs.synthetic)
    for (name, mine), (_, yours) in zip(ours.transitions.items(), theirs.transitions.items(), strict=True):
        np.testing.assert_array_equal(mine, yours, err_msg=name)


@pytest.mark.faults
def test_offline_rows_come_by_reference_and_are_there_again_after_a_restart(tmp_path: Path) -> None:
    config, rows = replace(REPLAY, offline_share=0.25), chunk(1000, 40, "", 0).rows
    offline = OfflineRows.of(Trajectories(SPACES, rows, np.array([0, 40])), lambda rows: rows)
    held = ray.put(offline)
    settings, journal = ReplayActorConfig(resources=NOTHING), tmp_path / "journal"
    actor = start_replay_actor(SPACES, config, ServingConfig(4, 50), 7, settings, journal=journal, offline=held)
    plain = MixedReplay(SPACES, config, 7, offline=offline)
    _get(actor.store.remote(chunk(0, 10, "a", 0)))
    plain.store(chunk(0, 10, "a", 0).rows)
    ours, theirs = _get(actor.sample.remote(2, 16)), plain.sample_many(2, 16)
    np.testing.assert_array_equal(ours.row_ids, theirs.row_ids)
    np.testing.assert_array_equal(ours.offline, theirs.offline)
    assert (ours.transitions.rewards >= 1000).tolist() == ours.offline.tolist()
    before = _get(actor.status.remote())
    os.kill(int(before["process"]), signal.SIGKILL)
    after = _get(actor.status.remote())
    assert after["process"] != before["process"]
    assert (after["offline_rows"], after["env_steps"]) == (40, 10)
    assert _get(actor.sample.remote(1, 16)).offline.sum() == 4
    assert not any("offline" in path.name for path in tmp_path.rglob("*"))


def test_a_waiting_dispatcher_keeps_nobody_waiting() -> None:
    actor = _start()
    waiting = actor.wait_for_requests.remote(8, PATIENCE)
    assert _get(actor.store.remote(chunk(0, 2, "a", 0))) == 2
    assert len(_get(actor.sample.remote(1, 16)).row_ids) == 16
    _get(actor.report_td_errors.remote(np.array([0]), np.array([False]), np.array([1.0], np.float32)))
    assert ray.wait([waiting], timeout=0)[0] == []
    _get(actor.store.remote(chunk(2, 2, "a", 1)))
    requests = _get(waiting)
    assert len(requests) == 4
    assert _get(actor.put_back.remote(requests[1:])) == 3
    assert _get(actor.status.remote())["requests_outstanding"] == 1


def test_an_actor_that_starts_later_finds_the_journal(tmp_path: Path) -> None:
    first = _start(tmp_path / "journal")
    _get(first.store.remote(chunk(0, 10, "a", 0)))
    checkpoint = _saved(first, tmp_path / "checkpoint")
    _get(first.store.remote(chunk(10, 10, "a", 1)))
    ray.kill(first)
    second = _start(tmp_path / "journal")
    assert _get(second.env_steps.remote()) == 20
    assert _get(second.status.remote())["recovered_rows"] == 20
    _get(second.read.remote(checkpoint))
    assert _get(second.env_steps.remote()) == 10


def test_is_refused_where_memory_lacks() -> None:
    with pytest.raises(ValueError, match=r"10000000000000 real rows x 34 bytes.* free here: lower replay.capacity"):
        start_replay_actor(
            SPACES, ReplayConfig(capacity=10**13), ServingConfig(), 0, ReplayActorConfig(resources=NOTHING)
        )


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    actor = _start(tmp_path)
    _get(actor.store.remote(chunk(0, 10, "a", 0)))
    _get(actor.read.remote(_saved(actor, tmp_path / "saved")))
    ray.kill(actor)
    config = ReplayActorConfig(resources=NOTHING)
    with pytest.raises(ValueError, match="ring of 1000 rows, this one has 50"):
        start_replay_actor(SPACES, ReplayConfig(capacity=50), ServingConfig(), 0, config, journal=tmp_path)


def _saved(actor: Any, folder: Path) -> StoredPart:
    location = Location.of(folder)
    return StoredPart(location, tuple(_get(actor.write.remote(location))))


@pytest.mark.parametrize("name", ["snapshot_every", "batches_per_call", "unacknowledged"])
def test_bad_settings_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"cluster.replay.{name} must be at least 1, got 0"):
        ReplayActorConfig(**{name: 0})
