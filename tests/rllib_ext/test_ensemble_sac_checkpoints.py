"""A restored run goes on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ensemble_sac_worlds import MatchTheState, tiny
from safetensors.torch import load_file, save_file
from toy_worlds import ConstantGenerator, spaces_of

from atradiff.config import ServingConfig
from atradiff.ports import EpisodeRows
from atradiff.replay.mixed import ReplayConfig
from atradiff.types import Transitions
from rllib_ext.ensemble_sac import EnsembleSAC, EnsembleSACConfig

Build = Callable[..., EnsembleSAC]


def config(**training: Any) -> EnsembleSACConfig:
    generator = ConstantGenerator(spaces_of(MatchTheState()), action=[0.5])
    return tiny(MatchTheState, **training).augmentation(
        generator=generator, replay=ReplayConfig(capacity=70), serving=ServingConfig(requests_per_batch=3)
    )


@pytest.fixture
def build(local_ray: None) -> Iterator[Build]:  # noqa: ARG001
    built = []

    def build_one(**training: Any) -> EnsembleSAC:
        built.append(config(**training).build_algo())
        return built[-1]

    yield build_one
    for algorithm in built:
        algorithm.stop()


def history(algorithm: EnsembleSAC, iterations: int = 3) -> list[dict[str, float]]:
    results = [algorithm.train() for _ in range(iterations)]
    kept = ("episode_return_mean", "num_env_steps_sampled_lifetime", "weights_seq_no", "num_episodes_lifetime")
    return [
        {**r.get("learner", {}), **r["replay"], **{k: r["env_runners"][k] for k in kept}, "at": r["training_iteration"]}
        for r in results
    ]


def weights(algorithm: EnsembleSAC) -> dict[str, np.ndarray]:
    return {
        k: v.numpy().copy() for k, v in algorithm.learner_group._learner.module["default_policy"].state_dict().items()
    }


def assert_same(ours: EnsembleSAC, theirs: EnsembleSAC) -> None:
    for name, value in weights(ours).items():
        np.testing.assert_array_equal(value, weights(theirs)[name], err_msg=name)
    for name in ("real", "synthetic"):
        ring, other = getattr(ours.service.replay, name), getattr(theirs.service.replay, name)
        assert ring.total_added == other.total_added
        for column in ring.columns:
            np.testing.assert_array_equal(ring[column][: len(ring)], other[column][: len(ring)], err_msg=column)


REDQ = {"n_critics": 4, "actor_every": 3, "layer_norm": True, "standardise_states": True}


@pytest.mark.parametrize("training", [{}, REDQ], ids=["sac", "redq"])
def test_save_and_go_on_equals_restore_and_go_on(build: Build, tmp_path: Path, training: dict[str, Any]) -> None:
    through = build(**training)
    history(through)
    through.save_to_path(tmp_path)
    expected = history(through)

    restored = build(**training)
    restored.restore_from_path(tmp_path)
    assert history(restored) == expected
    assert_same(restored, through)


def test_the_plain_files_alone_are_enough(build: Build, tmp_path: Path) -> None:
    through = build()
    history(through)
    through.save_state(tmp_path / "state")
    expected = history(through)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".msgpack")]

    restored = build()
    restored.load_state(tmp_path / "state")
    assert history(restored) == expected
    assert_same(restored, through)


def test_an_older_checkpoint_of_a_running_algorithm_takes_it_back(build: Build, tmp_path: Path) -> None:
    algorithm = build()
    history(algorithm)
    algorithm.save_to_path(tmp_path)
    expected = history(algorithm)
    algorithm.restore_from_path(tmp_path)
    assert history(algorithm) == expected


def test_from_checkpoint_builds_and_restores(build: Build, tmp_path: Path) -> None:
    through = build()
    history(through)
    checkpoint = through.save(str(tmp_path)).checkpoint.path  # RLlib's other way to save
    expected = history(through)
    restored = EnsembleSAC.from_checkpoint(checkpoint)
    try:
        assert history(restored) == expected
    finally:
        restored.stop()


def test_a_run_without_a_seed_goes_on_too(local_ray: None, tmp_path: Path) -> None:  # noqa: ARG001
    def unseeded() -> EnsembleSAC:
        return config().debugging(seed=None).build_algo()

    through, restored = unseeded(), unseeded()
    assert history(through) != history(restored)
    through.save_state(tmp_path)
    expected = history(through)
    restored.load_state(tmp_path)
    assert history(restored) == expected
    through.stop()
    restored.stop()


def test_another_configuration_is_refused_by_name(build: Build, tmp_path: Path) -> None:
    build().save_state(tmp_path)
    with pytest.raises(ValueError, match=r"critics\.biases\.0 has shape"):
        build(n_critics=3).load_state(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a checkpoint of EnsembleSAC"):
        build().load_state(tmp_path / "nowhere")
    state = json.loads((tmp_path / "algorithm.json").read_text())
    (tmp_path / "algorithm.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        build().load_state(tmp_path)


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizers.safetensors"])
def test_a_damaged_checkpoint_is_said_so(build: Build, tmp_path: Path, file: str) -> None:
    build().save_state(tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{file} is missing or damaged"):
        build().load_state(tmp_path)


def test_a_new_learner_on_an_old_replay_owes_no_whole_run(build: Build, tmp_path: Path) -> None:
    """Closed form: one update for each step after the first 20, but for those that were forgiven."""
    algorithm = build()
    states, zeros = np.zeros((500, 1), np.float32), np.zeros(500, np.float32)
    flags = np.ones(500, bool)
    lived = Transitions(states, states, zeros, states, flags, ~flags)
    algorithm.service.store(EpisodeRows(lived, np.arange(500), "an earlier trainer", 0))
    algorithm.owe_at_most(1_000)
    assert algorithm.updates_forgiven == 0
    algorithm.owe_at_most(100)
    assert (algorithm.updates_forgiven, algorithm.behind) == (380, True)
    algorithm.save_state(tmp_path)
    while algorithm.env_steps < 540:
        algorithm.train()
    assert algorithm.learners.updates == algorithm.env_steps - 20 - 380
    assert not algorithm.behind
    algorithm.owe_at_most(0)
    algorithm.load_state(tmp_path)
    assert algorithm.updates_forgiven == 380


def test_a_checkpoint_of_another_kind_of_device_is_gone_on_from_with_other_noise(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU's generator has 16 bytes of state, a CPU's thousands."""
    build().save_state(tmp_path)
    optimizers = load_file(tmp_path / "optimizers.safetensors")
    save_file({**optimizers, "noise": torch.arange(16, dtype=torch.uint8)}, tmp_path / "optimizers.safetensors")
    drawn = []
    for _ in range(2):
        algorithm = build()
        algorithm.load_state(tmp_path)
        drawn.append(algorithm.learners.first(lambda learner: torch.rand(3, generator=learner.updater.generator)))
        algorithm.train()
    torch.testing.assert_close(*drawn, rtol=0, atol=0)
    assert "its noise goes on anew" in caplog.text
