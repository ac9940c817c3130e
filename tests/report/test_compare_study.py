"""A study over tasks: figures by hand, files on disk, arms that are missing."""

from __future__ import annotations

import csv
import itertools
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atradiff.report import study_plots
from atradiff.report.curves import RunCurve
from atradiff.report.same_seed import Ahead
from atradiff.report.stats import Interval
from atradiff.report.steps_ratio import StepsOverTasks, StepsRatio, steps_ratio
from atradiff.report.study import ScoreRange, Study, StudyArm, StudyRun, StudyTask, arm_results, task_results
from atradiff.report.study_files import write_study
from atradiff.report.study_legend import legend


def curve(*returns: float) -> RunCurve:
    """An evaluation every 1,000 steps, the first one at 1,000."""
    steps = 1000.0 * np.arange(1, len(returns) + 1)
    return RunCurve(steps, np.array(returns, np.float64), steps / 10)


folders = map("runs/{}".format, itertools.count())


def run(seed: int, *returns: float, cpu: float | None = 50.0) -> StudyRun:
    """A run in a folder of its own."""
    return StudyRun(seed, next(folders), curve(*returns), 100.0 + seed, cpu)


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def study() -> Study:
    runs = {
        ("flat", "SAC"): (run(0, 0, 1, 2, 4), run(1, 0, 2, 2, 4)),
        ("flat", "SAC + X"): (run(0, 2, 4, 6, 8), run(1, 2, 4, 6, 8)),
        ("hard", "SAC"): (run(0, 0, 0, 0, 0), run(1, 0, 0, 0, 0)),
        ("hard", "SAC + X"): (run(0, 0, 0, 50, 90), run(1, 0, 0, 50, 100)),
    }
    tasks = (StudyTask("flat", ScoreRange(0, 8)), StudyTask("hard", ScoreRange(0, 100), threshold=50))
    arms = (StudyArm("SAC"), StudyArm("SAC + X", "SAC"))
    return Study("by hand", tasks, arms, runs, final_evaluations=1)


def test_results_per_task_are_what_one_computes_by_hand(study: Study) -> None:
    plain, ours, _, hard = task_results(study)
    assert (plain.final_return.value, plain.score.value) == (4, 50)
    assert (plain.improvement, plain.steps) == (None, None)
    assert (ours.score.value, ours.score.low, ours.score.high) == (100, 100, 100)
    assert ours.area.value == pytest.approx((3 + 5 + 7) / 3)
    assert ours.improvement is not None
    assert ours.improvement.value == 1
    assert ours.steps is not None
    assert (ours.steps.threshold, ours.steps.ratio.value, ours.steps.at_most) == (4, 0.5, False)
    assert hard.steps is not None
    assert (hard.steps.ratio.value, hard.steps.at_most, str(hard.steps)) == (0.75, True, "≤ 0.75 [0.75, 0.75]")
    assert (ours.cost.wall_seconds, ours.cost.cpu_seconds) == (100.5, 50)


def test_results_over_tasks_are_what_one_computes_by_hand(study: Study) -> None:
    plain, ours = arm_results(study, task_results(study))
    assert plain.aggregates["IQM"].value == pytest.approx((0 + 50) / 2)
    assert ours.aggregates["IQM"].value == pytest.approx(100)  # of 90, 100, 100, 100 the middle two
    assert ours.aggregates["mean"].value == pytest.approx((100 + 95) / 2)
    assert ours.aggregates["optimality gap"].value == pytest.approx(2.5)
    assert ours.improvement is not None
    assert (ours.improvement.value, ours.improvement.low) == (1, 1)
    assert ours.steps == StepsOverTasks(pytest.approx((0.5 + 0.75) / 2), at_most=True, reached=2, tasks=2)
    assert ours.ahead == Ahead(pairs=4, final=4, area=4)
    assert (plain.improvement, plain.steps, plain.ahead, plain.n_runs) == (None, None, None, 4)


