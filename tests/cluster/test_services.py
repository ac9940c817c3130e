"""Actors that an algorithm starts for itself: stock SAC and EnsembleSAC with generators in other processes."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.rllib.algorithms.sac import SACConfig
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from replay_actors import PATIENCE, SPACES, chunk

from atradiff.config import ServingConfig
from atradiff.data.store import write_trajectories
from atradiff.ports import EpisodeRows, ServiceOrder
from atradiff.replay.config import ReplayConfig
from atradiff.replay.mixed import MixedReplay
from cluster.generator_fleet import GeneratorError
from cluster.owned_replay import OwnedReplay
from cluster.placement import NoPlaceError, PlacementConfig, Resources
from cluster.replay_actor import ReplayActorConfig
from cluster.rescoring import Rescoring
from cluster.services import ActorServices, RemoteAdaptation, _plan
from cluster.starting import Actors
from rllib_ext import ATraDiffCallback, EnsembleSACConfig
from rllib_ext.columns import ActionScale
from tests.adaptation.adapting import QUICK, moved_data, offline_data
from tests.cluster.services_world import Bringing, Elsewhere
from tests.cluster.still_generators import ENV, REWARD, Failing, Still
from tests.second_process import wait_for
from tests.toys import tiny_diffuser

pytestmark = pytest.mark.usefixtures("local_ray")
SLIVER = Resources(num_cpus=0.1)
SMALL = ActorServices(2, num_cpus=0.1, replay=ReplayActorConfig(resources=SLIVER))


def stock_sac(services: ActorServices = SMALL) -> SACConfig:
    config = SACConfig().environment(ENV).env_runners(num_env_runners=0, rollout_fragment_length=5)
    config.training(
        train_batch_size_per_learner=32,
        num_steps_sampled_before_learning_starts=20,
        replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 5000},
    )
    config.rl_module(model_config={"fcnet_hiddens": [16], "head_fcnet_hiddens": []})
    config.reporting(min_sample_timesteps_per_iteration=50, min_time_s_per_iteration=0)
    callback = ATraDiffCallback.using(Still(), requests_per_batch=4, expected_length=4, services=services)
    return config.callbacks(callback).debugging(seed=3)


def train_until(train: Callable[[], dict[str, Any]], holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while not holds(result := train()):
        assert time.monotonic() < deadline, f"in vain: {result}"
    return result


def ask(service: Any, question: Callable[[MixedReplay], Any]) -> Any:
    return ray.get(service._actor.consult.remote(question), timeout=PATIENCE)


def real_rewards(service: Any) -> np.ndarray:
    return ask(service, lambda replay: replay.real["rewards"][: len(replay.real)].copy())


def processes(service: Any) -> list[int]:
    return [*service.pool.processes(), ask(service, lambda _: os.getpid())]


def exists(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def test_stock_sac_learns_from_rows_of_two_generators(tmp_path: Path) -> None:
    algorithm, again = stock_sac().build_algo(), None
    try:
        result = train_until(algorithm.train, lambda result: result["atradiff"]["synthetic_share_sampled"] > 0.1)
        assert result["atradiff"]["generator_version"] == 7
        assert result["atradiff"]["pool"]["size"] == 2
        assert result["atradiff"]["pool"]["rows"] >= result["atradiff"]["synthetic_rows"] > 0
        assert "pool/size" not in result["atradiff"]
        facade = algorithm.local_replay_buffer
        assert np.isfinite(facade.scored.td_errors).all()
        (batch,) = facade.sample(64)
        imagined = batch.columns["rewards"] == REWARD
        assert imagined.any()
        np.testing.assert_allclose(batch.columns["actions"][imagined], 0.5)  # 1 of -2..2

        folder = algorithm.save_to_path(tmp_path / "checkpoint")
        stored = real_rewards(facade.service)
        algorithm.train()

        again = stock_sac().build_algo()
        again.restore_from_path(folder)
        theirs = again.local_replay_buffer.service
        np.testing.assert_array_equal(real_rewards(theirs), stored)
        assert again.train()["atradiff"]["real_rows"] == len(stored) + 50
        alive = processes(facade.service) + processes(theirs)
        assert len(alive) == 6
        assert all(exists(process) for process in alive)
    finally:
        for each in (algorithm, again):
            if each is not None:
                each.stop()
    wait_for(lambda: not any(exists(process) for process in alive))
    wait_for(lambda: ray.available_resources().get("CPU") == 2)


def test_ensemble_sac_as_a_trial_of_tune(tmp_path: Path) -> None:
    """In an actor, in a placement group that the trial's own processes fill to the brim."""
    config = EnsembleSACConfig().environment(ENV).env_runners(num_env_runners=1, rollout_fragment_length=20)
    config.training(hidden_sizes=(16, 16), batch_size=16, learning_starts=20).debugging(seed=3)
    config.resources(num_cpus_for_main_process=0.5).env_runners(num_cpus_per_env_runner=0.5)
    config.augmentation(serving=ServingConfig(4, own_share=0.5), services=Bringing(SMALL))
    group = config.algo_class.default_resource_request(config)()
    strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    trial: Any = ray.remote(num_cpus=0.5)(config.algo_class).options(scheduling_strategy=strategy).remote(config)

    def train() -> dict[str, Any]:
        result: dict[str, Any] = ray.get(trial.train.remote(), timeout=PATIENCE)
        return result

    try:
        before = train_until(train, lambda result: result["replay"].get("synthetic_share_sampled", 0) > 0.1)
        assert before["pool"]["size"] == 2
        assert before["pool"]["rows"] > before["pool"]["own_rows"] > 0
        assert before["replay"]["learner_wait_share"] < 1
        folder = ray.get(trial.save.remote(str(tmp_path / "trial")), timeout=PATIENCE)
        later = train_until(train, lambda result: result["replay"]["real_rows"] > before["replay"]["real_rows"] + 100)
        ray.get(trial.restore.remote(folder), timeout=PATIENCE)
        assert train()["replay"]["real_rows"] < later["replay"]["real_rows"]
        ray.get(trial.stop.remote(), timeout=PATIENCE)
    finally:
        ray.kill(trial)
        ray.util.remove_placement_group(group)
    wait_for(lambda: ray.available_resources().get("CPU") == 2)


