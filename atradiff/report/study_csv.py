"""A study's figures for programs: one CSV file each for arms, tasks, runs and curves."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from atradiff.report.same_seed import Ahead
from atradiff.report.stats import Interval
from atradiff.report.steps_ratio import StepsOverTasks
from atradiff.report.study import ArmResult, Study, StudyRun, TaskResult
from atradiff.staging import staged_file

Row = Mapping[str, str | float | None]


def write_tables(study: Study, tasks: Sequence[TaskResult], arms: Sequence[ArmResult], out: Path) -> None:
    """Write ``tasks.csv``, ``runs.csv``, ``curves.csv`` and, unless they would be empty, ``arms.csv`` and
    ``budgets.csv`` into ``out``."""
    _write_csv(out / "tasks.csv", map(_task_record, tasks))
    _write_csv(out / "runs.csv", _run_records(study))
    _write_csv(out / "curves.csv", _curve_records(study))
    _write_or_remove(out / "budgets.csv", [record for result in tasks for record in _budget_records(result)])
    _write_or_remove(out / "arms.csv", [_arm_record(arm) for arm in arms])


def _task_record(result: TaskResult) -> Row:
    steps, pairs = result.steps, result.same_seed
    return {
        "task": result.task,
        "arm": result.arm,
        "runs": result.n_runs,
        **_ends("final_return", result.final_return),
        **_ends("score", result.score),
        **_ends("area", result.area),
        **_ends("improvement", result.improvement),
        **_ahead(None if pairs is None else pairs.ahead),
        **_ends("final_gain", None if pairs is None else pairs.final_gain),
        **_ends("area_gain", None if pairs is None else pairs.area_gain),
        **_ends("steps_ratio", None if steps is None else steps.ratio),
        "steps_ratio_at_most": None if steps is None else steps.at_most,
        "threshold": None if steps is None else steps.threshold,
        "wall_seconds": result.cost.wall_seconds,
        "cpu_seconds": result.cost.cpu_seconds,
    }


def _budget_records(result: TaskResult) -> Iterator[Row]:
    for budget in result.at_budgets:
        yield {
            "task": result.task,
            "arm": result.arm,
            "env_steps": budget.env_steps,
            **_ends("steps_ratio", budget.steps.ratio),
            "steps_ratio_at_most": budget.steps.at_most,
            "threshold": budget.steps.threshold,
        }


def _arm_record(arm: ArmResult) -> Row:
    record: dict[str, str | float | None] = {"arm": arm.arm, "runs": arm.n_runs}
    for name, interval in arm.aggregates.items():
        record |= _ends(name.replace(" ", "_"), interval)
    return {
        **record,
        **_ends("improvement", arm.improvement),
        **_ahead(arm.ahead),
        **_steps_over_tasks(arm.steps),
    }


def _ahead(ahead: Ahead | None) -> Row:
    return {
        "pairs": None if ahead is None else ahead.pairs,
        "pairs_final_ahead": None if ahead is None else ahead.final,
        "pairs_area_ahead": None if ahead is None else ahead.area,
    }


def _steps_over_tasks(steps: StepsOverTasks | None) -> Row:
    return {
        "steps_ratio": None if steps is None else steps.ratio,
        "steps_ratio_at_most": None if steps is None else steps.at_most,
        "steps_tasks_reached": None if steps is None else steps.reached,
        "steps_tasks": None if steps is None else steps.tasks,
    }


def _run_records(study: Study) -> Iterator[Row]:
    for task, arm in study.pairs():
        for run, score in zip(study.runs[task.label, arm.label], study.scores(task, arm.label), strict=True):
            yield {"task": task.label, "arm": arm.label, **_run_record(run, float(score), study.final_evaluations)}


def _run_record(run: StudyRun, score: float, final_evaluations: int) -> Row:
    curve = run.curve
    return {
        "seed": run.seed,
        "final_return": curve.final_return(final_evaluations),
        "score": score,
        "area": curve.area,
        "env_steps": float(curve.steps[-1]),
        "wall_seconds": run.wall_seconds,
        "cpu_seconds": run.cpu_seconds,
        "folder": run.folder,
    }


def _curve_records(study: Study) -> Iterator[Row]:
    for task, arm in study.pairs():
        for run in study.runs[task.label, arm.label]:
            names: Row = {"task": task.label, "arm": arm.label, "seed": run.seed}
            for steps, value in zip(run.curve.steps, run.curve.returns, strict=True):
                yield {**names, "env_steps": float(steps), "eval_return": float(value)}


def _ends(name: str, interval: Interval | None) -> dict[str, str | float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _write_or_remove(path: Path, rows: Sequence[Row]) -> None:
    """A file of an earlier report would pass for this one's."""
    if rows:
        _write_csv(path, rows)
    else:
        path.unlink(missing_ok=True)


def _write_csv(path: Path, records: Iterable[Row]) -> None:
    rows = list(records)
    with staged_file(path) as stage, stage.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
