"""The adapter in a process of its own: updates that nobody waits for, and a state that outlives the process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from adapter_world import WrittenPickUp, double_actions, order, picks
from replay_actors import PATIENCE, Stuck

from atradiff.adaptation.adapt import Adapter, Weights
from atradiff.adaptation.config import PickUpConfig
from atradiff.adaptation.feed import LocalFeed, ScoreAnswer
from atradiff.adaptation.report import AdaptationReport
from atradiff.adaptation.td_index import TdErrorPickUp
from atradiff.config import ServingConfig
from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import EpisodeRows
from atradiff.replay.config import ReplayConfig
from atradiff.types import FloatArray, Transitions
from cluster.adapter_actor import AdapterWorker, RemoteFeed, start_adapter_actor
from cluster.adapter_client import AdapterClient
from cluster.checkpoint_files import StoredPart
from cluster.placement import Resources
from cluster.replay_actor import ReplayActorConfig, start_replay_actor
from cluster.rescoring import Rescoring
from cluster.storage import Location
from tests.adaptation.adapting import QUICK, filled_replay, moved_data, offline_data
from tests.toys import CHAIN, random_data, tiny_diffuser

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def model() -> TrajectoryDiffuser:
    return tiny_diffuser(offline_data())


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Any]:
    """A replay actor with the rows of the moved agent, in the learner's scale."""
    actor: Any = start_replay_actor(
        CHAIN,
        ReplayConfig(capacity=5000),
        ServingConfig(),
        0,
        ReplayActorConfig(resources=Resources(num_cpus=0)),
        watcher=WrittenPickUp(5000, tmp_path),
    )
    data = moved_data(20)
    rows = replace(data.columns, actions=data.columns.actions / 2)
    ray.get(actor.store.remote(EpisodeRows(rows, np.repeat(np.arange(20), data.lengths), "runner", 0)))
    yield actor
    ray.kill(actor)


class Board:
    """Takes what is published."""

    def __init__(self) -> None:
        self.published: list[tuple[int, Weights]] = []

    def publish(self, version: int, weights: Weights) -> None:
        self.published.append((version, weights))


def finish(client: AdapterClient, env_steps: int) -> AdaptationReport:
    deadline = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < deadline:
        if (report := client.step(env_steps)) is not None:
            return report
        time.sleep(0.02)
    raise TimeoutError("no update came to its end.")


def assert_equal(one: Weights, other: Weights) -> None:
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_updates_are_those_of_the_plain_adapter(model: TrajectoryDiffuser, replay: Any, tmp_path: Path) -> None:
    """Begun when due, awaited by nobody, published once; a checkpoint brings the version back."""
    started, board = start_adapter_actor(model, offline_data(), order(tmp_path / "state", QUICK)), Board()
    client = AdapterClient(started, replay, QUICK.every, board.publish)
    assert not client.due(299)
    assert client.step(299) is None
    assert client.step(300) is None  # begun
    report = finish(client, 310)
    assert (report.outcome, report.version, report.env_steps) == ("accepted", 1, 300)
    assert client.step(599) is None
    plain = Adapter(model, offline_data(), QUICK, 0)
    plain.update(LocalFeed(filled_replay(moved_data(20)), double_actions), 300)
    [(version, weights)] = board.published
    assert version == 1
    assert_equal(weights, plain.weights())
    assert client.metrics()["updates"] == 1
    assert client.metrics()["restarts"] == 0

    location = Location.of(tmp_path / "part")
    part = StoredPart(location, tuple(client.write(location)))
    finish(client, 600)
    client.step(900)  # begun, and not of the version that comes next
    client.restore(part)
    assert [version for version, _ in board.published] == [1, 2, 3]  # 1 was served before
    assert_equal(board.published[2][1], weights)
    assert finish(client, 600).version == 4

    later = Board()
    resumed = AdapterClient(started, replay, QUICK.every, later.publish)
    resumed.restore(part)
    assert later.published[0][0] == 1
    assert resumed.metrics()["updates"] == 1
    assert_equal(later.published[0][1], weights)
    assert not resumed.due(599)
    assert resumed.due(600)

    ahead = Board()  # a model that had been adapted further when it was handed over
    AdapterClient(replace(started, version=5), replay, QUICK.every, ahead.publish).restore(part)
    assert [version for version, _ in ahead.published] == [6]
    assert_equal(ahead.published[0][1], weights)

    outlived = Board()  # by rows of a replay whose driver died: their versions are not given to other weights
    AdapterClient(started, replay, QUICK.every, outlived.publish).restore(part, newest=9)
    assert [version for version, _ in outlived.published] == [10]
    ray.kill(started.actor)


@pytest.mark.faults
def test_a_killed_adapter_goes_on_from_its_last_version_and_does_the_update_again(
    model: TrajectoryDiffuser, replay: Any, tmp_path: Path
) -> None:
    slow = replace(QUICK, steps=80)
    started, board = start_adapter_actor(model, offline_data(), order(tmp_path / "state", slow)), Board()
    client = AdapterClient(started, replay, QUICK.every, board.publish)
    assert finish(client, 300).version == 1
    process = int(ray.get(client.actor.ready.remote()))
    client.step(600)
    deadline = time.monotonic() + PATIENCE
    while picks(tmp_path) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)  # it has its windows and has just begun to learn from them
    report = finish(client, 600)
    assert (report.outcome, report.version, report.number) == ("accepted", 2, 2)
    assert picks(tmp_path) == 3
    assert [version for version, _ in board.published] == [1, 2]
    assert client.metrics()["restarts"] == 1
    undisturbed = Adapter(model, offline_data(), slow, 0)
    feed = LocalFeed(filled_replay(moved_data(20)), double_actions)
    for env_steps in (300, 600):
        undisturbed.update(feed, env_steps)
    assert_equal(board.published[1][1], undisturbed.weights())
    ray.kill(started.actor)