def order(generator: Any = None, **replay: Any) -> ServiceOrder:
    scale = ActionScale.of(SPACES, normalize_actions=True)
    spaces = SPACES if generator is None else generator.spaces
    rows = ReplayConfig(**{"capacity": 5000, "expected_length": 1.0, **replay})
    return ServiceOrder(spaces, rows, ServingConfig(4), 0, generator, scale.to_learner, scale.rows_to_environment)


@pytest.fixture
def start() -> Iterator[Callable[..., OwnedReplay]]:
    started: list[OwnedReplay] = []

    def make(services: ActorServices, asked: ServiceOrder) -> OwnedReplay:
        started.append(services.start(asked))
        return started[-1]

    yield make
    for service in started:
        service.close()


def test_without_a_generator_there_are_real_and_offline_rows(start: Callable[..., OwnedReplay], tmp_path: Path) -> None:
    journaled = ActorServices(num_cpus=10_000, replay=SMALL.replay, journals=tmp_path)
    data = offline_data()
    service = start(journaled, replace(order(offline_share=0.5), offline=data))
    service.store(chunk(0, 20, "a", 0))
    service.serve()
    (batch,) = service.sample(1, 40)
    assert batch.offline.sum() == 20
    offline = batch.transitions[20:]
    np.testing.assert_array_equal(offline.rewards, data.columns.rewards[batch.row_ids[batch.offline]])
    assert service.metrics()["requests_pending"] == 0
    assert not any(name.startswith("pool/") for name in service.metrics())
    assert service.metrics()["journal_bytes"] > 0
    service.close()
    assert not any(tmp_path.iterdir())


