"""A search over a tiny run with real Ray Tune; what a space may hold; what is refused."""

from __future__ import annotations

import csv
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.cli import main
from cluster.config import RunConfig, load_run_config
from cluster.placement import Resources
from cluster.progress import Progress
from cluster.run_folder import RunFolder
from cluster.tune import SearchResult, SearchSettings, _prepare, search
from cluster.tune_space import corners, default_space, overrides, read_space, to_tune
from cluster.tune_trial import TrialPlan, _Reporter, cpus_of_trial, run_trial, trial_resources
from tests.toys import TINY, tiny_diffuser

CONFIGS = Path(__file__).parents[2] / "configs"
SETTINGS = SearchSettings(samples=2, concurrent=1, grace=None, gpus=0.0, seed=0)
SPACE = {"replay.rho": {"uniform": [0.2, 0.6]}, "replay.expected_length": {"choice": [None, 10]}}


def test_the_default_space_is_of_this_run_and_every_value_of_it_may_be_run(tiny_run: RunConfig, tmp_path: Path) -> None:
    space = default_space(tiny_run)
    assert {"replay.rho", "replay.expected_length", "generator.sampling.length"} <= space.keys()
    assert space["generator.sampling.length"] == {"choice": [None, 5, 10]}
    assert space["generator.sampling.horizon"] == {"choice": [30, 60, 120]}
    base = tmp_path / "base.yaml"
    base.write_text(tiny_run.to_yaml())
    assert {load_run_config(base, overrides(values)).replay.rho for values in corners(space)} == {0.1, 0.75}


def test_the_default_space_is_of_the_model_that_is_there_and_of_no_run_without_one(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="augmentation: none has no imagined trajectories to tune: give --space"):
        default_space(replace(tiny_run, augmentation="none"))
    model = tiny_diffuser(config=replace(TINY, lengths=(4, 7)))
    model.save_pretrained(tmp_path / "model")
    fitted = replace(tiny_run, generator=replace(tiny_run.generator, path=str(tmp_path / "model")))
    assert default_space(fitted)["generator.sampling.length"] == {"choice": [None, 4, 7]}


def test_ray_draws_from_the_space() -> None:
    drawn = [{name: domain.sample() for name, domain in to_tune(SPACE).items()} for _ in range(200)]
    assert all(0.2 <= one["replay.rho"] <= 0.6 for one in drawn)
    assert {one["replay.expected_length"] for one in drawn} == {None, 10}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replay.rho", "must map settings"),
        ("{replay.rho: 0.5}", "replay.rho must have one of"),
        ("{replay.rho: {normal: [0, 1]}}", r"\['choice', 'loguniform', 'uniform'\]"),
        ("{replay.rho: {uniform: [0.7, 0.1]}}", "a lower and a higher"),
        ("{algorithm.actor_lr: {loguniform: [0, 1]}}", "above 0"),
        ("{replay.rho: {choice: []}}", "choice needs values"),
    ],
)
def test_what_is_no_space_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_space(text)


def test_a_space_is_read_from_a_file_or_from_words(tmp_path: Path) -> None:
    text = "{replay.rho: {uniform: [0.2, 0.6]}, replay.expected_length: {choice: [null, 10]}}"
    (tmp_path / "space.yaml").write_text(text)
    assert read_space(text) == read_space(str(tmp_path / "space.yaml")) == SPACE


def test_each_evaluation_is_reported_once(tiny_run: RunConfig) -> None:
    told: list[dict[str, float]] = []
    reporter = _Reporter(replace(tiny_run, env_steps=430), told.append)
    for steps, last in [(100, None), (200, 1.0), (300, 1.0), (400, 1.0), (430, 2.0)]:
        reporter.watch(Progress(steps, last, finished=steps == 430))
    assert told == [
        {"env_steps": 200, "eval_return": 1.0},
        {"env_steps": 400, "eval_return": 1.0},
        {"env_steps": 430, "eval_return": 2.0},
    ]


