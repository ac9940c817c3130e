"""The generator pool on a real Ray: every request answered once, by whom and with what was asked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from atradiff.branches import OwnActions
from atradiff.config import ServingConfig
from atradiff.ports import EpisodeRows
from atradiff.serving import LocalServer
from cluster.generator_fleet import GeneratorError
from cluster.generator_pool import GeneratorPool
from cluster.pool_config import PoolConfig
from tests.cluster.pool_world import (
    AskingReplay,
    Books,
    Failing,
    Homeless,
    Rolling,
    Silent,
    Stamping,
    Steady,
    WithElder,
    asking_replay,
    doubled,
    halved,
    stamp,
)
from tests.toys import chain_data, tiny_diffuser

pytestmark = pytest.mark.usefixtures("local_ray")
PATIENCE_SECONDS = 150.0
"""Fails a hang; nothing is measured against it."""
SMALL = {"num_cpus": 0.1, "num_gpus": 0.0}


def actor_of(kind: type, *args: Any, restarts: int = 0, **settings: Any) -> Any:
    options = {"num_cpus": 0, "max_concurrency": 1, "max_restarts": restarts, "max_task_retries": restarts}
    return ray.remote(kind).options(**options).remote(*args, **settings)


@pytest.fixture(scope="module")
def one_book() -> Any:
    return actor_of(Books, 0)


@pytest.fixture
def open_books(one_book: Any) -> Callable[..., Any]:
    """Opens the books over n requests; a pool that is over has no business in them any more."""

    def begin(n: int, *, forgiving: bool = False) -> Any:
        ray.get(one_book.begin.remote(n, forgiving=forgiving))
        return one_book

    return begin


def pool_over(books: Any, generator: Any = None, size: int = 4, **settings: Any) -> GeneratorPool:
    """``size`` requests per batch; other settings are those of :class:`PoolConfig`."""
    config = PoolConfig(**(SMALL | settings))
    return GeneratorPool(generator or Stamping(), books, config, ServingConfig(size), 3, halved)


def until(holds: Callable[[], bool], pool: GeneratorPool | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if pool is not None:
            pool.check()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def counts(books: Any) -> dict[str, int]:
    return ray.get(books.counts.remote())


def answered(books: Any, n: int) -> Callable[[], bool]:
    return lambda: counts(books)["answered"] >= n


@pytest.fixture(scope="module")
def diffuser():
    return tiny_diffuser()


def test_stores_what_the_server_in_process_stores(diffuser) -> None:
    near, rows = asking_replay(), chain_data(8).columns[np.arange(50)]
    near.store(rows)
    LocalServer(near, diffuser, ServingConfig(8, 0), 3, halved).serve()
    far = actor_of(AskingReplay, ServingConfig(8, 0))
    ray.get(far.store.remote(EpisodeRows(rows, np.zeros(50, np.int64), "test", 0)))
    with GeneratorPool(diffuser, far, PoolConfig(generators=2, **SMALL), ServingConfig(8, 0), 3, halved) as pool:
        until(lambda: pool.metrics()["requests_answered"] == near.counters.trajectories, pool)
        assert pool.metrics()["rows"] == len(near.synthetic)
    ours, theirs = near.synthetic, ray.get(far.consult.remote(lambda replay: replay.synthetic))
    n = len(ours)
    assert len(theirs) == n > 50
    # two generators answer in any order
    orders = [np.lexsort((*ring["observations"][:n].T, *ring["next_observations"][:n].T)) for ring in (ours, theirs)]
    for name in ours.columns:
        np.testing.assert_array_equal(ours[name][:n][orders[0]], theirs[name][:n][orders[1]], err_msg=name)


def test_growing_and_shrinking_under_load_answers_everything_once(open_books) -> None:
    books = open_books(1200)
    with pool_over(books, Stamping(0.02)) as pool:
        pool.scale(3)
        until(lambda: pool.metrics()["size"] == 3 and pool.metrics()["starting"] == 0, pool)
        until(answered(books, 400), pool)
        pool.scale(1)
        until(lambda: pool.metrics()["size"] == 1, pool)
        until(answered(books, 1200), pool)
        until(lambda: pool.metrics()["requests_answered"] == 1200, pool)  # it hears of that a moment later
        figures = pool.metrics()
    after = counts(books)  # a question that was on its way when the pool shrank brought more than it could hold
    assert (after["waiting"], after["lent"], after["answered"]) == (0, 0, 1200)
    assert (figures["batches"], figures["requests_answered"], figures["rows"]) == (300, 1200, 2400)
    assert figures["latency_p99_ms"] >= figures["latency_p50_ms"] >= figures["service_p50_ms"] >= 20
    for request_id, _, observations, _ in ray.get(books.answers.remote()):
        assert (observations == [2 * request_id, 2 * request_id + 1]).all()


def test_stopping_stores_what_is_being_made_and_hands_back_the_rest(open_books) -> None:
    books = open_books(4000)
    with pool_over(books, Stamping(0.05), generators=2) as pool:
        until(answered(books, 40), pool)
    after = counts(books)
    assert after["lent"] == 0
    assert after["returned"] <= 16  # one question was on its way, for all that the two may hold
    assert after["waiting"] + after["answered"] == 4000


def test_stopping_does_not_wait_for_ever(open_books) -> None:
    books = open_books(40)
    pool = pool_over(books, Stamping(3600.0))
    pool.start()
    until(lambda: pool.metrics()["in_flight"] == 2, pool)
    pool.stop(drain_s=0.1)
    assert counts(books) == {"waiting": 40, "lent": 0, "answered": 0, "returned": 8}


def test_weights_change_between_batches_never_within(open_books) -> None:
    books = open_books(800)
    with pool_over(books, generators=2) as pool:
        for version in (1, 2, 5):
            until(answered(books, 100 * version), pool)
            pool.publish(version, stamp(version / 10))
        until(answered(books, 800), pool)
        assert pool.metrics()["version_served"] == 5
    seen = []
    for _, version, _, actions in ray.get(books.answers.remote()):
        assert actions[:, 0] == pytest.approx([version / 20] * 2)  # in the learner's scale: halved
        seen.append(version)
    assert sorted(set(seen)) == [0, 1, 2, 5]
    assert max(np.flatnonzero(np.diff(seen) < 0), default=0) < 799  # order of requests, up to what was in flight


@pytest.mark.faults
def test_own_rows_have_the_actions_of_the_newest_policy_also_after_a_restart(open_books) -> None:
    books, acted = open_books(1000), [0.1, 0.2]
    serving = ServingConfig(4, own_share=0.5, own_length=1)
    with GeneratorPool(Rolling(0.02), books, PoolConfig(generators=2, **SMALL), serving, 3, halved) as pool:
        pool.publish(1, stamp(0.9))
        time.sleep(0.3)
        assert counts(books)["answered"] == 0  # there is no policy yet
        pool.act_by(OwnActions(Steady(acted[0]), serving.own_share, serving.own_length, doubled))
        until(answered(books, 200), pool)
        pool.act_by(OwnActions(Steady(acted[1]), serving.own_share, serving.own_length, doubled))
        os.kill(pool.processes()[0], signal.SIGKILL)
        until(lambda: pool.metrics()["requests_answered"] == 1000, pool)
        figures = pool.metrics()
    rows = np.concatenate([actions[:, 0] for _, _, _, actions in ray.get(books.answers.remote())])
    values, times = np.unique(rows, return_counts=True)
    assert values == pytest.approx([*acted, 0.45])  # what is diffused is halved, what is acted is not
    assert figures["own_rows"] == times[:2].sum()
    assert figures["own_rows"] / figures["rows"] == pytest.approx(0.5, abs=0.07)
    assert (rows[-200:] != np.float32(acted[0])).all()
    assert figures["restarts"] == 1


def test_a_generator_without_a_one_step_model_makes_no_own_rows(open_books) -> None:
    with pytest.raises(ValueError, match="a Stamping has none"):
        GeneratorPool(Stamping(), open_books(4), PoolConfig(**SMALL), ServingConfig(4, own_share=1.0), 3, halved)


def test_says_what_share_the_original_really_served(open_books) -> None:
    books = open_books(120)
    pool = pool_over(books, WithElder(0.0))
    assert pool.share_of_original() == {}
    pool.publish(2, stamp(0.2))
    with pool:
        until(lambda: pool.metrics()["requests_answered"] == 120, pool)
        told = pool.share_of_original()["original_share"]
    versions = [version for _, version, _, _ in ray.get(books.answers.remote())]
    assert set(versions) == {0, 2}
    assert told == versions.count(0) / 120


def test_wrong_weights_are_refused_where_they_are_published(open_books) -> None:
    books = open_books(40)
    pool = pool_over(books)
    pool.publish(3, stamp(0.3))
    with pytest.raises(ValueError, match="no weights of mine"):
        pool.publish(4, {"other": np.zeros(3)})
    with pytest.raises(ValueError, match="must rise above 3, which is being served, got 3"):
        pool.publish(3, stamp(0.4))
    with pool:
        until(answered(books, 40), pool)
    assert {version for _, version, _, _ in ray.get(books.answers.remote())} == {3}


def test_what_a_generator_raises_ends_the_pool_and_loses_nothing(open_books) -> None:
    books = open_books(40)
    with GeneratorPool(Failing(), books, PoolConfig(**SMALL), ServingConfig(4), 3, halved) as pool:
        with pytest.raises(GeneratorError, match="cannot divide"):
            until(lambda: False, pool)
        with pytest.raises(GeneratorError, match="cannot divide"):
            pool.check()
    after = counts(books)
    assert (after["waiting"], after["lent"], after["answered"]) == (40, 0, 0)


def test_a_generator_that_cannot_be_built_is_heard_of_at_the_start(open_books) -> None:
    with pytest.raises(GeneratorError, match=r"^generator 0 failed and would fail again: no such model on this node"):
        pool_over(open_books(4), Homeless()).start()


def test_resources_that_the_cluster_lacks(open_books) -> None:
    with pytest.raises(ValueError, match="asks for 1 GPU, but the whole cluster has 0 GPU"):
        pool_over(open_books(4), num_gpus=1.0)
    with pytest.raises(TimeoutError, match="of 2 generators found no place"):
        pool_over(open_books(4), generators=2, num_cpus=2.0).start(timeout_s=3)


def test_a_replay_that_does_not_answer_holds_up_neither_the_metrics_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.pool_dispatcher._FAREWELL_SECONDS", 0.5)
    hang = tmp_path / "hang"
    hang.touch()
    silent = ray.remote(Silent).options(num_cpus=0, max_concurrency=3).remote(4)
    with pool_over(silent, Stamping(hang=hang), patience=0.5) as pool:
        until(lambda: pool.metrics()["requests_put_back"] == 4)
        assert pool.metrics()["batches"] == 0
    assert isinstance(pool._dispatcher.error, ray.exceptions.GetTimeoutError)
    ray.kill(silent)


def test_a_batch_that_nobody_answers_goes_to_another_generator(open_books, tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    hang.touch()
    books = open_books(80, forgiving=True)  # who is merely slow is given up, too, and answers late
    with pool_over(books, Stamping(hang=hang), generators=2, patience=2.0) as pool:
        until(answered(books, 80), pool)
        assert pool.metrics()["requests_put_back"] >= 4
    assert counts(books)["lent"] == 0


def test_the_size_follows_the_age_of_the_queue(open_books) -> None:
    books = open_books(10)
    settings = {"maximum": 2, "grow_at_age": 100, "grow_after": 0.5, "shrink_after": 0.5}
    with pool_over(books, **settings) as pool:
        ray.get(books.set_age.remote(500))
        until(lambda: pool.metrics()["size"] == 2, pool)
        ray.get(books.set_age.remote(0))
        until(lambda: pool.metrics()["size"] == 1, pool)
        assert pool.metrics()["restarts"] == 0  # the one that went was sent away


@pytest.mark.faults
def test_a_killed_generator_loses_nothing_and_comes_back(open_books) -> None:
    books = open_books(2000)
    with pool_over(books, Stamping(0.02), generators=2) as pool:
        until(answered(books, 200), pool)
        pool.publish(1, stamp(0.1))
        os.kill(pool.processes()[0], signal.SIGKILL)
        until(lambda: pool.metrics()["restarts"] == 1, pool)
        until(answered(books, 2000), pool)
    assert counts(books) == {"waiting": 0, "lent": 0, "answered": 2000, "returned": 0}
    answers = ray.get(books.answers.remote())
    assert {version for _, version, _, _ in answers} == {0, 1}
    # the restarted one began with version 0 and was brought to what each batch names
    assert all(actions[:, 0] == pytest.approx([version / 20] * 2) for _, version, _, actions in answers)


@pytest.mark.faults
def test_survives_a_restart_of_the_replay_actor() -> None:
    books = actor_of(Books, 400, forgiving=True, restarts=-1)
    with pool_over(books) as pool:
        until(answered(books, 40), pool)
        before = ray.get(books.process.remote())
        os.kill(before, signal.SIGKILL)
        until(answered(books, 400), pool)
    assert ray.get(books.process.remote()) != before
    assert counts(books) == {"waiting": 0, "lent": 0, "answered": 400, "returned": 0}
