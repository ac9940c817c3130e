"""A run leaves its curve, config, manifest and checkpoints; it can be stopped, resumed and collected from."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atradiff.data.store import open_trajectories
from atradiff.environments import make_env
from cluster.algorithm import build_algorithm
from cluster.cluster_config import ClusterConfig
from cluster.commands import collect
from cluster.commands import train as command
from cluster.config import CheckpointConfig, CollectConfig, DataConfig, RunConfig, load_run_config
from cluster.policy import load_policy
from cluster.prepare import check_environment, prepare_data, prepare_diffuser
from cluster.progress import Progress
from cluster.run import Stopped, train
from cluster.run_folder import RunFolder
from cluster.session import evaluation_seed

pytestmark = pytest.mark.usefixtures("local_ray")


def curve(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's curve without what a clock says."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if "time/" not in k and "wall" not in k} for row in csv.DictReader(file)]


def stop_at(env_steps: int) -> Any:
    """A watcher that does what Ctrl-C does."""

    def watch(progress: Progress) -> None:
        if progress.env_steps == env_steps:
            os.kill(os.getpid(), signal.SIGINT)

    return watch


def test_a_run_leaves_everything_that_describes_it(tiny_run: RunConfig) -> None:
    seen: list[int] = []
    folder = RunFolder(train(tiny_run, lambda progress: seen.append(progress.env_steps)))
    assert seen == list(range(50, 401, 50))
    assert [row["env_steps"] for row in curve(folder.path)] == ["200", "400"]
    used = replace(tiny_run.generator, path=str(prepare_diffuser(tiny_run, check_environment(tiny_run))))
    assert load_run_config(folder.config) == replace(tiny_run, generator=used).absolute()
    manifest = json.loads(folder.manifest.read_text())
    store = open_trajectories(prepare_data(tiny_run))
    assert manifest["diffuser"]["data_hash"] == store.content_hash
    assert manifest["packages"]["ray"]
    assert json.loads(folder.summary.read_text())["env_steps"] == 400
    assert list(folder.tensorboard.iterdir())
    assert float(curve(folder.path)[-1]["replay/synthetic_rows"]) > 0
    with pytest.raises(ValueError, match="already holds a run"):
        train(tiny_run)


def test_a_stopped_and_resumed_run_has_the_curve_of_one_that_never_stopped(tiny_run: RunConfig) -> None:
    whole = train(replace(tiny_run, name="whole"))
    stopped = replace(tiny_run, name="stopped")
    with pytest.raises(Stopped, match="stopped at 200 env steps"):
        train(stopped, stop_at(200))  # where the other run has a checkpoint, too: saving ends the running episodes
    assert not RunFolder(stopped.folder).complete
    resumed = train(stopped, resume=stopped.folder)
    assert curve(resumed) == curve(whole)


def test_the_plain_arm_needs_no_data_and_makes_no_synthetic_row(tiny_run: RunConfig, tmp_path: Path) -> None:
    run = replace(tiny_run, augmentation="none", data=replace(tiny_run.data, cache=str(tmp_path / "unused")))
    rows = curve(train(run))
    assert {row["replay/synthetic_rows"] for row in rows} == {"0.0"}
    assert not (tmp_path / "unused").exists()


def test_data_and_diffuser_are_made_once(tiny_run: RunConfig) -> None:
    first = prepare_diffuser(tiny_run, check_environment(tiny_run))
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert prepare_diffuser(tiny_run, check_environment(tiny_run)) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    given = replace(tiny_run, generator=replace(tiny_run.generator, path="given"))
    assert prepare_diffuser(given, check_environment(given)) == Path("given")


def test_a_gpu_has_a_diffuser_of_its_own(tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network is larger where the config leaves the size open: one cache must serve both machines."""
    open_size = replace(tiny_run.generator.model, width=None, depth=None)
    run = replace(tiny_run, generator=replace(tiny_run.generator, model=open_size))
    asked = []
    monkeypatch.setattr("cluster.prepare.fit", lambda _, folder, config, **__: asked.append((folder, config)))
    for device in ("cpu", "cuda"):
        monkeypatch.setattr("cluster.prepare.resolve_device", lambda _, it=device: torch.device(it))
        prepare_diffuser(run, check_environment(run))
    (small_folder, small), (large_folder, large) = asked
    assert small_folder != large_folder
    assert ((small.width, small.depth), (large.width, large.depth)) == ((96, 3), (384, 8))