def test_runs_of_one_seed_are_held_against_each_other(study: Study) -> None:
    runs = {
        ("flat", "SAC"): (run(0, 0, 10, 20), run(1, 50, 60, 70), run(2, 0, 0, 0), run(5, 9, 9, 9)),
        # by seed: ahead by 1 along the way and level at the end; behind by 10; ahead by 2; no run of the baseline's
        ("flat", "SAC + X"): (run(1, 40, 50, 60), run(0, 1, 11, 20), run(2, 2, 2, 2), run(7, 99, 99, 99)),
    }
    _, ours = task_results(replace(study, runs=runs))
    assert ours.same_seed is not None
    assert ours.same_seed.ahead == Ahead(pairs=3, final=1, area=2)
    assert str(ours.same_seed.ahead) == "final 1/3, area 2/3"
    assert ours.same_seed.final_gain.value == pytest.approx((0 - 10 + 2) / 3)
    assert ours.same_seed.area_gain.value == pytest.approx((0.75 - 10 + 2) / 3)
    assert (ours.same_seed.area_gain.low, ours.same_seed.area_gain.high) == (-10, 2)
    strangers = {("flat", "SAC"): (run(0, 1, 2),), ("flat", "SAC + X"): (run(1, 3, 4),)}
    assert task_results(replace(study, runs=strangers))[1].same_seed is None


def test_an_interval_over_pairs_leaves_out_what_a_seed_brings(study: Study) -> None:
    """Every run of ours is a tenth of a seed's spread ahead: over all runs of both arms that is nothing."""
    levels = 10.0 * np.arange(6)
    runs = {
        ("flat", "SAC"): tuple(run(seed, level, level) for seed, level in enumerate(levels)),
        ("flat", "SAC + X"): tuple(run(seed, level + 1, level + 1) for seed, level in enumerate(levels)),
    }
    _, ours = task_results(replace(study, runs=runs))
    assert ours.same_seed is not None
    assert ours.same_seed.area_gain == Interval(1, 1, 1)
    assert ours.improvement is not None
    assert ours.improvement.low < 0.5 < ours.improvement.high


def test_aggregates_are_over_the_tasks_that_every_present_arm_has(study: Study) -> None:
    runs = {pair: value for pair, value in study.runs.items() if pair != ("hard", "SAC")}
    partial = replace(study, runs=runs)
    assert [task.label for task in partial.shared_tasks()] == ["flat"]
    plain, ours = arm_results(partial, task_results(partial))
    assert (plain.aggregates["mean"].value, ours.aggregates["mean"].value) == (50, 100)
    unmatched = [result for result in task_results(partial) if result.task == "hard"]
    assert [(result.arm, result.steps, result.improvement) for result in unmatched] == [("SAC + X", None, None)]


def test_an_arm_and_its_baseline_are_held_together_over_the_shared_tasks_only(study: Study) -> None:
    runs = {
        **study.runs,
        ("hard", "SAC + X"): (run(0, 0, 0, 0, -1), run(1, 0, 0, 0, -1)),  # worse than SAC's, and never at 50
        ("flat", "SAC + Y"): (run(0, 0, 0, 0, 0),),
    }
    third = replace(study, arms=(*study.arms, StudyArm("SAC + Y", "SAC")), runs=runs)
    _, ours, other = arm_results(third, task_results(third))
    assert ours.improvement == Interval(1, 1, 1)
    assert ours.steps == StepsOverTasks(0.5, at_most=False, reached=1, tasks=1)
    assert other.steps == StepsOverTasks(math.inf, at_most=False, reached=0, tasks=1)
    assert [(r.improvement.value, str(r.steps)) for r in task_results(third) if r.task == "hard" and r.improvement] == [
        (0, "neither")
    ]


def test_an_arm_without_runs_of_its_baseline_is_held_against_nothing(study: Study) -> None:
    alone = replace(study, runs={pair: runs for pair, runs in study.runs.items() if pair[1] != "SAC"})
    (ours,) = arm_results(alone, task_results(alone))
    assert (ours.aggregates["mean"].value, ours.improvement, ours.steps) == (pytest.approx(97.5), None, None)


