"""A study as files: ``report.md`` to read, CSV for programs, PNG to show."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atradiff.report.aggregate import AGGREGATES
from atradiff.report.compare import duration
from atradiff.report.stats import Interval, area_under_curve
from atradiff.report.study import ArmResult, Study, StudyRun, TaskResult, arm_results, task_results
from atradiff.report.study_plots import save_study_pictures
from atradiff.report.tables import Cells, aligned, markdown
from atradiff.staging import staged_file, write_text

Row = Mapping[str, str | float | None]

_TASK_HEADER = (
    "arm",
    "runs",
    "final return",
    "score",
    "area under curve",
    "P(better than baseline)",
    "steps / baseline's",
    "wall clock",
    "CPU",
)
_ARM_HEADER = ("arm", "runs", *AGGREGATES, "P(better than baseline)", "steps / baseline's")


@dataclass(frozen=True)
class StudyReport:
    """What a study came to, as tables."""

    study: Study
    tasks: tuple[TaskResult, ...]
    arms: tuple[ArmResult, ...]

    @classmethod
    def of(cls, study: Study) -> StudyReport:
        """Compute all tables of ``study``; those over tasks are empty where no task has runs of every arm."""
        tasks = task_results(study)
        return cls(study, tuple(tasks), tuple(arm_results(study, tasks)))

    def arm_cells(self) -> Cells:
        """Header and one row per arm over the shared tasks."""
        return [_ARM_HEADER, *[_arm_row(arm) for arm in self.arms]]

    def task_cells(self, task: str) -> Cells:
        """Header and one row per arm on ``task``."""
        return [_TASK_HEADER, *[_task_row(result) for result in self.tasks if result.task == task]]

    def to_text(self) -> str:
        """The aggregates for the terminal; the tasks' own tables where there are no shared tasks."""
        if self.arms:
            return aligned(self.arm_cells())
        labels = dict.fromkeys(result.task for result in self.tasks)
        return "\n\n".join(f"{label}\n{aligned(self.task_cells(label))}" for label in labels)


def write_study(study: Study, out: Path, *, notes: Sequence[str] = ()) -> StudyReport:
    """Write ``report.md``, ``arms.csv``, ``tasks.csv``, ``runs.csv`` and the pictures into ``out``.

    ``notes`` are lines for the head of the report: what is missing from it. Raises ``ValueError`` for a study without
    any finished run.
    """
    if not study.runs:
        raise ValueError("there is no finished run yet to report on.")
    report = StudyReport.of(study)
    pictures = save_study_pictures(study, report.arms, out)
    write_text(out / "report.md", _markdown(report, [path.name for path in pictures], notes))
    _write_csv(out / "tasks.csv", [_task_record(result) for result in report.tasks])
    _write_csv(out / "runs.csv", _run_records(study))
    if report.arms:
        _write_csv(out / "arms.csv", [_arm_record(arm) for arm in report.arms])
    return report


