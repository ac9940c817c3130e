"""The whole way once: offline episodes, a tiny fitted diffuser in a folder, stock algorithms that learn with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ray
import toy_worlds
from toy_configs import CONFIGS, env_config, tiny_config
from toy_worlds import CountingWorld, spaces_of

from atradiff import DiffuserConfig, FitConfig, Trajectories
from atradiff.fit import fit
from atradiff.types import Transitions
from rllib_ext import ATraDiffCallback


def _offline_episodes(world: CountingWorld, episodes: int) -> Trajectories:
    world.action_space.seed(0)
    rows = []
    for _ in range(episodes):
        observation, _ = world.reset()
        terminated = False
        while not terminated:
            action = world.action_space.sample()
            after, reward, terminated, _, _ = world.step(action)
            rows.append((observation, action, reward, after, terminated))
            observation = after
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    actions = columns[1].astype(np.int64 if spaces_of(world).discrete else np.float32)
    transitions = Transitions(
        columns[0].astype(np.float32),
        actions,
        columns[2].astype(np.float32),
        columns[3].astype(np.float32),
        columns[4].astype(bool),
        np.zeros(len(rows), bool),
    )
    return Trajectories(spaces_of(world), transitions, np.arange(0, len(rows) + 1, world.length))


@pytest.fixture(scope="module", params=[False, True], ids=["continuous", "discrete"])
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, Path]:
    folder = tmp_path_factory.mktemp("models") / "counting"
    data = _offline_episodes(CountingWorld({"discrete": request.param}), 40)
    config = DiffuserConfig(lengths=(3, 5), width=16, depth=1, heads=2, dynamics_models=2, dynamics_width=8)
    fit(data, config=config, settings=FitConfig(steps=10, tokens_per_step=60), quiet=True).save_pretrained(folder)
    return request.param, folder


@pytest.mark.usefixtures("local_ray")
def test_stock_algorithms_learn_with_a_fitted_diffuser(model_folder: tuple[bool, Path]) -> None:
    discrete, folder = model_folder
    for name in [name for name in CONFIGS if env_config(name)["discrete"] == discrete]:
        made = ATraDiffCallback.using(diffuser=folder, rho=0.5, requests_per_batch=4, expected_length=4, horizon=7)
        algorithm = tiny_config(name).callbacks(made).build_algo()
        result = algorithm.train()
        assert algorithm.local_replay_buffer.service.server.generator.sampling.horizon == 7
        synthetic = algorithm.local_replay_buffer.service.replay.synthetic
        n = len(synthetic)
        assert n > 0
        assert result["atradiff"]["synthetic_share_sampled"] > 0
        actions = synthetic["actions"][:n]
        if discrete:
            assert set(actions.tolist()) <= {0, 1, 2}
        else:
            assert np.abs(actions).max() <= 1 + 1e-6
        for column in ("observations", "rewards", "next_observations"):
            assert np.isfinite(synthetic[column][:n]).all()
        algorithm.stop()


@pytest.mark.usefixtures("local_ray")
def test_in_an_actor_as_under_tune(model_folder: tuple[bool, Path]) -> None:
    """Ray wraps the methods of a class that becomes an actor, and the config arrives pickled."""
    discrete, folder = model_folder
    if discrete:
        pytest.skip("once is enough: what travels does not depend on the action space")
    config = tiny_config("SAC").callbacks(ATraDiffCallback.using(folder, requests_per_batch=4, expected_length=4))
    ray.cloudpickle.register_pickle_by_value(toy_worlds)  # other processes cannot import a test's helpers
    try:
        trainable = ray.remote(num_cpus=1)(config.algo_class).remote(config)
        result = ray.get(trainable.train.remote(), timeout=120)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(toy_worlds)
    assert result["atradiff"]["synthetic_rows"] > 0
    ray.kill(trainable)
