"""By one switch: none, offline data in the batch, SynthER, S4RL, ATraDiff, and offline data with any of them."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atradiff.augment.s4rl import S4RLConfig
from atradiff.augment.synther import SyntherDiffuser
from atradiff.config import SyntherConfig, SyntherFit
from atradiff.data.store import open_trajectories
from cluster.cell_runner import prepare_cells
from cluster.cells import Cell, differing_settings, needs_preparation, preparation_key, recipe
from cluster.cluster_config import ClusterConfig
from cluster.config import CheckpointConfig, DataConfig, RunConfig, SyntherSettings, load_run_config
from cluster.crew import _order
from cluster.generator_actor import GeneratorWorker
from cluster.grid_cells import grid_cells
from cluster.grid_file import load_grid
from cluster.prepare import check_environment, load_supplies, prepare, prepare_data, prepare_diffuser
from cluster.run import train
from cluster.run_folder import RunFolder
from cluster.run_store import RunStore
from cluster.session import ALGORITHM_PART

SYNTHER = SyntherSettings(
    SyntherConfig(width=16, depth=1, solver="dpm++", calls=3, retrain_every=150), SyntherFit(steps=5)
)
COLUMNS = ("observations", "generator_version")
EVERY_100 = CheckpointConfig(every=100)
CONFIGS = Path(__file__).parents[2] / "configs"


def arm(run: RunConfig, augmentation: Any, offline_share: float = 0.0, **changes: Any) -> RunConfig:
    replay = replace(run.replay, offline_share=offline_share)
    return replace(run, augmentation=augmentation, replay=replay, synther=SYNTHER, **changes)


def last_row(folder: Path) -> dict[str, str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def returns(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row["eval_return"] for row in csv.DictReader(file)]


def resumed(run: RunConfig) -> Path:
    """The same run, interrupted at 200 of its steps."""
    part = train(replace(run, name="part", env_steps=200))
    return train(replace(run, name="part"), resume=part)


def test_plain_runs_read_offline_rows_and_go_on_with_the_same_ones(tiny_run: RunConfig) -> None:
    run = arm(tiny_run, "none", 0.5)
    folder = train(run)
    manifest = json.loads(RunFolder(folder).manifest.read_text())
    assert manifest["offline_data"] == open_trajectories(prepare_data(run)).content_hash
    assert manifest["diffuser"] is None
    assert RunFolder(folder).began_with() is None
    assert float(last_row(folder)["replay/synthetic_rows"]) == 0
    assert returns(resumed(run)) == returns(folder)
    others = replace(run.data, collect=replace(run.data.collect, seed=5))
    with pytest.raises(ValueError, match="resume with the same data"):
        train(replace(run, data=others, env_steps=600), resume=folder)


def test_offline_rows_and_imagined_ones_join(tiny_run: RunConfig) -> None:
    folder = train(arm(tiny_run, "atradiff", 0.25))
    manifest = json.loads(RunFolder(folder).manifest.read_text())
    assert manifest["offline_data"] == manifest["diffuser"]["data_hash"]
    assert json.loads(RunFolder(folder).began_with() or "") == manifest["diffuser"]
    assert float(last_row(folder)["replay/synthetic_rows"]) > 0


def test_synther_begins_with_the_offline_data_and_follows_the_run(tiny_run: RunConfig) -> None:
    run = arm(tiny_run, "synther")
    folder = train(run)
    model = prepare_diffuser(run, check_environment(run))
    assert SyntherDiffuser.from_pretrained(model).fit["rows"] == open_trajectories(prepare_data(run)).n_transitions
    row = last_row(folder)
    assert float(row["replay/expected_length"]) == 1  # single transitions
    assert float(row["replay/synthetic_age_versions"]) == 0  # made anew at 150 and at 300 env steps
    assert float(row["replay/synthetic_rows"]) > 100
    assert json.loads(RunFolder(folder).manifest.read_text())["synther"]["rows"] > 0
    assert returns(resumed(run)) == returns(folder)


def test_synther_without_data_waits_for_rows_of_the_run(tiny_run: RunConfig, tmp_path: Path) -> None:
    unused = DataConfig(cache=str(tmp_path / "unused"))
    row = last_row(train(arm(tiny_run, "synther", data=unused)))
    assert float(row["replay/synthetic_rows"]) > 100
    assert not (tmp_path / "unused").exists()


def fixed_synther(tiny_run: RunConfig, **changes: Any) -> RunConfig:
    run = arm(tiny_run, "synther", **changes)
    return replace(run, synther=replace(SYNTHER, model=replace(SYNTHER.model, retrain_every=None)))


def test_a_fixed_synther_is_what_the_generators_of_a_cluster_serve(tiny_run: RunConfig) -> None:
    """What the driver orders, and what a generator actor makes of it: the actor's own class, without Ray."""
    run = replace(fixed_synther(tiny_run), cluster=ClusterConfig())
    spaces = check_environment(run)
    run = replace(run, generator=replace(run.generator, path=str(prepare(run))))
    order = _order(run, spaces, load_supplies(run, spaces))
    assert isinstance(order.generator, SyntherDiffuser)
    assert order.replay.rho == run.replay.rho > 0
    there = pickle.loads(pickle.dumps(order.generator.on("cpu")))
    worker = GeneratorWorker(there.on("cpu"), order.to_learner)
    states = np.zeros((7, spaces.observation_size), np.float32)
    made, served = worker.answer(states, 11, 0, dict)
    here = order.generator.generate(states, generator_seed=11)
    np.testing.assert_array_equal(made.rows.observations, here.observations[:, 0])
    np.testing.assert_allclose(made.rows.actions, here.actions[:, 0], atol=1e-6)  # of [-1, 1], as RLlib's
    assert (served.version, served.trajectories, served.rows) == (0, 7, 7)
    with pytest.raises(ValueError, match="a SyntherDiffuser has no weights to replace by version 1"):
        worker.answer(states, 11, 1, dict)


