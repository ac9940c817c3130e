"""A learner's and an env runner's side of the replay actor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from replay_actors import SPACES, chunk

from atradiff.config import ServingConfig
from atradiff.ports import ReplayService, RowSink
from atradiff.replay.config import ReplayConfig
from atradiff.replay.mixed import MixedReplay
from atradiff.types import FloatArray, IntArray, Transitions
from cluster.placement import Resources
from cluster.replay_actor import ReplayActorConfig, start_replay_actor
from cluster.replay_client import ActorRowSink, RemoteReplay

pytestmark = pytest.mark.usefixtures("local_ray")
REPLAY = ReplayConfig(capacity=1000, rho=0.0)


class Scores:
    """A watcher that keeps the TD errors it hears, and cannot bear negative ones."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, float]] = []

    def stored(self, row_ids: IntArray, rows: Transitions, episodes: IntArray | None) -> None: ...

    def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
        if (td_errors < 0).any():
            raise ValueError("a negative TD error")
        self.heard += list(zip(row_ids.tolist(), td_errors.tolist(), strict=True))

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


def _client(**options: Any) -> tuple[Any, RemoteReplay]:
    config = ReplayActorConfig(resources=Resources(num_cpus=0), **options)
    actor = start_replay_actor(SPACES, REPLAY, ServingConfig(), 7, config, watcher=Scores())
    return actor, RemoteReplay(actor, config)


@pytest.mark.parametrize(("prefetch", "per_call"), [(0, 8), (1, 1), (5, 2), (40, 8)])
def test_gives_the_batches_that_the_replay_draws_in_their_order(prefetch: int, per_call: int) -> None:
    _, client = _client(prefetch=prefetch, batches_per_call=per_call)
    plain = MixedReplay(SPACES, REPLAY, 7)
    client.store(chunk(0, 100, "a", 0))
    plain.store(chunk(0, 100, "a", 0).rows)
    assert client.env_steps == 100
    for count in (1, 3, 7, 1):
        batches = client.sample(count, 16)
        assert [len(batch.row_ids) for batch in batches] == [16] * count
        for batch in batches:
            expected = plain.sample(16)
            np.testing.assert_array_equal(batch.row_ids, expected.row_ids)
            np.testing.assert_array_equal(batch.transitions.rewards, expected.transitions.rewards)
    assert [len(batch.row_ids) for batch in client.sample(2, 8)] == [8, 8]
    client.close()


def test_asks_for_no_more_than_it_was_told_to() -> None:
    actor, client = _client(prefetch=0)
    client.store(chunk(0, 50, "a", 0))
    client.sample(3, 10)
    assert _sampled(actor) == 30
    actor, client = _client(prefetch=6, batches_per_call=4)
    client.store(chunk(0, 50, "a", 0))
    client.sample(1, 10)  # a call of four, of which three are left, and one more call
    assert _sampled(actor) == 80


def _sampled(actor: Any) -> int:
    ray.get(actor.sample.remote(0, 1))  # answered after all that were asked for before
    return int(ray.get(actor.consult.remote(lambda replay: replay.counters.sampled_real)))


def test_td_errors_arrive_and_their_failures_are_told() -> None:
    actor, client = _client(unacknowledged=2)
    client.store(chunk(0, 50, "a", 0))
    expected = []
    for value in range(10):
        batches = client.sample(2, 4)
        client.report_td_errors(batches, np.full((2, 4), value, np.float32))
        expected += [(int(row), float(value)) for batch in batches for row in batch.row_ids]
    client.close()
    assert ray.get(actor.consult.remote(lambda replay: replay.watcher.heard)) == expected
    client.report_td_errors(batches, np.full((2, 4), -1, np.float32))
    with pytest.raises(ValueError, match="a negative TD error"):
        client.close()


def test_saves_and_loads_through_the_actor(tmp_path: Path) -> None:
    _, client = _client(prefetch=4)
    client.store(chunk(0, 10, "a", 0))
    client.sample(1, 4)
    client.save(tmp_path / "replay")
    client.store(chunk(500, 490, "a", 1))
    assert client.metrics()["real_fill"] == 0.5
    client.load(tmp_path / "replay")
    assert client.env_steps == 10
    rewards = np.concatenate([batch.transitions.rewards for batch in client.sample(20, 16)])
    assert rewards.max() < 10  # nothing that was prefetched before
    (tmp_path / "a file").touch()
    with pytest.raises(OSError, match=r"^\[Errno \d+\] [^\n]+$"):  # as the actor met it, without Ray's pages
        client.save(tmp_path / "a file" / "replay")


def test_metrics_tell_how_long_the_learner_waited() -> None:
    _, client = _client()
    client.store(chunk(0, 10, "a", 0))
    client.sample(1, 4)
    metrics = client.metrics()
    assert metrics["env_steps"] == 10
    assert metrics["learner_wait"] > 0
    assert 0 < metrics["learner_wait_share"] < 1


def test_a_sink_works_in_another_process_and_repeats_do_no_harm() -> None:
    _, client = _client()
    service: ReplayService = client
    sink = service.sink
    assert isinstance(sink, ActorRowSink)
    ray.get(_push_twice.options(num_cpus=0).remote(sink))
    assert service.env_steps == 30
    assert service.metrics()["chunks_repeated"] == 3


@ray.remote
def _push_twice(sink: RowSink) -> None:
    for i in range(3):
        for _ in range(2):
            sink.push(chunk(10 * i, 10, "runner", i))


def test_serve_raises_what_the_pool_could_not_deal_with() -> None:
    actor, quiet = _client()
    quiet.serve()

    def tell() -> None:
        raise RuntimeError("no generator could be started")

    with pytest.raises(RuntimeError, match="no generator"):
        RemoteReplay(actor, raise_errors=tell).serve()


def test_an_empty_replay_says_so() -> None:
    _, client = _client()
    with pytest.raises(ValueError, match="store real transitions before sampling"):
        client.sample(1, 4)
    client.store(chunk(0, 1, "a", 0))
    assert client.sample(1, 4)[0].row_ids.tolist() == [0, 0, 0, 0]
