"""Every config file loads, says the same after a round trip, and unknown or contradictory settings are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atradiff.config import SamplingConfig
from atradiff.replay.mixed import ReplayConfig
from cluster.config import (
    CollectConfig,
    DataConfig,
    EvaluationConfig,
    GeneratorConfig,
    RunConfig,
    load_run_config,
    recipe_hash,
    run_parser,
)

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if "grids" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_file_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    run = load_run_config(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(run.to_yaml())
    assert load_run_config(copy) == run
    if run.augmentation == "atradiff":
        run.require_data()


def test_every_config_has_a_tiny_twin_of_the_same_task() -> None:
    for path in CONFIGS.glob("*.yaml"):
        twin = load_run_config(CONFIGS / "tiny" / path.name)
        original = load_run_config(path)
        assert (twin.env, twin.augmentation) == (original.env, original.augmentation)
        assert twin.env_steps < original.env_steps / 10


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--cluster", "{}"],
        ["--cluster.pool.generators", "3", "--adaptation.pick_up.indicator", "reward"],
        ["--adaptation", "{}", "--replay", "{}"],
        ["--generator.fit", "{steps: 5, cpu_minutes: null}"],
        ["--data.cache", "elsewhere", "--seed", "3"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("file", ["quickstart.yaml", "halfcheetah_cluster.yaml"])
def test_settings_are_those_of_a_parser_that_checks_its_defaults_each_time(file: str, words: list[str]) -> None:
    arguments = ["--config", str(CONFIGS / file), *words]
    parser = run_parser("train", None)
    whole = vars(parser.instantiate(parser.parse_args(arguments)))
    assert load_run_config(CONFIGS / file, words) == RunConfig(**{k: v for k, v in whole.items() if k != "config"})


def test_dotted_flags_override_the_file_at_every_depth() -> None:
    overrides = ["--seed", "7", "--algorithm.utd", "2", "--generator.fit.seed", "3", "--data.collect.episodes", "9"]
    run = load_run_config(CONFIGS / "quickstart.yaml", overrides)
    assert (run.seed, run.algorithm.utd, run.generator.fit.seed) == (7, 2.0, 3)
    assert run.data.collect is not None
    assert run.data.collect.episodes == 9
    assert run.data.collect.policy == "scripted"


@pytest.mark.parametrize(
    ("before", "words", "wanted"),
    [
        ("source: a", ["--data.path", "b"], DataConfig(path="b")),
        ("collect: {policy: random}", ["--data.path=b"], DataConfig(path="b")),
        ("path: a", ["--data.source", "b"], DataConfig(source="b")),
        ("path: a", ["--seed", "3", "--data.collect.policy=scripted"], DataConfig(collect=CollectConfig())),
        ("source: a", ["--data", "{path: b}"], DataConfig(path="b")),
        ("source: a", ["--data={collect: {policy: scripted}}"], DataConfig(collect=CollectConfig())),
        ("collect: {policy: random}", ["--config", "data: {path: b}"], DataConfig(path="b")),
        ("path: a", ["--config=data.source: b"], DataConfig(source="b")),
        ("path: a", ["--data.path", "c", "--config", "data.source: b"], DataConfig(source="b")),
        ("source: a", ["--data.path=b", "--data.source=null", "--seed", "3"], DataConfig(path="b")),
        ("source: a", ["--data.path=null"], DataConfig(source="a")),
        ("source: a, end_at_reward: 1", ["--data.path", "b"], DataConfig(path="b")),
        ("source: a, end_at_reward: 1", ["--data.source", "b"], DataConfig(source="b", end_at_reward=1)),
    ],
)
def test_a_later_layer_names_its_data_in_another_way(before: str, words: list[str], wanted: DataConfig) -> None:
    config = f"env: Pendulum-v1\nname: x\nenv_steps: 2000\ndata: {{{before}}}\n"
    assert load_run_config(config, words).data == wanted


def test_a_run_is_resumed_with_data_that_are_named_in_another_way() -> None:
    """The config of a run states all three."""
    run = load_run_config(CONFIGS / "rlpd_halfcheetah.yaml")
    moved = load_run_config(run.to_yaml(), ["--data.path", "elsewhere", "--data.cache", "kept"])
    assert moved.data == DataConfig(path="elsewhere", cache="kept")
    assert load_run_config(run.to_yaml(), ["--data.cache", "kept"]).data.source == run.data.source


def test_paths_mean_the_same_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for journal, absolute in (("rows", str(tmp_path / "rows")), ("off", "off")):
        run = load_run_config(CONFIGS / "halfcheetah_cluster.yaml", ["--cluster.journal", journal]).absolute()
        assert (run.cluster.journal, run.output) == (absolute, str(tmp_path / "runs"))


def test_two_ways_of_naming_data_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="data takes one of path, source and collect, got path and source"):
        load_run_config(CONFIGS / "quickstart.yaml", ["--data.path", "a", "--data.source", "b"])


@pytest.mark.parametrize(
    ("section", "flag", "said"),
    [
        ("algorithm: {utdd: 2}", "--algorithm.utdd=2", "algorithm.utdd is no setting. Did you mean utd?"),
        ("cluster: {pool: {generatorz: 2}}", "--cluster.pool.generatorz=2", "What cluster.pool takes: compile, gen"),
        ("cluster: {pol: {}}", "--cluster={pol: {}}", "cluster.pol is no setting. Did you mean pool?"),
        ("adaptation: {pick_up: {x: 1}}", "--adaptation.pick_up.x=1", "adaptation.pick_up.x is no setting. What"),
        ("data: {collect: {polcy: x}}", "--data.collect.polcy=x", "takes: env, episodes, noise, policy, seed."),
        ("evn: x", "--replay.roh=1", " is no setting. Did you mean "),
    ],
)
def test_an_unknown_key_is_named_with_those_that_there_are(tmp_path: Path, section: str, flag: str, said: str) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text(f"env: Pendulum-v1\nname: x\nenv_steps: 10\n{section}\n")
    with pytest.raises(ValueError, match=re.escape(said)):
        load_run_config(path)
    with pytest.raises(ValueError, match=re.escape(said)):
        load_run_config("env: Pendulum-v1\nname: x\nenv_steps: 10\n", [flag])


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--cluster.pool.generators=0", "the pool needs at least 1 generator, got generators=0."),
        ("--cluster.pool.generators=many", "Parser key \"pool.generators\": Expected a <class 'int'>. Got value: many"),
        ("--adaptation.every=0", "every must be at least 1"),
        ("--cluster.journal=s3://bucket/rows", "cluster.journal must be a folder"),
        ("--cluster.learners.learners=3", "batch_size=256 cannot be shared equally by cluster.learners.learners=3"),
        ("--foo=1", "unrecognized arguments: --foo=1"),
    ],
)
def test_a_value_that_cannot_be_is_named_alone(flag: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as told:
        load_run_config(CONFIGS / "quickstart.yaml", [flag])
    assert len(str(told.value)) < 200


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("cluster", "pool.generators"),
        ("adaptation", "every"),
        ("data.collect", "policy"),
        ("generator.model", "guide"),
        ("generator.fit", "steps"),
        ("generator.sampling", "length"),
        ("synther.model", "retrain_every"),
        ("synther.fit", "steps"),
    ],
)
def test_a_section_explains_itself(section: str, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the README names."""
    with pytest.raises(SystemExit) as stop:
        load_run_config(CONFIGS / "quickstart.yaml", [f"--{section}.help"])
    assert stop.value.code == 0
    assert f"--{section}.{setting}" in capsys.readouterr().out
    readme = " ".join((CONFIGS.parent / "README.md").read_text().split())
    assert f"`{section}`" in readme or f"`--{section}.help`" in readme


