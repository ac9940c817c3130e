"""A study over tasks: figures by hand, files on disk, arms that are missing."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atradiff.report.curves import RunCurve
from atradiff.report.steps_ratio import steps_ratio
from atradiff.report.study import ScoreRange, Study, StudyArm, StudyRun, StudyTask, arm_results, task_results
from atradiff.report.study_files import write_study


def curve(*returns: float) -> RunCurve:
    """An evaluation every 1,000 steps, the first one at 1,000."""
    steps = 1000.0 * np.arange(1, len(returns) + 1)
    return RunCurve(steps, np.array(returns, np.float64), steps / 10)


def run(seed: int, *returns: float, cpu: float | None = 50.0) -> StudyRun:
    return StudyRun(seed, f"runs/{seed}", curve(*returns), 100.0 + seed, cpu)


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
    assert ours.steps_ratio == pytest.approx((0.5 + 0.75) / 2)
    assert (plain.improvement, plain.steps_ratio, plain.n_runs) == (None, None, 4)


def test_aggregates_are_over_the_tasks_that_every_present_arm_has(study: Study) -> None:
    runs = {pair: value for pair, value in study.runs.items() if pair != ("hard", "SAC")}
    partial = replace(study, runs=runs)
    assert [task.label for task in partial.shared_tasks()] == ["flat"]
    plain, ours = arm_results(partial, task_results(partial))
    assert (plain.aggregates["mean"].value, ours.aggregates["mean"].value) == (50, 100)
    unmatched = [result for result in task_results(partial) if result.task == "hard"]
    assert [(result.arm, result.steps, result.improvement) for result in unmatched] == [("SAC + X", None, None)]


def test_a_study_is_written_as_markdown_csv_and_pictures(study: Study, tmp_path: Path) -> None:
    report = write_study(study, tmp_path / "out", notes=["3 of 4 runs are complete."])
    out = tmp_path / "out"
    text = (out / "report.md").read_text()
    assert "3 of 4 runs are complete." in text
    assert "| SAC + X | 4 | 100" in text
    assert "All 2 runs one after another: 3 min 21 s, CPU 1 min 40 s." in text  # the fixture names two folders
    for name in ("learning_curves", "sample_efficiency", "intervals", "profiles"):
        assert f"({name}.png)" in text
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (out / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [50, 50, 100, 100, 0, 0, 90, 100]
    with (out / "tasks.csv").open(newline="") as file:
        assert [row["steps_ratio"] for row in csv.DictReader(file)] == ["", "0.5", "", "0.75"]
    with (out / "arms.csv").open(newline="") as file:
        assert [row["arm"] for row in csv.DictReader(file)] == ["SAC", "SAC + X"]
    assert "SAC + X" in report.to_text()


def test_without_shared_tasks_there_are_tables_per_task_only(study: Study, tmp_path: Path) -> None:
    runs = {pair: study.runs[pair] for pair in (("flat", "SAC"), ("hard", "SAC + X"))}
    report = write_study(replace(study, runs=runs), tmp_path)
    assert report.arms == ()
    assert not (tmp_path / "intervals.png").exists()
    assert "flat" in report.to_text()
    with pytest.raises(ValueError, match="no finished run"):
        write_study(replace(study, runs={}), tmp_path / "none")


def test_runs_that_did_not_count_cpu_time_show_none(study: Study) -> None:
    runs = {**study.runs, ("flat", "SAC"): (run(0, 0, 1, cpu=None), run(1, 0, 1))}
    assert task_results(replace(study, runs=runs))[0].cost.cpu_seconds is None


def test_steps_ratio_never_and_neither() -> None:
    low, high = [curve(0, 0, 0, 1)], [curve(0, 5, 9, 9)]
    never = steps_ratio(low, high, final_evaluations=1)
    assert never is not None
    assert math.isinf(never.ratio.value)
    assert str(never) == "never"
    assert steps_ratio(low, low, threshold=100) is None
    half = steps_ratio(high, low, threshold=5)
    assert half is not None
    assert (half.ratio.value, half.at_most) == (0.5, True)


def test_steps_ratio_interval_agrees_with_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    slow = [curve(*np.cumsum(rng.uniform(0, 1, 12))) for _ in range(5)]
    fast = [curve(*np.cumsum(rng.uniform(0.5, 2, 12))) for _ in range(5)]
    ours = steps_ratio(fast, slow, final_evaluations=1, seed=1, resamples=800)
    assert ours is not None
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