def test_learning_on_a_gpu_is_asked_of_rllib_or_refused(tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(tiny_run, augmentation="none", learner_device="cuda")
    with pytest.raises(ValueError, match="learner_device: cuda needs a GPU that torch sees"):
        train(run)
    assert not RunFolder(run.folder).started
    with pytest.raises(ValueError, match=r"give cluster.trainer, or cluster.learners.resources, num_gpus instead"):
        replace(run, cluster=ClusterConfig())
    monkeypatch.setattr("cluster.algorithm.EnsembleSACConfig.build_algo", lambda config: config)
    devices = [build_algorithm(each, None).num_gpus_per_learner for each in (run, replace(run, learner_device="cpu"))]
    assert devices == [1, 0]


def test_a_trained_policy_collects_data(tiny_run: RunConfig, tmp_path: Path) -> None:
    folder = train(replace(tiny_run, augmentation="none"))
    env = make_env(tiny_run.env)
    policy, returns = load_policy(str(folder), env), []
    for episode in range(tiny_run.evaluation.episodes):
        observation, _ = env.reset(seed=evaluation_seed(tiny_run.seed) + episode)
        rewards, over = [], False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation, env))
            rewards.append(float(reward))
            over = terminated or truncated
        returns.append(sum(rewards))
    assert np.mean(returns) == pytest.approx(float(curve(folder)[-1]["eval_return"]))
    collect(tiny_run.env, str(folder), 1, str(tmp_path / "store"), max_steps=40)
    data = open_trajectories(tmp_path / "store")
    assert (len(data), data.n_transitions) == (1, 40)
    assert data.columns.actions[0] == pytest.approx(
        load_policy(str(folder), env).act(data.columns.observations[0], env)
    )
    with pytest.raises(ValueError, match="does not fit this environment"):
        load_policy(str(folder), make_env("Pendulum-v1"))


def test_a_run_to_collect_with_is_named_from_any_folder(tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(replace(tiny_run, augmentation="none"))
    monkeypatch.chdir(folder.parent)
    for policy, wanted in ((folder.name, str(folder)), ("scripted", "scripted"), ("s3://b/run", "s3://b/run")):
        run = replace(tiny_run, data=DataConfig(collect=CollectConfig(policy=policy))).absolute()
        assert run.data.collect is not None
        assert run.data.collect.policy == wanted  # a worker may be somewhere else


def test_a_complete_run_goes_on_only_with_more_steps(tiny_run: RunConfig) -> None:
    run = replace(tiny_run, augmentation="none")
    folder = train(run)
    with pytest.raises(ValueError, match=r"has 400 env steps already and --env_steps is 400"):
        train(run, resume=folder)
    longer = replace(run, env_steps=600)
    assert [row["env_steps"] for row in curve(train(longer, resume=folder))] == ["200", "400", "600"]
    assert load_run_config(folder / "config.yaml").env_steps == 600


def test_a_run_killed_before_its_summary_gets_it_without_more_training(tiny_run: RunConfig) -> None:
    """Also where its last iteration went beyond the steps that were asked for."""
    run = replace(tiny_run, augmentation="none", env_steps=390)
    folder = RunFolder(train(run))
    first, rows = json.loads(folder.summary.read_text()), curve(folder.path)
    with pytest.raises(ValueError, match=r"has 400 env steps already and --env_steps is 390"):
        train(run, resume=folder.path)
    folder.summary.unlink()
    seen: list[int] = []
    train(run, lambda progress: seen.append(progress.env_steps), resume=folder.path)
    summary = json.loads(folder.summary.read_text())
    assert (summary["env_steps"], summary["final_return"], seen) == (400, first["final_return"], [])
    assert curve(folder.path) == rows


def test_a_run_killed_before_its_first_checkpoint_starts_its_curve_anew(tiny_run: RunConfig) -> None:
    run = replace(tiny_run, augmentation="none", checkpoint=CheckpointConfig(every=10_000))

    def die(progress: Progress) -> None:
        if progress.env_steps == 300:
            raise MemoryError("killed")

    with pytest.raises(MemoryError):
        train(run, die)
    assert [row["env_steps"] for row in curve(run.folder)] == ["200"]
    assert [row["env_steps"] for row in curve(train(run, resume=run.folder))] == ["200", "400"]


def test_a_run_resumes_where_it_lies_from_any_folder(
    tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = replace(tiny_run, augmentation="none", output="here")
    with pytest.raises(Stopped):
        train(run, stop_at(150))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / run.folder
    command(["--resume", str(folder)])
    assert RunFolder(folder).complete
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_does_not_fit_is_refused_before_any_work(tiny_run: RunConfig, tmp_path: Path) -> None:
    cache = replace(tiny_run.data, cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="needs continuous actions"):
        train(replace(tiny_run, env="CartPole-v1", data=cache))
    assert not (tmp_path / "cache").exists()
    store = str(prepare_data(tiny_run))
    with pytest.raises(ValueError, match=r"environment Pendulum-v1 do not fit: observation_size is 2"):
        train(replace(tiny_run, env="Pendulum-v1", data=DataConfig(path=store)))
    assert not RunFolder(tiny_run.folder).started  # the corrected command is not told that a run is in the way