def test_s4rl_gives_perturbed_rows_of_the_data_and_goes_on_with_them(tiny_run: RunConfig) -> None:
    run = arm(tiny_run, "s4rl", s4rl=S4RLConfig(kind="amplitude", amplitude=(2.0, 2.0)), checkpoint=EVERY_100)
    folder = train(run)
    data = open_trajectories(prepare_data(run))
    told = json.loads(RunFolder(folder).manifest.read_text())["s4rl"]
    assert (told["kind"], told["data_hash"]) == ("amplitude", data.content_hash)
    assert float(last_row(folder)["replay/expected_length"]) == 1
    checkpoint = RunStore.of(folder).find_checkpoint()
    assert checkpoint is not None
    with checkpoint.part(ALGORITHM_PART).open() as saved:
        states, versions = (np.load(saved / "replay" / "synthetic" / f"{name}.npy") for name in COLUMNS)
    assert len(states) > 100
    assert set(versions.tolist()) == {0}
    known = {tuple(state) for state in data.columns.observations.tolist()}
    assert {tuple(state) for state in (states / 2).tolist()} <= known
    assert returns(resumed(run)) == returns(folder)


def test_a_grid_may_name_s4rl_among_its_augmentations(tmp_path: Path) -> None:
    text = f"""
        name: perturbed
        output: {tmp_path}
        seeds: [0]
        baseline: none
        tasks: {{car: {{base: {CONFIGS}/tiny/quickstart.yaml, score: {{random: 0, reference: 1}}}}}}
        algorithms: {{SAC: }}
        augmentations: {{none: {{augmentation: none}}, S4RL: {{augmentation: s4rl, s4rl.kind: KIND}}}}
    """
    (tmp_path / "grid.yaml").write_text(text.replace("KIND", "mixup"))
    plain, perturbed = (cell.run for cell in grid_cells(load_grid(tmp_path / "grid.yaml")))
    assert (plain.augmentation, perturbed.augmentation) == ("none", "s4rl")
    assert perturbed.s4rl == S4RLConfig(kind="mixup")
    (tmp_path / "grid.yaml").write_text(text.replace("KIND", "adversarial"))
    with pytest.raises(ValueError, match=r"car, SAC \+ S4RL: .*climbs the critic"):
        grid_cells(load_grid(tmp_path / "grid.yaml"))


def test_the_tiny_config_of_s4rl_trains(tmp_path: Path) -> None:
    flags = ["--output", str(tmp_path), "--data.cache", str(tmp_path / "data"), "--s4rl.kind", "uniform"]
    folder = train(load_run_config(CONFIGS / "tiny" / "halfcheetah_s4rl.yaml", flags))
    assert float(last_row(folder)["replay/synthetic_rows"]) > 0
    assert load_run_config(RunFolder(folder).config).s4rl.kind == "uniform"


def test_a_synther_that_is_never_fitted_anew_stays(tiny_run: RunConfig) -> None:
    run = fixed_synther(tiny_run)
    spaces = check_environment(run)
    online = load_supplies(replace(run, generator=replace(run.generator, path=str(prepare(run)))), spaces).synther
    assert online is not None
    assert online.ready
    assert not any(online.due(steps) for steps in (150, 10_000, 10**9))