def _markdown(report: StudyReport, pictures: Sequence[str], notes: Sequence[str]) -> str:
    study = report.study
    curves, *others = [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    parts = [f"# {study.title}", *notes]
    if report.arms:
        shared = ", ".join(task.label for task in study.shared_tasks())
        parts += [
            f"## Over tasks\n\nTasks that every arm has finished runs of: {shared}.",
            markdown(report.arm_cells()),
        ]
        parts += others
    parts += ["## Task by task", curves]
    for task in study.tasks:
        if any(result.task == task.label for result in report.tasks):
            parts += [f"### {task.label}", markdown(report.task_cells(task.label))]
    return "\n\n".join([*parts, "## How to read this", *_legend(study)]) + "\n"


def _legend(study: Study) -> list[str]:
    pairs = "; ".join(f"{arm.label} against {arm.baseline}" for arm in study.arms if arm.baseline is not None)
    ranges = "; ".join(f"{t.label} {t.scores.random:g} to {t.scores.reference:g}" for t in study.tasks)
    solved = "; ".join(f"{t.label} {t.threshold:g}" for t in study.tasks if t.threshold is not None)
    return [
        f"* Final return: mean of a run's last {study.final_evaluations} evaluations. Brackets: 95 % bootstrap "
        "intervals, runs redrawn within their task. Per task: interquartile mean over runs; area: mean return along "
        "the way.",
        f"* Score: 0 and 100 are these returns: {ranges}. IQM: interquartile mean over all runs; median and mean: over "
        "tasks of a task's mean; optimality gap: what is missing to 100 (lower is better).",
        f"* Baselines: {pairs or 'none'}. P: chance that a run beats one of the baseline's on the same task.",
        "* Steps: environment steps to what the baseline ends with, divided by the baseline's own; below 1 is faster. "
        "≤: the baseline never got there, its whole length counts. Over tasks: the median."
        + (f" Counted to the return that solves the task instead: {solved}." if solved else ""),
        f"* Wall clock and CPU: medians per run, on whatever else the machine was doing. {_total(study)}",
    ]


def _total(study: Study) -> str:
    runs = {run.folder: run for group in study.runs.values() for run in group}.values()
    cpu = [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    text = f"All {len(runs)} runs one after another: {duration(sum(run.wall_seconds for run in runs))}"
    return text + (f", CPU {duration(sum(cpu))}." if len(cpu) == len(runs) else ".")


def _task_row(result: TaskResult) -> list[str]:
    cpu = result.cost.cpu_seconds
    return [
        result.arm,
        str(result.n_runs),
        *[str(interval) for interval in (result.final_return, result.score, result.area)],
        _interval(result.improvement),
        "-" if result.steps is None else str(result.steps),
        duration(result.cost.wall_seconds),
        "-" if cpu is None else duration(cpu),
    ]


def _arm_row(arm: ArmResult) -> list[str]:
    aggregates = [str(interval) for interval in arm.aggregates.values()]
    return [arm.arm, str(arm.n_runs), *aggregates, _interval(arm.improvement), _ratio(arm.steps_ratio)]


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return "never" if math.isinf(ratio) else f"{ratio:.2f}"


def _task_record(result: TaskResult) -> Row:
    steps = result.steps
    return {
        "task": result.task,
        "arm": result.arm,
        "runs": result.n_runs,
        **_ends("final_return", result.final_return),
        **_ends("score", result.score),
        **_ends("area", result.area),
        **_ends("improvement", result.improvement),
        **_ends("steps_ratio", None if steps is None else steps.ratio),
        "threshold": None if steps is None else steps.threshold,
        "wall_seconds": result.cost.wall_seconds,
        "cpu_seconds": result.cost.cpu_seconds,
    }


def _arm_record(arm: ArmResult) -> Row:
    record: dict[str, str | float | None] = {"arm": arm.arm, "runs": arm.n_runs}
    for name, interval in arm.aggregates.items():
        record |= _ends(name.replace(" ", "_"), interval)
    return {**record, **_ends("improvement", arm.improvement), "steps_ratio": arm.steps_ratio}


def _run_records(study: Study) -> list[Row]:
    pairs = [(task, arm) for task in study.tasks for arm in study.arms if (task.label, arm.label) in study.runs]
    return [
        {"task": task.label, "arm": arm.label, **_run_record(run, float(score), study.final_evaluations)}
        for task, arm in pairs
        for run, score in zip(study.runs[task.label, arm.label], study.scores(task, arm.label), strict=True)
    ]


def _run_record(run: StudyRun, score: float, final_evaluations: int) -> Row:
    curve = run.curve
    return {
        "seed": run.seed,
        "final_return": curve.final_return(final_evaluations),
        "score": score,
        "area": area_under_curve(curve.steps, curve.returns),
        "env_steps": float(curve.steps[-1]),
        "wall_seconds": run.wall_seconds,
        "cpu_seconds": run.cpu_seconds,
        "folder": run.folder,
    }


def _ends(name: str, interval: Interval | None) -> dict[str, str | float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with staged_file(path) as stage, stage.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
