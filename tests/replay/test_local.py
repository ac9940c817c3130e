"""The replay in the algorithm's own process behaves as its parts do, and comes back from its files."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atradiff.config import ServingConfig
from atradiff.ports import EpisodeRows, ReplayService, ReplayServices, ServiceOrder
from atradiff.replay.local import LocalReplay, LocalServices
from atradiff.replay.mixed import ReplayConfig
from atradiff.types import FloatArray, IntArray, Spaces, SyntheticTrajectories, Transitions

SPACES = Spaces(1, "continuous", action_low=(-2.0,), action_high=(2.0,))


class Standing:
    """Stays where it starts for two rows, with action 2 in the environment's scale; rewards tell the seed."""

    spaces, version, starts_at_states = SPACES, 3, True

    def generate(
        self,
        states: FloatArray,
        task: FloatArray | None = None,  # noqa: ARG002
        *,
        generator_seed: int,
    ) -> SyntheticTrajectories:
        n = len(states)
        return SyntheticTrajectories(
            observations=np.repeat(states[:, None], 3, axis=1),
            actions=np.full((n, 2, 1), 2.0, np.float32),
            rewards=np.full((n, 2), generator_seed % 1000, np.float32),
            terminated=np.zeros((n, 2), bool),
            lengths=np.full(n, 2, np.int64),
            generator_version=3,
        )


def order(seed: int = 0, generator: Standing | None = Standing()) -> ServiceOrder:  # noqa: B008
    return ServiceOrder(
        spaces=SPACES,
        replay=ReplayConfig(capacity=200, rho=0.5, expected_length=2.0),
        serving=ServingConfig(requests_per_batch=4),
        seed=seed,
        generator=generator,
        to_learner=lambda rows: replace(rows, actions=rows.actions / 2),
        to_environment=lambda rows: replace(rows, actions=rows.actions * 2),
    )


def chunk(first: int, n: int, sequence: int = 0) -> EpisodeRows:
    """Rows of one episode that counts from ``first``."""
    at = np.arange(first, first + n, dtype=np.float32)[:, None]
    flags = np.zeros(n, bool)
    rows = Transitions(at, at * 0, at[:, 0], at + 1, flags, flags)
    return EpisodeRows(rows, np.full(n, 7, np.int64), "test", sequence)


@pytest.fixture
def service() -> LocalReplay:
    services: ReplayServices = LocalServices()
    made: ReplayService = services.start(order())
    made.store(chunk(0, 60))
    made.serve()
    assert isinstance(made, LocalReplay)
    return made


def test_what_is_stored_is_imagined_from_and_sampled_in_the_learners_scale(service: LocalReplay) -> None:
    assert service.env_steps == 60
    assert service.sink is None
    batches = service.sample(5, 40)
    assert [len(batch.row_ids) for batch in batches] == [40] * 5
    for batch in batches:
        rows, real = batch.transitions, ~batch.synthetic
        np.testing.assert_array_equal(rows.observations[real, 0], batch.row_ids[real])
        np.testing.assert_array_equal(rows.actions[:, 0], np.where(batch.synthetic, 1.0, 0.0))
    share = np.mean([batch.synthetic.mean() for batch in batches])
    assert 0.3 < share < 0.7
    metrics = service.metrics()
    assert metrics["env_steps"] == metrics["real_rows"] == 60
    assert metrics["generator_version"] == 3
    assert metrics["requests"] == metrics["trajectories"] + metrics["requests_pending"]
    assert metrics["synthetic_rows"] == 2 * metrics["trajectories"]


def test_windows_follow_an_episode_over_its_chunks(service: LocalReplay) -> None:
    service.store(chunk(60, 10, sequence=1))
    windows, whole, _ = service.replay.windows(np.array([57, 68], np.int64), 5)
    np.testing.assert_array_equal(whole, [True, False])
    np.testing.assert_array_equal(windows.states[0, :, 0], np.arange(57, 63))


def test_td_errors_of_real_rows_reach_who_watches_the_replay(service: LocalReplay) -> None:
    scores: dict[int, float] = {}

    class Watcher:
        def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
            scores.update(zip(row_ids.tolist(), td_errors.tolist(), strict=True))

    service.replay.watcher = Watcher()  # type: ignore[assignment]
    batches = service.sample(3, 20)
    errors = np.stack([batch.transitions.observations[:, 0] for batch in batches])
    service.report_td_errors(batches, errors)
    expected = {int(i) for batch in batches for i in batch.row_ids[~batch.synthetic]}
    assert scores == {i: float(i) for i in expected}  # the error given to each row was its own number


def test_without_a_generator_serving_does_nothing() -> None:
    service = LocalServices().start(replace(order(generator=None), replay=ReplayConfig(capacity=50, rho=0.0)))
    service.store(chunk(0, 30))
    service.serve()
    assert service.metrics()["synthetic_rows"] == 0
    assert "generator_version" not in service.metrics()


def test_comes_back_from_its_files_and_goes_on_alike(service: LocalReplay, tmp_path: Path) -> None:
    service.save(tmp_path)
    restored = LocalServices().start(order(seed=99))  # the seed is the saved one's
    restored.load(tmp_path)
    for one in (service, restored):
        one.store(chunk(60, 40, sequence=1))
        one.serve()
    for ours, theirs in zip(service.sample(3, 32), restored.sample(3, 32), strict=True):
        np.testing.assert_array_equal(ours.row_ids, theirs.row_ids)
        np.testing.assert_array_equal(ours.transitions.rewards, theirs.transitions.rewards)
    assert restored.metrics() == service.metrics()


@pytest.mark.parametrize("damage", ["", "{}", "no json"])
def test_a_damaged_seed_is_said_so(service: LocalReplay, tmp_path: Path, damage: str) -> None:
    service.save(tmp_path)
    (tmp_path / "serving.json").write_text(damage)
    with pytest.raises(ValueError, match=r"serving\.json is damaged"):
        service.load(tmp_path)


def test_the_factory_travels() -> None:
    assert pickle.loads(pickle.dumps(LocalServices())) == LocalServices()