def test_a_name_may_look_like_a_day_that_there_is_not() -> None:
    assert load_run_config(CONFIGS / "quickstart.yaml", ["--name", "2026-02-30"]).name == "2026-02-30"


def test_contradictions_are_refused_with_the_values() -> None:
    with pytest.raises(ValueError, match="path and collect"):
        DataConfig(path="a", collect=CollectConfig())
    with pytest.raises(ValueError, match="every >= 1"):
        EvaluationConfig(every=0)
    with pytest.raises(ValueError, match="env_steps must be at least 1, got 0"):
        RunConfig(env="Pendulum-v1", name="x", env_steps=0)
    with pytest.raises(ValueError, match="needs a diffuser"):
        RunConfig(env="Pendulum-v1", name="x", env_steps=2000).require_data()
    with pytest.raises(ValueError, match="nothing would be learned"):
        RunConfig(env="Pendulum-v1", name="x", env_steps=1000)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        RunConfig(env="Pendulum-v1", name="x", env_steps=2000, seed=-1)
    with pytest.raises(ValueError, match="max_request_age=200 drops answers"):
        RunConfig(env="Pendulum-v1", name="x", env_steps=2000, replay=ReplayConfig(max_request_age=200))


def test_a_length_beyond_the_longest_window_is_refused_before_any_fit() -> None:
    lengths = ["--generator.model.lengths", "[3,6]"]
    assert load_run_config(CONFIGS / "quickstart.yaml", [*lengths, "--generator.sampling.length", "6"])
    with pytest.raises(ValueError, match=r"length must lie in 1\.\.6, the model's longest window.*got 7"):
        load_run_config(CONFIGS / "quickstart.yaml", [*lengths, "--generator.sampling.length", "7"])
    GeneratorConfig(path="somewhere", sampling=SamplingConfig(length=90))  # that model may have longer windows


def test_a_recipe_is_found_again_by_its_hash_and_by_nothing_else() -> None:
    recipe = {"env": "Pendulum-v1", "episodes": 4}
    assert recipe_hash(recipe) == recipe_hash(dict(reversed(recipe.items())))
    assert recipe_hash(recipe) != recipe_hash({**recipe, "episodes": 5})
