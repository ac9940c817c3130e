"""SynthER beside an agent, in a replay: fitted when due, old rows made anew, checkpoints that go on as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atradiff.augment.synther_fit import OnlineSynther
from atradiff.augment.synther_replay import SyntherReplay, SyntherServices
from atradiff.config import ServingConfig, SyntherConfig, SyntherFit
from atradiff.ports import EpisodeRows, ReplayService, ServiceOrder
from atradiff.replay.mixed import ReplayConfig
from atradiff.types import Transitions
from tests.toys import CHAIN, chain_data, tiny_diffuser

CONFIG = SyntherConfig(width=16, depth=1, solver="dpm++", calls=2, retrain_every=100)
DATA = chain_data(40).columns


def halved(rows: Transitions) -> Transitions:
    return replace(rows, actions=rows.actions / 2)


def doubled(rows: Transitions) -> Transitions:
    return replace(rows, actions=rows.actions * 2)


def started(seed=0) -> SyntherReplay:
    replay = ReplayConfig(capacity=2000, rho=0.5, expected_length=1.0)
    serving = ServingConfig(requests_per_batch=8, max_wait=50)
    online = OnlineSynther(CHAIN, CONFIG, SyntherFit(steps=2, seed=seed))
    order = ServiceOrder(CHAIN, replay, serving, seed, online, to_learner=halved, to_environment=doubled)
    return SyntherServices().start(order)


def store(service: ReplayService, first: int, last: int) -> None:
    rows = halved(DATA[slice(first, last)])
    service.store(EpisodeRows(rows, np.zeros(last - first, np.int64), "test", first))
    service.serve()


def versions(service: SyntherReplay) -> set[int]:
    ring = service.replay.synthetic
    return set(ring["generator_version"][: len(ring)].tolist())


def test_rows_come_with_the_first_model_and_are_made_anew_with_each_further_one():
    service = started()
    store(service, 0, 99)
    assert len(service.replay.synthetic) == 0
    store(service, 99, 150)
    assert versions(service) == {1}
    before, old = len(service.replay.synthetic), service.replay.synthetic["observations"][:50].copy()
    assert before > 90  # the requests of the first steps waited
    store(service, 150, 210)
    assert versions(service) == {2}
    assert len(service.replay.synthetic) > before
    assert not np.isclose(service.replay.synthetic["observations"][:50], old).all(1).any()
    assert service.metrics()


def test_models_are_fitted_in_the_environments_own_action_scale():
    service = started()
    store(service, 0, 120)
    np.testing.assert_allclose(service.online.model.codec.mean[2], DATA.actions[:120].mean(), rtol=1e-4)
    assert np.abs(service.replay.synthetic["actions"][: len(service.replay.synthetic)]).max() <= 0.5


def test_a_checkpoint_goes_on_as_if_nothing_had_been(tmp_path):
    service, other = started(), started()
    store(service, 0, 150)
    service.save(tmp_path)
    other.load(tmp_path)
    for one in (service, other):
        store(one, 150, 230)
    mine, theirs = (s.replay.synthetic["observations"][: len(s.replay.synthetic)] for s in (service, other))
    np.testing.assert_array_equal(mine, theirs)
    assert other.online.version == 2


def test_a_checkpoint_before_the_first_model(tmp_path):
    service, other = started(), started()
    store(service, 0, 50)
    service.save(tmp_path)
    other.load(tmp_path)
    assert not other.online.ready
    assert other.env_steps == 50


def test_another_generator_is_refused():
    order = ServiceOrder(CHAIN, ReplayConfig(capacity=10), ServingConfig(), 0, tiny_diffuser(), halved, doubled)
    with pytest.raises(ValueError, match="must be an OnlineSynther, got a TrajectoryDiffuser"):
        SyntherServices().start(order)