def test_cpu_seconds_are_counted_over_interruptions(tiny_run: RunConfig) -> None:
    run = arm(tiny_run, "none", checkpoint=CheckpointConfig(every=200))
    part = train(replace(run, env_steps=200))
    before = RunStore.of(part).find_checkpoint()
    folder = train(run, resume=part)
    spent = json.loads(RunFolder(folder).summary.read_text())["cpu_seconds"]
    assert before is not None
    assert spent > before.state["cpu_seconds"] > 0


def test_runs_share_what_they_have_in_common_and_nothing_else(tiny_run: RunConfig) -> None:
    other = replace(tiny_run.data, collect=replace(tiny_run.data.collect, seed=9))

    def same(*runs: RunConfig) -> bool:
        return len({json.dumps(recipe(run), sort_keys=True) for run in runs}) == 1

    assert same(arm(tiny_run, "none"), arm(tiny_run, "none", data=other))
    assert not same(arm(tiny_run, "none", 0.5), arm(tiny_run, "none", 0.5, data=other))
    assert not same(arm(tiny_run, "synther"), arm(tiny_run, "synther", data=other))
    shorter = replace(tiny_run.generator, fit=replace(tiny_run.generator.fit, steps=3))
    assert same(arm(tiny_run, "synther"), arm(tiny_run, "synther", generator=shorter))
    assert not same(arm(tiny_run, "atradiff"), arm(tiny_run, "atradiff", generator=shorter))
    assert not same(arm(tiny_run, "s4rl"), arm(tiny_run, "s4rl", data=other))
    assert not same(arm(tiny_run, "s4rl"), arm(tiny_run, "s4rl", s4rl=S4RLConfig(kind="mixup")))
    assert same(arm(tiny_run, "none"), arm(tiny_run, "none", s4rl=S4RLConfig(kind="mixup")))
    assert same(arm(tiny_run, "s4rl"), arm(tiny_run, "s4rl", generator=shorter))
    assert preparation_key(arm(tiny_run, "synther")) != preparation_key(arm(tiny_run, "atradiff"))


def test_cells_are_supplied_once_with_what_they_need(tiny_run: RunConfig, local_ray: None) -> None:  # noqa: ARG001
    runs = {
        "none": arm(tiny_run, "none"),
        "rlpd": arm(tiny_run, "none", 0.5),
        "synther": arm(tiny_run, "synther"),
        "s4rl": arm(tiny_run, "s4rl"),
        "both": arm(tiny_run, "atradiff", 0.5),
    }
    assert [name for name, run in runs.items() if needs_preparation(run)] == ["rlpd", "synther", "s4rl", "both"]
    cells, failures = prepare_cells([Cell("car", name, run.absolute()) for name, run in runs.items()])
    assert failures == []
    found = {cell.arm: cell.run.generator.path for cell in cells}
    assert found["none"] is found["rlpd"] is found["s4rl"] is None
    assert found["synther"] == str(prepare(runs["synther"]))
    assert found["both"] == str(prepare(runs["both"]))
    assert prepare_data(runs["rlpd"]).is_dir()
    assert all(differing_settings(cell.run) == [] for cell in cells)


def test_what_cannot_be_is_refused_with_a_remedy(tiny_run: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"retrain_every=150 fits SynthER anew in the learner's own process"):
        arm(tiny_run, "synther", cluster=ClusterConfig())
    with pytest.raises(ValueError, match=r"serving.own_share=0.5 rolls .* SynthER has none"):
        arm(tiny_run, "synther", serving=replace(tiny_run.serving, own_share=0.5))
    with pytest.raises(ValueError, match=r"retrain_every: null is fitted to offline data alone: set one of data.path"):
        train(fixed_synther(tiny_run, data=DataConfig()))
    with pytest.raises(
        ValueError, match=r"s4rl: kind must be one of gaussian, .* climbs the critic.* got 'adversarial'"
    ):
        arm(tiny_run, "s4rl", s4rl=S4RLConfig(kind="adversarial"))
    assert arm(tiny_run, "none", s4rl=S4RLConfig(kind="adversarial")).s4rl.kind == "adversarial"  # nobody reads it
    with pytest.raises(ValueError, match=r"s4rl perturbs rows .* leave cluster out"):
        arm(tiny_run, "s4rl", cluster=ClusterConfig())
    with pytest.raises(ValueError, match=r"serving.own_share=0.5 rolls .* S4RL has none"):
        arm(tiny_run, "s4rl", serving=replace(tiny_run.serving, own_share=0.5))
    with pytest.raises(ValueError, match=r"s4rl perturbs rows of offline data: set one of data.path"):
        train(arm(tiny_run, "s4rl", data=DataConfig()))
    with pytest.raises(ValueError, match=r"offline_share=0.5 puts offline data into each batch: set one of data.path"):
        train(arm(tiny_run, "none", 0.5, data=DataConfig()))