@pytest.fixture
def copies() -> Study:
    """Three tasks of one robot: SAC's runs are the same under each, SAC + X's are not."""
    runs: dict[tuple[str, str], tuple[StudyRun, ...]] = {}
    plain = tuple(run(seed, 0, 10 * seed, 30 * seed) for seed in range(4))
    for task in "abc":
        runs |= {
            (task, "SAC"): plain,
            (task, "SAC + X"): tuple(run(seed, 0, 10 * seed, 30 * seed) for seed in range(4)),
        }
    tasks = tuple(StudyTask(label, ScoreRange(0, 100)) for label in "abc")
    return Study("copies", tasks, (StudyArm("SAC"), StudyArm("SAC + X", "SAC")), runs, final_evaluations=1)


def test_runs_that_tasks_share_are_one_sample(copies: Study) -> None:
    one = replace(copies, tasks=copies.tasks[:1])
    plain, ours = arm_results(copies, task_results(copies))
    alone, _ = arm_results(one, task_results(one))
    for name, shared in plain.aggregates.items():
        interval = alone.aggregates[name]
        assert [shared.low, shared.high] == pytest.approx([interval.low, interval.high]), name
    shared, distinct = plain.aggregates["mean"], ours.aggregates["mean"]
    assert (distinct.high - distinct.low) / (shared.high - shared.low) == pytest.approx(1 / math.sqrt(3), rel=0.1)
    assert "All 16 runs one after another" in legend(copies)[-1]  # each folder once: 4 of SAC, 12 of SAC + X


def test_runs_that_tasks_share_in_part_count_as_their_own(copies: Study) -> None:
    partly = {**copies.runs, ("c", "SAC"): (*copies.runs["c", "SAC"][:3], run(3, 0, 30, 90))}
    first, _, last = replace(copies, runs=partly).sources(copies.tasks, "SAC")
    assert len(set(first) & set(last)) == 3
    assert first != last


