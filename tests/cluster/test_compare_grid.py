"""Grids: what they mean, that each in configs/ is right, and what is said about wrong ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.cells import differing_settings, distinct_runs, recipe, require_same_runs, share_runs
from cluster.compare import checked_cells
from cluster.config import load_run_config
from cluster.grid import Grid
from cluster.grid_cells import grid_cells, study_arms, study_tasks
from cluster.grid_file import is_grid, load_grid
from cluster.grid_plan import estimate, plan_text
from cluster.layers import merged
from cluster.run_folder import RunFolder

REPOSITORY = Path(__file__).parents[2]
GRIDS = sorted((REPOSITORY / "configs" / "grids").rglob("*.yaml"))

HOPPER = {"observation_size": 11, "action_kind": "continuous", "action_low": [-1.0] * 3, "action_high": [1.0] * 3}
CART_POLE = {"env": "CartPole-v1", "score": {"random": 0, "reference": 1}}
PLAIN: dict[str, Any] = {
    "name": "plain",
    "seeds": [0, 3],
    "settings": {"env_steps": 3000, "evaluation.every": 500},
    "tasks": {
        "pendulum": {"env": "Pendulum-v1", "score": {"random": -1200, "reference": -150}},
        "hopper": {"base": "configs/hopper_atradiff.yaml", "evaluation": {"solved_at": 1000}},
    },
    "algorithms": {"SAC": None, "REDQ": {"n_critics": 10, "utd": 20, "replay.capacity": 5000}},
    "augmentations": {
        "none": {"augmentation": "none"},
        "ATraDiff": {"augmentation": "atradiff", "data.source": "d4rl:hopper-medium-v2", "replay": {"rho": 0.25}},
    },
    "baseline": "none",
    "exclude": [{"task": "pendulum", "augmentation": "ATraDiff"}],
}


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def read(tmp_path: Path, **changes: Any) -> Grid:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"output": str(tmp_path), **PLAIN, **changes}, sort_keys=False))
    assert is_grid(str(path))
    return load_grid(path)


def test_a_grid_is_all_combinations_but_the_excluded_ones(tmp_path: Path) -> None:
    cells = grid_cells(read(tmp_path))
    arms = ["SAC", "SAC + ATraDiff", "REDQ", "REDQ + ATraDiff"]
    first_seed = [("pendulum", "SAC"), ("pendulum", "REDQ"), *[("hopper", arm) for arm in arms]]
    assert [(c.task, c.arm, c.run.seed) for c in cells] == [(t, a, seed) for seed in (0, 3) for t, a in first_seed]
    assert len({cell.run.folder for cell in cells}) == 12


def test_settings_come_from_base_common_task_algorithm_and_augmentation(tmp_path: Path) -> None:
    runs = {(cell.task, cell.arm): cell.run for cell in grid_cells(read(tmp_path))}
    run = runs["hopper", "REDQ + ATraDiff"]
    base = load_run_config(REPOSITORY / "configs" / "hopper_atradiff.yaml")
    assert run.generator.sampling == base.generator.sampling
    assert (run.env_steps, run.evaluation.every, run.evaluation.solved_at) == (3000, 500, 1000)
    assert (run.algorithm.n_critics, run.algorithm.utd, run.algorithm.layer_norm) == (10, 20, True)
    assert (run.replay.capacity, run.replay.rho, run.data.source) == (5000, 0.25, "d4rl:hopper-medium-v2")
    assert runs["pendulum", "SAC"].augmentation == "none"
    assert runs["pendulum", "SAC"].folder == tmp_path / "plain/runs/pendulum/SAC/none/none/seed_3"


def test_an_algorithm_may_have_settings_of_its_own_on_a_task(tmp_path: Path) -> None:
    pendulum = {**PLAIN["tasks"]["pendulum"], "algorithms": {"REDQ": {"utd": 5, "replay.capacity": 700}}}
    grid = read(tmp_path, tasks={**PLAIN["tasks"], "pendulum": pendulum})
    runs = {(cell.task, cell.arm): cell.run for cell in grid_cells(grid)}
    own = runs["pendulum", "REDQ"]
    assert (own.algorithm.n_critics, own.algorithm.utd, own.replay.capacity) == (10, 5, 700)
    assert {arm: run.algorithm.utd for (_, arm), run in runs.items() if arm != "REDQ"} == {
        "SAC": 1,
        "SAC + ATraDiff": 1,
        "REDQ + ATraDiff": 20,
    }
    assert runs["hopper", "REDQ"].algorithm.utd == 20


@pytest.mark.parametrize(
    ("baseline", "against"),
    [
        ("none", [None, "SAC", None, "REDQ"]),
        ("SAC", [None, "SAC", "SAC", "SAC"]),
        ("REDQ + ATraDiff", ["REDQ + ATraDiff"] * 3 + [None]),
        ("ATraDiff", ["SAC + ATraDiff", None, "REDQ + ATraDiff", None]),
    ],
)
def test_a_baseline_is_an_augmentation_or_an_arm(tmp_path: Path, baseline: str, against: list[str | None]) -> None:
    assert [arm.baseline for arm in study_arms(read(tmp_path, baseline=baseline))] == against


def test_a_baseline_may_be_an_algorithm_with_the_same_augmentation(tmp_path: Path) -> None:
    only = {"ATraDiff": PLAIN["augmentations"]["ATraDiff"], "low": {"augmentation": "none"}}
    arms = study_arms(read(tmp_path, augmentations=only, baseline="REDQ"))
    assert [arm.baseline for arm in arms] == ["REDQ + ATraDiff", "REDQ + low", None, None]


def test_scores_are_the_grids_own_or_d4rls(tmp_path: Path) -> None:
    grid = read(tmp_path)
    pendulum, hopper = study_tasks(grid, grid_cells(grid))
    assert (pendulum.scores.random, pendulum.scores.reference, pendulum.threshold) == (-1200, -150, None)
    assert (hopper.scores.random, hopper.scores.reference, hopper.threshold) == (-20.272305, 3234.3, 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "does not know seed; it may hold name, seeds"),
        ({"seeds": [1, 1]}, r"different numbers from 0 on, at least one, got \[1, 1\]"),
        ({"seeds": ["one"]}, "a seed must be a whole number, got 'one'"),
        ({"seeds": 3}, "seeds must be a list, got 3"),
        ({"name": "a/b"}, "name becomes a folder.*got 'a/b'"),
        ({"baseline": "sac"}, "baseline 'sac' is none of the labels; choose one of none, ATraDiff, SAC"),
        ({"baseline": False}, "baseline must be text, got False: put quotes"),
        ({"tasks": {}}, "tasks is empty"),
        ({"algorithms": {False: {}}}, "the label False is not text"),
        ({"algorithms": {"A+B": {}, "A B": {}, "A  B": {}}}, "labels must differ in letters"),
        ({"tasks": {"x": {"base": "configs/none.yaml"}}}, r"tasks.x.base: .*/configs/none.yaml does not exist"),
        ({"tasks": {"x": {"score": {"random": 0}}}}, r"tasks.x.score must be \{random: RETURN"),
        ({"tasks": {"x": {"score": {"random": 5, "reference": 1}}}}, "random 5.0 and reference 1.0"),
        (
            {"tasks": {"x": {"algorithms": {"RLPD": {}}, "score": {"random": 0, "reference": 1}}}},
            "tasks.x.algorithms: there is no algorithm 'RLPD'; choose among SAC, REDQ",
        ),
        ({"tasks": {"x": {"algorithms": ["REDQ"]}}}, "tasks.x.algorithms must be a mapping of names"),
        ({"tasks": {"x": {"algorithms": {"REDQ": {"seed": 1}}}}}, "tasks.x.algorithms.REDQ sets seed, which"),
        ({"exclude": [{"task": "hoper"}]}, "there is no task 'hoper'; choose one of pendulum, hopper"),
        ({"exclude": [{"env": "hopper"}]}, "exclude does not know env"),
        (
            {"exclude": [{"task": ["a", "b"]}]},
            r"exclude: task must be one label, got \['a', 'b'\]: write a rule for each",
        ),
        ({"exclude": [{}]}, "a rule without labels"),
        ({"gpus_per_cell": -1}, "gpus_per_cell at least 0.*-1"),
        ({"settings": {"seed": 1}}, "settings sets seed, which the grid gives every run itself: .* set seeds at the"),
        ({"tasks": {"x": {"name": "x"}}}, "tasks.x sets name, which .* set name at the top"),
        ({"algorithms": {"SAC": {"seed": 1, "output": "x"}}}, "algorithms.SAC sets seed, output, .* seeds, output at"),
        ({"augmentations": {"none": {"output": "x"}}}, "augmentations.none sets output, which"),
    ],
)
def test_a_wrong_grid_is_refused_with_value_and_remedy(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"grid.yaml: {message}|grid.yaml: .*{message}"):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithms": {"SAC": {"utdd": 2}}}, "plain: pendulum, SAC: algorithm.utdd is no setting. Did you mean utd?"),
        ({"algorithms": {"SAC": {"adaptation.evry": 3}}}, "adaptation.evry is no setting. Did you mean every?"),
        ({"algorithms": {"SAC": {"evaluation": None}}}, "SAC: evaluation must hold settings, got null"),
        ({"algorithms": {"SAC": {"generator.fit": None}}}, "generator.fit must hold settings, got null: leave it out"),
        (
            {"settings": {"env_steps": 3000, "learner_device": "cuda"}},
            "gpus_per_cell reserves for it, 0 here: set it in a grid",
        ),
        ({"algorithms": {"SAC": {"utd": "often"}}}, "plain: pendulum, SAC: .*float.*often"),
        ({"algorithms": {"SAC": {"utd": -1}}}, "plain: pendulum, SAC: utd must be above 0, got -1"),
        ({"exclude": [{"algorithm": "SAC"}, {"algorithm": "REDQ"}]}, "exclude leaves no cell of plain"),
        ({"tasks": {"car": {"env": "Pendulum-v1"}}, "exclude": []}, "tasks.car: D4RL has no reference returns"),
        ({"tasks": {"pole": CART_POLE}, "exclude": []}, "ction"),
        ({"augmentations": {"none": {}}, "exclude": []}, "plain: pendulum, SAC: .*needs a diffuser"),
        (
            {"settings": {"env_steps": 3000, "cluster.rollouts.env_runners": 1}},
            "plain: pendulum, SAC: a compared run .* leave cluster out",
        ),
        ({"output": "s3://bucket/x"}, "from a folder of this machine, got output s3://bucket/x"),
    ],
)
def test_wrong_cells_are_refused_before_anything_runs(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    grid = read(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        checked_cells(grid)


@pytest.mark.parametrize(
    ("augmentation", "description", "message"),
    [
        ("synther", {"format": "atradiff-model-1"}, "it is no SynthER model"),
        ("atradiff", {"format": "atradiff-synther-1"}, "holds a SynthER model, where a trajectory diffuser is needed"),
        ("atradiff", None, "is no model folder"),
        ("atradiff", {"format": "atradiff-model-1"}, "states no spaces"),
        ("synther", {"format": "atradiff-synther-1", "spaces": HOPPER}, "observation_size is 11 in the model"),
        ("atradiff", {"format": "atradiff-model-1", "spaces": HOPPER}, "observation_size is 11 in the model"),
    ],
)
def test_a_model_of_another_kind_or_robot_is_refused_before_anything_runs(
    tmp_path: Path, augmentation: str, description: Any, message: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    if description is not None:
        (model / "config.json").write_text(json.dumps(description))
    arms = {"none": {"augmentation": "none"}, "with": {"augmentation": augmentation}}
    settings = {"env_steps": 3000, "generator.path": str(model)}
    with pytest.raises(ValueError, match=rf"plain: pendulum, SAC \+ with, seed \d+: .*{message}"):
        checked_cells(read(tmp_path, settings=settings, augmentations=arms, exclude=[]))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("name: x\ntasks:\n  a: {}\n  a: {}\n")
    with pytest.raises(ValueError, match="line 3: a is given twice"):
        load_grid(path)


def test_yaml_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    text = yaml.safe_dump({key: value for key, value in PLAIN.items() if key != "tasks"})
    path.write_text(
        f"{text}tasks:\n  hopper: &h {{base: configs/hopper.yaml, threads: 4}}\n  pendulum: {{<<: *h, threads: 5}}\n"
    )
    assert [task.settings["threads"] for task in load_grid(path).tasks.values()] == [4, 5]


def test_plain_runs_that_differ_in_data_alone_are_one(tmp_path: Path) -> None:
    tasks = {
        name: {"base": "configs/hopper_atradiff.yaml", "data.source": f"d4rl:hopper-{name}-v2"}
        for name in ("medium", "expert")
    }
    augmentations = {"none": {"augmentation": "none"}, "ATraDiff": {}}
    cells = grid_cells(read(tmp_path, tasks=tasks, augmentations=augmentations, exclude=[]))
    assert (len(cells), len(distinct_runs(cells))) == (16, 12)
    assert cells[0].run == cells[4].run
    assert (cells[0].task, cells[4].task) == ("medium", "expert")


def test_a_shared_run_is_found_again_after_the_grid_was_edited(tmp_path: Path) -> None:
    tasks = {
        name: {"base": "configs/hopper_atradiff.yaml", "data.source": f"d4rl:hopper-{name}-v2"}
        for name in ("medium", "expert")
    }
    settings = {"tasks": tasks, "augmentations": {"none": {"augmentation": "none"}, "ATraDiff": {}}}
    before = grid_cells(read(tmp_path, exclude=[], **settings))
    for run in (before[0].run, before[1].run):  # one that the tasks share, and one that they do not
        run.folder.mkdir(parents=True)
        RunFolder(run.folder).config.write_text(run.to_yaml())
    begun = replace(before[1].run, generator=replace(before[1].run.generator, path="models/x"))
    RunFolder(begun.folder).config.write_text(begun.to_yaml())
    (begun.folder.parent / "seed_9").mkdir()
    (begun.folder.parent / "seed_9" / "config.yaml").write_text("no: run\n")
    assert grid_cells(read(tmp_path, exclude=[], **settings)) == before
    after = grid_cells(read(tmp_path, exclude=[{"task": "medium"}], **settings))
    assert {cell.task for cell in after} == {"expert"}
    assert after[0].run == before[0].run
    assert [cell.folder.started for cell in after] == [True] + [False] * (len(after) - 1)
    swapped = grid_cells(read(tmp_path, exclude=[], **{**settings, "tasks": dict(reversed(tasks.items()))}))
    runs = {(cell.task, cell.arm, cell.run.seed): cell.run for cell in swapped}
    assert runs["expert", "SAC", 0] == runs["medium", "SAC", 0] == before[0].run
    assert RunFolder(runs["medium", "SAC + ATraDiff", 0].folder).started


def test_a_folder_with_another_run_is_refused_by_the_names_of_its_settings(tmp_path: Path) -> None:
    cell = grid_cells(read(tmp_path))[3]
    cell.run.folder.mkdir(parents=True)
    fitted = replace(cell.run, generator=replace(cell.run.generator, path="models/x"))
    cell.folder.config.write_text(fitted.to_yaml())
    assert differing_settings(cell.run) == []
    require_same_runs([cell])
    other = replace(cell.run, algorithm=replace(cell.run.algorithm, gamma=0.5), generator=fitted.generator)
    assert differing_settings(other) == ["algorithm.gamma 0.99 there, 0.5 here"]
    moved = replace(fitted, generator=replace(fitted.generator, path="models/y"))
    with pytest.raises(ValueError, match=r"other settings \(generator.path 'models/x' there, 'models/y' here\)"):
        require_same_runs([replace(cell, run=moved)])


def test_a_recipe_ignores_where_things_are_kept_and_nothing_else(tmp_path: Path) -> None:
    cell = grid_cells(read(tmp_path))[3]
    elsewhere = replace(cell.run, name="y", output="z", data=replace(cell.run.data, cache="elsewhere"))
    elsewhere = replace(elsewhere, checkpoint=replace(elsewhere.checkpoint, keep=9))
    elsewhere = replace(elsewhere, evaluation=replace(elsewhere.evaluation, solved_at=12.0))
    assert recipe(elsewhere) == recipe(cell.run)
    shared = share_runs([cell, replace(cell, run=elsewhere)])
    assert len(distinct_runs(shared)) == 1
    assert [one.run.evaluation.solved_at for one in shared] == [cell.run.evaluation.solved_at, 12.0]  # reports' own
    assert recipe(replace(cell.run, seed=99)) != recipe(cell.run)
    assert recipe(replace(cell.run, data=replace(cell.run.data, source="d4rl:x"))) != recipe(cell.run)


def test_the_plan_counts_what_is_left_by_the_pace_of_what_is_done(tmp_path: Path) -> None:
    grid = read(tmp_path)
    cells = grid_cells(grid)
    assert "run one seed first" in plan_text(grid, cells)
    done = next(cell for cell in cells if (cell.task, cell.arm) == ("hopper", "SAC"))
    done.run.folder.mkdir(parents=True)
    done.folder.config.write_text(done.run.to_yaml())
    done.folder.summary.write_text(json.dumps({"env_steps": 3000, "wall_seconds": 600.0, "final_return": 1.0}))
    cost = estimate(cells)
    assert (cost.seconds, cost.known, cost.unknown) == (600.0 * 3, 3, 8)  # SAC on hopper once more, on pendulum twice
    text = plan_text(grid, cells)
    assert "12 cells are 12 runs; 1 complete, 11 to do: 33,000 environment steps" in text
    assert "0 complete, 3 to do" in text
    assert "30 min 00 s of runs" in text
    assert "8 more runs are of arms of which none is complete" in text
    done.folder.summary.write_text("{")
    assert "run one seed first" in plan_text(grid, cells)


keys = st.lists(st.sampled_from("abc"), min_size=1, max_size=3)


@given(st.lists(st.tuples(keys, st.integers()), max_size=6))
def test_dotted_and_nested_settings_are_the_same(entries: list[tuple[list[str], int]]) -> None:
    dotted = merged(*({".".join(path): value} for path, value in entries))
    nested: list[dict[str, Any]] = []
    for path, value in entries:
        inner: Any = value
        for key in reversed(path):
            inner = {key: inner}
        nested.append(inner)
    assert merged(*nested) == dotted


WAYS = {"path": "store", "source": "d4rl:x", "collect": {"policy": "random"}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", WAYS)
def test_a_later_layer_names_its_data_in_another_way(way: str, before: str) -> None:
    named = {"data": {before: WAYS[before], "cache": "kept"}}
    dotted = merged(named, {"env": "x"}, {f"data.{way}": WAYS[way]}, {"data.cache": "moved"})
    assert dotted == merged(named, {"env": "x"}, {"data": {way: WAYS[way]}}, {"data": {"cache": "moved"}})
    given = {name: value for name, value in dotted["data"].items() if value is not None}
    assert given == {way: WAYS[way], "cache": "moved"}


def test_two_ways_in_one_layer_are_not_chosen_from_and_null_chooses_none() -> None:
    both = {"data": {"path": "a", "source": "b"}}
    assert merged({"data.collect": {}}, both)["data"] == {
        "path": "a",
        "source": "b",
        "collect": None,
        "end_at_reward": None,
    }
    assert merged({"data.source": "b"}, {"data.path": None})["data"]["source"] == "b"


def test_a_task_an_algorithm_or_an_augmentation_may_have_data_of_its_own(tmp_path: Path) -> None:
    tasks = {"hopper": {"base": "configs/hopper_atradiff.yaml", "data.path": "of-the-task"}}
    augmentations = {"none": {"augmentation": "none"}, "own": {"data": {"collect": {"policy": "random"}}}}
    algorithms = {"SAC": {}, "RLPD": {"data.source": "of-the-algorithm"}}
    shared = {"env_steps": 3000, "replay.offline_share": 0.5}  # so that plain runs differ in their data, too
    grid = read(tmp_path, settings=shared, tasks=tasks, algorithms=algorithms, augmentations=augmentations, exclude=[])
    data = {cell.arm: cell.run.data for cell in grid_cells(grid)}
    assert (data["SAC"].path, data["SAC"].source) == ("of-the-task", None)
    assert (data["RLPD"].path, data["RLPD"].source) == (None, "of-the-algorithm")
    for arm in ("SAC + own", "RLPD + own"):
        assert data[arm].collect is not None
        assert data[arm].path is data[arm].source is None


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: str(path.relative_to(REPOSITORY / "configs" / "grids")))
def test_every_grid_file_is_right(path: Path, tmp_path: Path) -> None:
    grid = load_grid(path, output=str(tmp_path))
    cells = checked_cells(grid)
    assert {cell.arm for cell in cells} == set(grid.arms())
    baselines = {arm.baseline for arm in study_arms(grid)} - {None}
    assert baselines <= set(grid.arms())


def test_every_paper_grid_has_a_tiny_twin_with_the_same_arms() -> None:
    for path in (REPOSITORY / "configs" / "grids").glob("*.yaml"):
        grid, twin = load_grid(path), load_grid(path.parent / "tiny" / path.name)
        assert list(twin.arms()) == list(grid.arms())
        assert twin.baseline == grid.baseline
        assert set(twin.tasks) <= set(grid.tasks)
        assert max(cell.run.env_steps for cell in grid_cells(twin)) <= 500