@pytest.mark.usefixtures("local_ray")
def test_a_trial_whose_run_is_complete_is_left_alone_and_told_of(
    tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search was killed before it noted that; or the trial, just before its summary."""
    told: list[dict[str, float]] = []
    monkeypatch.setattr("ray.tune.report", told.append)
    monkeypatch.setattr("ray.tune.get_context", lambda: SimpleNamespace(get_trial_id=lambda: "trial"))
    plan = TrialPlan(str(tmp_path / "base.yaml"), str(tmp_path / "runs"))
    Path(plan.base).write_text(replace(tiny_run, augmentation="none").to_yaml())
    run_trial({}, plan)
    assert [report["env_steps"] for report in told] == [200, 400]
    folder = RunFolder(plan.run({}, "trial").folder)
    written = folder.summary.stat().st_mtime_ns
    run_trial({}, plan)
    assert folder.summary.stat().st_mtime_ns == written
    folder.summary.unlink()
    run_trial({}, plan)
    assert told[2:] == [told[1], told[1]]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_search_leaves_a_table_and_a_config_of_the_best(tiny_run: RunConfig) -> None:
    result = search(tiny_run, SPACE, SETTINGS)
    assert [trial.error for trial in result.trials] == [None, None]
    assert max(trial.env_steps for trial in result.trials) == 400
    returns = [trial.final_return for trial in result.trials]
    assert returns == sorted(returns, reverse=True)
    with (result.folder / "trials.csv").open(newline="") as file:
        assert [row["trial"] for row in csv.DictReader(file)] == [trial.trial for trial in result.trials]
    assert result.best is not None
    best = load_run_config(result.best)
    assert best.replay.rho == pytest.approx(result.trials[0].settings["replay.rho"])
    assert (best.name, best.env_steps) == ("tiny-quickstart-best", 400)
    runs = result.folder / "runs"
    assert sorted(path.name for path in runs.iterdir()) == sorted(trial.trial for trial in result.trials)
    with pytest.raises(ValueError, match="already holds a search"):
        search(tiny_run, SPACE, SETTINGS)
    _resume_an_interrupted_trial(tiny_run, result)


def _resume_an_interrupted_trial(run: RunConfig, before: SearchResult) -> None:
    """A finished search, resumed, trains nothing and says the same."""
    again = search(run, SPACE, SETTINGS, resume=True)
    assert again.trials == before.trials
    assert again.table == before.table


@pytest.fixture
def distributed_run(tiny_run: RunConfig) -> RunConfig:
    run = load_run_config(CONFIGS / "tiny" / "halfcheetah_cluster.yaml")
    return replace(
        run,
        output=tiny_run.output,
        data=replace(run.data, cache=tiny_run.data.cache),
        generator=replace(run.generator, cache=tiny_run.generator.cache),
    )


@pytest.mark.usefixtures("local_ray")
def test_a_trial_asks_for_all_that_its_run_needs(tiny_run: RunConfig, distributed_run: RunConfig) -> None:
    assert trial_resources(replace(tiny_run, threads=2), 0.5).bundles == [{"CPU": 2, "GPU": 0.5}]
    whole = trial_resources(distributed_run, 0.0)
    assert whole.bundles == [{"CPU": 0.2}] * 5  # trainer, env runner, replay, generator, adapter
    assert whole.head_bundle_is_empty  # the trial's own process asks for nothing
    assert cpus_of_trial(distributed_run) == pytest.approx(1.0)
    assert len(trial_resources(replace(distributed_run, augmentation="none"), 0.0).bundles) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_trial_may_be_a_run_as_actors(distributed_run: RunConfig) -> None:
    """Its places are those that Ray Tune made for the trial: this Ray of two CPUs has no room for them twice."""
    assert distributed_run.cluster is not None
    greedy = replace(distributed_run.cluster, trainer=Resources(num_cpus=0.6))
    run = replace(distributed_run, adaptation=None, cluster=greedy, env_steps=200)
    result = search(run, {"replay.rho": {"choice": [0.5]}}, replace(SETTINGS, samples=1, concurrent=None))
    (trial,) = result.trials
    assert (trial.error, trial.env_steps >= 200) == (None, True)


@pytest.mark.usefixtures("local_ray")
def test_what_no_run_may_have_is_refused_before_any_trial(tiny_run: RunConfig, distributed_run: RunConfig) -> None:
    with pytest.raises(ValueError, match="rho"):
        search(tiny_run, {"replay.rho": {"choice": [0.5, 1.5]}}, SETTINGS)
    with pytest.raises(ValueError, match="no search to resume"):
        search(tiny_run, SPACE, SETTINGS, resume=True)
    with pytest.raises(ValueError, match=r"not to s3://bucket"):
        search(replace(tiny_run, output="s3://bucket"), SPACE, SETTINGS)
    with pytest.raises(ValueError, match="cluster section says who gets which GPU"):
        search(distributed_run, SPACE, replace(SETTINGS, gpus=1.0))
    with pytest.raises(ValueError, match="--samples must be at least 1"):
        replace(SETTINGS, samples=0)


def test_the_command_wants_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tune", "--samples", "2"])
    assert stop.value.code == 1
    assert "give a config file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_search_that_was_cut_off_goes_on_from_its_checkpoints(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C as a trial reports, which Ray Tune hears; the search goes on where the trial's run stood.

    The last test of this Ray: the trial that is cut off may keep its CPU, of which another test would starve.
    """
    run = replace(tiny_run, augmentation="none")
    one = replace(SETTINGS, samples=1)
    space = {"algorithm.actor_lr": {"choice": [0.001]}}

    def ctrl_c(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("cluster.tune._SearchBar.on_trial_result", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            search(run, space, one)
    assert not (Path(run.output) / run.name / "tune" / "trials.md").exists()
    (folder,) = (Path(run.output) / run.name / "tune" / "runs").iterdir()
    lived = next(folder.rglob("metrics.csv")).read_text()
    assert len(lived.splitlines()) >= 2
    result = search(run, space, one, resume=True)
    (trial,) = result.trials
    assert (trial.trial, trial.env_steps, trial.error) == (folder.name, 400, None)
    assert next(folder.rglob("metrics.csv")).read_text().startswith(lived)  # wall seconds, too: nothing is lived again


def test_a_space_of_synthers_settings_leaves_fits_to_the_trials(
    tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared_fit(_: RunConfig) -> None:
        pytest.fail("a fit that all trials share hides what they draw")

    monkeypatch.setattr("cluster.tune.prepare", shared_fit)
    plan = TrialPlan(str(tmp_path / "base.yaml"), str(tmp_path))
    space = {"synther.fit.cpu_minutes": {"choice": [1, 2]}}
    _prepare(replace(tiny_run, augmentation="synther"), space, plan)
    assert (tmp_path / "base.yaml").is_file()