def test_what_does_not_fit_is_said_at_the_start(model: TrajectoryDiffuser, tmp_path: Path) -> None:
    from atradiff.types import Spaces

    other = random_data([8, 8], [False] * 2, spaces=Spaces(3, "continuous", (-1.0,), (1.0,)))
    with pytest.raises(ValueError, match="observation_size is 3"):
        start_adapter_actor(model, other, order(tmp_path, QUICK))


def test_a_worker_without_its_state_adopts_what_is_published(model: TrajectoryDiffuser, tmp_path: Path) -> None:
    """Ray may restart the actor on another node, where its folder is empty."""
    feed, same_feed = (LocalFeed(filled_replay(moved_data(20)), double_actions) for _ in range(2))
    first = AdapterWorker(Adapter(model, offline_data(), QUICK, 0), tmp_path / "here")
    first.update(feed, 300, 0, dict)
    published = first.adapter.weights()
    elsewhere = AdapterWorker(Adapter(model, offline_data(), QUICK, 0), tmp_path / "there")
    assert elsewhere.update(feed, 600, 1, lambda: published).version == 2
    Adapter(model, offline_data(), QUICK, 0).update(same_feed, 300)
    expected = Adapter(model, offline_data(), QUICK, 0)
    expected.adopt(1, published)
    expected.update(same_feed, 600)
    assert_equal(elsewhere.adapter.weights(), expected.weights())
    again = AdapterWorker(Adapter(model, offline_data(), QUICK, 0), tmp_path / "there")
    assert again.adapter.version == 2
    assert len(list((tmp_path / "there").iterdir())) == 1


def test_a_checkpoint_does_not_wait_for_an_update(model: TrajectoryDiffuser, tmp_path: Path) -> None:
    replay: Any = ray.remote(num_cpus=0)(Stuck).remote()
    started = start_adapter_actor(model, offline_data(), order(tmp_path / "state", QUICK))
    client = AdapterClient(started, replay, QUICK.every, Board().publish)
    client.step(300)
    location = Location.of(tmp_path / "part")
    ray.get(started.actor.write.remote(location, started.made_of), timeout=PATIENCE)
    assert client.step(310) is None  # under way
    found = Adapter(model, offline_data(), QUICK, 0)
    found.load(tmp_path / "part")
    assert_equal(found.weights(), Adapter(model, offline_data(), QUICK, 0).weights())
    for actor in (started.actor, replay):
        ray.kill(actor)


def test_a_damaged_state_is_passed_over(
    model: TrajectoryDiffuser, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = AdapterWorker(Adapter(model, offline_data(), QUICK, 0), tmp_path)
    first.update(LocalFeed(filled_replay(moved_data(20)), double_actions), 300, 0, dict)
    (state,) = tmp_path.iterdir()
    file = state / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    again = AdapterWorker(Adapter(model, offline_data(), QUICK, 0), tmp_path)
    assert (again.adapter.version, again.adapter.env_steps) == (0, 0)
    assert f"{state} is passed over" in caplog.text
    assert_equal(again.adapter.weights(), Adapter(model, offline_data(), QUICK, 0).weights())
    again.copy_kept(tmp_path / "copy")
    found = Adapter(model, offline_data(), QUICK, 0)
    found.load(tmp_path / "copy")
    assert found.version == 0


def test_the_learner_scores_the_index_when_an_update_is_due() -> None:
    """And only then: at multiples of ``every``, all rows at once, with the number of draws that was asked for."""
    pick_up, asked = PickUpConfig("td", entries=100, picked=10, draws=4), []
    actor: Any = start_replay_actor(
        CHAIN,
        ReplayConfig(capacity=500),
        ServingConfig(),
        0,
        ReplayActorConfig(resources=Resources(num_cpus=0)),
        watcher=TdErrorPickUp(pick_up, 500, 0),
    )
    data = moved_data(5)
    ray.get(actor.store.remote(EpisodeRows(data.columns, np.repeat(np.arange(5), data.lengths), "runner", 0)))
    ids = np.arange(60)
    ray.get(actor.consult.remote(ScoreAnswer(ids, np.zeros(60, np.float32))))

    def score(rows: Transitions, draws: int) -> FloatArray:
        asked.append((len(rows), draws))
        return rows.observations[:, 0] + 10

    rescoring = Rescoring(actor, replace(QUICK, pick_up=pick_up), SimpleNamespace(score=score))  # type: ignore[arg-type]
    for env_steps in (250, 290, 299):
        rescoring.step(env_steps)
    assert asked == []
    rescoring.step(305)
    rescoring.step(306)
    assert asked == [(60, 4)]
    feed = RemoteFeed(actor, double_actions)
    best = np.sort(data.columns.observations[:60, 0])[::-1][:10] + 10
    np.testing.assert_array_equal(feed.picked(10, (3,)).picked.importance, best)
    idle = Rescoring(actor, None, SimpleNamespace(score=score))  # type: ignore[arg-type]
    for env_steps in (0, 10_000):
        idle.step(env_steps)
    assert len(asked) == 1
    ray.kill(actor)