def test_pictures_redraw_shared_runs_together(copies: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    three, one = (drawn(study, monkeypatch, tmp_path) for study in (copies, replace(copies, tasks=copies.tasks[:1])))
    for name in ("sample_efficiency", "profiles"):
        shared, alone = (figures[name].axes[0].collections[0].get_paths()[0].vertices for figures in (three, one))
        np.testing.assert_allclose(shared, alone)


def drawn(study: Study, monkeypatch: pytest.MonkeyPatch, out: Path) -> dict[str, Any]:
    """The figures that a study's pictures are made of, by name, with few redrawings."""
    figures: dict[str, Any] = {}
    monkeypatch.setattr(study_plots, "save", lambda figure, path: figures.setdefault(path.stem, figure))
    with monkeypatch.context() as quick:
        for name in ("runs_curve", "aggregate_curve", "performance_profile"):
            quick.setattr(study_plots, name, partial(getattr(study_plots, name), resamples=20))
        study_plots.save_study_pictures(study, arm_results(study, task_results(study)), out)
    return figures


@pytest.mark.parametrize("count", [8, 14])
def test_arms_beyond_the_palette_look_different(count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arms = tuple(StudyArm(f"arm {index}") for index in range(count))
    runs = {("flat", arm.label): (run(0, 0, index), run(1, 0, index + 1)) for index, arm in enumerate(arms)}
    figures = drawn(Study("many", (StudyTask("flat", ScoreRange(0, 9)),), arms, runs), monkeypatch, tmp_path)
    for name in ("learning_curves", "sample_efficiency", "profiles"):
        curves = [(line.get_color(), line.get_linestyle()) for line in figures[name].axes[0].lines]
        legend = [(line.get_color(), line.get_linestyle()) for line in figures[name].legends[0].get_lines()]
        assert curves == legend
        assert len(set(curves)) == count
    bars = [(bar.get_facecolor(), bar.get_hatch()) for bar in figures["intervals"].axes[0].patches]
    assert len(set(bars)) == count


def test_a_study_is_written_as_markdown_csv_and_pictures(study: Study, tmp_path: Path) -> None:
    report = write_study(study, tmp_path / "out", notes=["3 of 4 runs are complete."])
    out = tmp_path / "out"
    text = (out / "report.md").read_text()
    assert "3 of 4 runs are complete." in text
    assert "| SAC + X | 4 | 100" in text
    assert "come before and are not in them; what is fitted during a run is: SynthER's refits" in text
    assert "All 8 runs one after another: 13 min 24 s, CPU 6 min 40 s." in text
    assert "evaluation is" not in text  # one of four is no more than a quarter
    for name in ("learning_curves", "sample_efficiency", "intervals", "profiles"):
        assert f"({name}.png)" in text
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert [float(row["score"]) for row in records(out / "runs.csv")] == [50, 50, 100, 100, 0, 0, 90, 100]
    assert [row["steps_ratio"] for row in records(out / "tasks.csv")] == ["", "0.5", "", "0.75"]
    assert [row["arm"] for row in records(out / "arms.csv")] == ["SAC", "SAC + X"]
    assert "SAC + X" in report.to_text()


def test_with_fewer_steps_the_ratio_is_to_what_the_baseline_has_by_then(study: Study) -> None:
    plain, ours, _, hard = task_results(study)
    assert plain.at_budgets == hard.at_budgets == ()  # a baseline; steps to a return that was given
    found = [(b.env_steps, b.steps.threshold, b.steps.ratio.value) for b in ours.at_budgets]
    assert found == [(1000, 0, 1), (2000, 1.5, 0.5), (3000, 2, pytest.approx(1 / 3))]
    assert [b.env_steps for b in task_results(replace(study, final_evaluations=3))[1].at_budgets] == [3000]


@pytest.mark.usefixtures("without_pictures")
def test_shorter_budgets_are_told_in_the_report_and_a_file(study: Study, tmp_path: Path) -> None:
    write_study(study, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| steps / baseline's by | 1,000 steps | 2,000 steps | 3,000 steps |" in text
    assert re.search(r"\| SAC \+ X \| 1\.00 \[.*\] \| 0\.50 \[.*\] \| 0\.33 \[.*\] \|", text)
    rows = records(tmp_path / "budgets.csv")
    assert [(row["task"], row["arm"], row["env_steps"]) for row in rows] == [
        ("flat", "SAC + X", "1000.0"),
        ("flat", "SAC + X", "2000.0"),
        ("flat", "SAC + X", "3000.0"),
    ]
    write_study(replace(study, final_evaluations=4), tmp_path)
    assert not (tmp_path / "budgets.csv").exists()
    assert "baseline's by" not in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("without_pictures")
def test_all_evaluations_are_in_a_file(study: Study, tmp_path: Path) -> None:
    write_study(study, tmp_path)
    rows = records(tmp_path / "curves.csv")
    assert list(rows[0]) == ["task", "arm", "seed", "env_steps", "eval_return"]
    assert len(rows) == 2 * 2 * 2 * 4  # tasks, arms, seeds, evaluations
    found = [(float(r["env_steps"]), float(r["eval_return"])) for r in rows if (r["task"], r["seed"]) == ("hard", "1")]
    assert found == [*((1000 * i, 0) for i in range(1, 5)), (1000, 0), (2000, 0), (3000, 50), (4000, 100)]


@pytest.mark.usefixtures("without_pictures")
def test_what_neither_arm_reaches_is_told_and_counts(study: Study, tmp_path: Path) -> None:
    third = StudyTask("far", ScoreRange(0, 100), threshold=99)
    runs = {**study.runs, ("far", "SAC"): (run(0, 1, 2),), ("far", "SAC + X"): (run(0, 2, 3),)}
    write_study(replace(study, tasks=(*study.tasks, third), runs=runs), tmp_path)
    text = (tmp_path / "report.md").read_text()
    over, task_by_task = text.split("## Task by task")
    assert "| ≤ 0.75 (2 of 3 tasks) |" in over
    assert [task_by_task.count(f"| {cell} |") for cell in ("neither", "≤ 0.75 [0.75, 0.75]")] == [1, 1]
    ratios = [(row["steps_ratio"], row["steps_ratio_at_most"]) for row in records(tmp_path / "tasks.csv")]
    assert ratios == [("", ""), ("0.5", "False"), ("", ""), ("0.75", "True"), ("", ""), ("inf", "True")]
    names = ("steps_ratio", "steps_ratio_at_most", "steps_tasks_reached", "steps_tasks")
    over_tasks = [tuple(row[name] for name in names) for row in records(tmp_path / "arms.csv")]
    assert over_tasks == [("", "", "", ""), ("0.75", "True", "2", "3")]


@pytest.mark.usefixtures("without_pictures")
def test_final_returns_over_much_of_a_run_are_told(study: Study, tmp_path: Path) -> None:
    runs = {
        ("flat", "SAC"): (run(0, *range(12)), run(1, *range(5))),  # the shortest counts
        ("flat", "SAC + X"): (run(0, *range(12)),),
        ("hard", "SAC"): (run(0, *range(12)),),
    }
    write_study(replace(study, runs=runs, final_evaluations=3), tmp_path)
    told = "The last 3 evaluations are 60 % of the runs of flat: what an arm ends with is an average over that part."
    assert told in (tmp_path / "report.md").read_text()
    write_study(replace(study, final_evaluations=9), tmp_path)
    told = "The last 9 evaluations are 100 % of the runs of flat, hard: "
    assert told in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("without_pictures")
def test_runs_of_unequal_length_and_arms_of_one_run_are_told(study: Study, tmp_path: Path) -> None:
    runs = {**study.runs, ("flat", "SAC + X"): (run(0, 5, 6),)}
    write_study(replace(study, runs=runs), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Mind that the runs of flat are of unequal length: 2,000 to 4,000 environment steps." in text
    assert "One run has no spread, so that its brackets say nothing: SAC + X on flat." in text
    write_study(replace(study, runs={pair: group[:1] for pair, group in study.runs.items()}), tmp_path)
    assert "its brackets say nothing: every arm on every task." in (tmp_path / "report.md").read_text()
    write_study(study, tmp_path)
    assert not re.search("Mind that|One run", (tmp_path / "report.md").read_text())


@pytest.mark.usefixtures("without_pictures")
def test_runs_that_began_with_different_fits_are_told(study: Study, tmp_path: Path) -> None:
    plain, ours = study.runs["flat", "SAC"], study.runs["hard", "SAC + X"]
    fitted = tuple(replace(run, diffuser=f"fit {run.seed}") for run in ours)
    write_study(replace(study, runs={("flat", "SAC"): plain, ("hard", "SAC + X"): fitted}), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "began with different fits of a diffuser: SAC + X on hard (2)." in text
    alike = tuple(replace(run, diffuser="one fit") for run in ours)
    write_study(replace(study, runs={("flat", "SAC"): plain, ("hard", "SAC + X"): alike}), tmp_path)
    assert "different fits" not in (tmp_path / "report.md").read_text()


def test_without_shared_tasks_there_are_tables_per_task_only(study: Study, tmp_path: Path) -> None:
    write_study(study, tmp_path)  # what it says over tasks must not stand beside the next report
    runs = {pair: study.runs[pair] for pair in (("flat", "SAC"), ("hard", "SAC + X"))}
    report = write_study(replace(study, runs=runs), tmp_path)
    assert report.arms == ()
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md",
        "tasks.csv",
        "runs.csv",
        "curves.csv",
        "learning_curves.png",
    }
    assert "flat" in report.to_text()
    with pytest.raises(ValueError, match="no finished run"):
        write_study(replace(study, runs={}), tmp_path / "none")


def test_runs_that_did_not_count_cpu_time_show_none(study: Study) -> None:
    runs = {**study.runs, ("flat", "SAC"): (run(0, 0, 1, cpu=None), run(1, 0, 1))}
    assert task_results(replace(study, runs=runs))[0].cost.cpu_seconds is None


def test_steps_ratio_never_and_neither() -> None:
    low, high = [curve(0, 0, 0, 1)], [curve(0, 5, 9, 9)]
    never = steps_ratio(low, high, final_evaluations=1)
    assert (never.ratio.value, never.at_most, never.reached, str(never)) == (math.inf, False, False, "never")
    neither = steps_ratio(low, low, threshold=100)
    assert (neither.ratio, neither.at_most, neither.reached) == (Interval(*[math.inf] * 3), True, False)
    assert str(neither) == "neither"
    half = steps_ratio(high, low, threshold=5)
    assert (half.ratio.value, half.at_most, half.reached) == (0.5, True, True)


def test_curves_that_begin_at_step_0_have_a_ratio() -> None:
    standing = [replace(curve(3, 3, 3), steps=np.array([0, 100, 200]))]
    rising = [replace(curve(0, 5, 9), steps=np.array([0, 100, 200]))]
    assert steps_ratio(rising, standing, final_evaluations=1).ratio.value == math.inf
    assert steps_ratio(standing, standing, final_evaluations=1).ratio.value == 1


def at(ratio: float, *, at_most: bool = False) -> StepsRatio:
    return StepsRatio(Interval(ratio, ratio, ratio), 1.0, at_most)


NEVER, NEITHER = at(math.inf), at(math.inf, at_most=True)


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        ([at(0.5), at(0.7)], "0.60"),
        ([at(0.5), at(0.7, at_most=True)], "≤ 0.60"),
        ([at(0.5), at(0.7), NEVER], "0.70 (2 of 3 tasks)"),
        ([at(0.5), at(0.7), NEITHER], "0.70 (2 of 3 tasks)"),
        ([NEITHER, at(0.5, at_most=True), at(0.7)], "≤ 0.70 (2 of 3 tasks)"),
        ([at(0.4), NEVER, at(0.8), at(0.6)], "0.70 (3 of 4 tasks)"),
        ([at(0.5, at_most=True), NEITHER], "never (1 of 2 tasks)"),
        ([NEVER, NEITHER, at(0.5)], "never (1 of 3 tasks)"),
        ([NEITHER, NEITHER], "never (0 of 2 tasks)"),
    ],
)
def test_steps_over_tasks_are_the_median_with_what_is_never_reached(ratios: list[StepsRatio], text: str) -> None:
    assert str(StepsOverTasks.of(ratios)) == text


def test_steps_ratio_interval_agrees_with_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    slow = [curve(*np.cumsum(rng.uniform(0, 1, 12))) for _ in range(5)]
    fast = [curve(*np.cumsum(rng.uniform(0.5, 2, 12))) for _ in range(5)]
    ours = steps_ratio(fast, slow, final_evaluations=1, seed=1, resamples=800)
    draws = []
    for _ in range(800):
        a, b = ([arm[i] for i in rng.integers(5, size=5)] for arm in (fast, slow))
        goal = np.sort([c.returns[-1] for c in b])[1:4].mean()
        first = [
            next((s for p, s in enumerate(c[0].steps) if np.sort([r.returns[p] for r in c])[1:4].mean() >= goal), 12e3)
            for c in (a, b)
        ]
        draws.append(first[0] / first[1])
    assert ours.ratio.low == pytest.approx(np.quantile(draws, 0.025), abs=0.1)
    assert ours.ratio.high == pytest.approx(np.quantile(draws, 0.975), abs=0.1)


def test_a_score_range_refuses_what_is_no_range() -> None:
    assert ScoreRange(-10, 30).score(np.array([-10.0, 10.0, 50.0])) == pytest.approx([0, 50, 150])
    with pytest.raises(ValueError, match=r"random 5\.0 and reference 5\.0"):
        ScoreRange(5.0, 5.0)