def test_what_a_generator_raises_reaches_the_algorithm(start: Callable[..., OwnedReplay]) -> None:
    generator = Failing()
    service = start(ActorServices(num_cpus=0.1, replay=SMALL.replay), order(generator))
    states = generator.spaces.observation_size
    rows = chunk(0, 20, "a", 0).rows
    wide = {name: np.zeros((20, states), np.float32) for name in ("observations", "next_observations")}
    service.store(EpisodeRows(type(rows)(**(dict(rows.items()) | wide)), np.zeros(20, np.int64), "a", 0))
    with pytest.raises((GeneratorError, ZeroDivisionError), match="cannot divide"):
        wait_for(lambda: service.serve() is not None)


def test_the_diffuser_follows_the_agent(start: Callable[..., OwnedReplay], tmp_path: Path) -> None:
    data, store = moved_data(20), tmp_path / "data"
    write_trajectories(store, offline_data(), source="test", licence="none")
    adaptation = RemoteAdaptation(store, QUICK, resources=SLIVER)
    services = ActorServices(num_cpus=0.1, replay=SMALL.replay, adaptation=adaptation)
    asked = order(tiny_diffuser(offline_data()))
    service = start(services, asked)
    service.store(EpisodeRows(data.columns, np.repeat(np.arange(20), data.lengths), "runner", 0))

    def updated() -> bool:
        service.serve()
        return service.metrics()["adapter/updates"] >= 1

    wait_for(updated)
    service.store(EpisodeRows(data.columns, np.repeat(np.arange(20), data.lengths), "runner", 1))
    wait_for(lambda: service.metrics()["generator_version"] >= 1)
    service.save(tmp_path / "state")
    service.close()
    again = start(services, asked)
    again.load(tmp_path / "state")
    assert again.env_steps == 2 * len(data.columns)
    assert again.adapter is not None
    assert ray.get(again.adapter.actor.current.remote()[0])[0][0] >= 1


def test_checkpoints_on_machines_that_share_no_folder(tmp_path: Path) -> None:
    far = OwnedReplay(Actors(Elsewhere()), ReplayActorConfig(), Rescoring(None, None, order()))
    with pytest.raises(OSError, match=r"an actor on another machine, here real/rewards.npy is missing.*all machines"):
        far.save(tmp_path)
    (tmp_path / "requests.npy").write_bytes(b"some")
    with pytest.raises(ValueError, match=r"requests.npy is missing.*folder that all machines"):
        far.load(tmp_path)


def test_generators_that_were_promised_nothing_share_what_is_free() -> None:
    wait_for(lambda: ray.available_resources().get("CPU") == 2)
    with ExitStack() as begun:
        plan = _plan(ActorServices(3, replay=SMALL.replay), order(Still()), begun)
        left = ray.available_resources()["CPU"] - SLIVER.num_cpus
        assert left / 3 - 1e-4 <= plan.pool.num_cpus <= left / 3 < 1
        assert _plan(ActorServices(1, replay=SMALL.replay), order(Still()), begun).pool.num_cpus == 1


def test_no_room_is_said_at_once() -> None:
    crowd = ActorServices(50, num_cpus=1, placement=PlacementConfig(wait_seconds=0.5))
    with pytest.raises(NoPlaceError, match=r"50 x generator: 1 CPU(.|\n)*max_concurrent_trials"):
        crowd.start(order(Still()))
    with pytest.raises(NoPlaceError, match="1 GPU asked for, 0 there"):
        ActorServices(num_gpus=1, placement=PlacementConfig(wait_seconds=0.5)).start(order(Still()))
    wait_for(lambda: ray.available_resources().get("CPU") == 2)


def test_what_cannot_be_is_refused_where_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1 generator"):
        ActorServices(generators=0)
    with pytest.raises(ValueError, match="one GPU at most"):
        ActorServices(num_gpus=2)
    with pytest.raises(ValueError, match="adapts a TrajectoryDiffuser, not a Still"):
        ActorServices(num_cpus=0.1, adaptation=RemoteAdaptation(tmp_path)).start(order(Still()))


def test_travels_inside_a_config() -> None:
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL
    assert EnsembleSACConfig().augmentation(services=SMALL).copy().services == SMALL
