"""A study as files: ``report.md`` to read, beside CSV for programs and PNG to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atradiff.report.aggregate import AGGREGATES
from atradiff.report.compare import duration
from atradiff.report.same_seed import Ahead
from atradiff.report.stats import Interval
from atradiff.report.steps_ratio import StepsOverTasks, StepsRatio
from atradiff.report.study import ArmResult, Study, TaskResult, arm_results, task_results
from atradiff.report.study_csv import write_tables
from atradiff.report.study_legend import legend, warnings
from atradiff.report.study_plots import save_study_pictures
from atradiff.report.tables import Cells, aligned, markdown
from atradiff.staging import write_text

_TASK_HEADER = (
    "arm",
    "runs",
    "final return",
    "score",
    "area under curve",
    "P(better than baseline)",
    "ahead, same seed",
    "steps / baseline's",
    "wall clock",
    "CPU",
)
_ARM_HEADER = ("arm", "runs", *AGGREGATES, "P(better than baseline)", "ahead, same seed", "steps / baseline's")


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

    def budget_cells(self, task: str) -> Cells:
        """Header and one row per arm with a baseline on ``task``: steps ratios of shorter runs. Empty where there are
        none."""
        held = [result for result in self.tasks if result.task == task and result.at_budgets]
        if not held:
            return []
        header = ["steps / baseline's by", *[f"{budget.env_steps:,.0f} steps" for budget in held[0].at_budgets]]
        return [header, *[[result.arm, *[str(b.steps) for b in result.at_budgets]] for result in held]]

    def to_text(self) -> str:
        """The aggregates for the terminal; the tasks' own tables where there are no shared tasks."""
        if self.arms:
            return aligned(self.arm_cells())
        labels = dict.fromkeys(result.task for result in self.tasks)
        return "\n\n".join(f"{label}\n{aligned(self.task_cells(label))}" for label in labels)


def write_study(study: Study, out: Path, *, notes: Sequence[str] = ()) -> StudyReport:
    """Write ``report.md``, pictures, and ``arms``, ``tasks``, ``budgets``, ``runs`` and ``curves.csv`` into ``out``.

    The curves are all evaluations of all runs: with them and the score ranges every figure can be computed again.
    ``notes`` are lines for the head of the report: what is missing from it. Raises ``ValueError`` for a study without
    any finished run.
    """
    if not study.runs:
        raise ValueError("there is no finished run yet to report on.")
    report = StudyReport.of(study)
    pictures = save_study_pictures(study, report.arms, out)
    write_text(out / "report.md", _markdown(report, [path.name for path in pictures], notes))
    write_tables(study, report.tasks, report.arms, out)
    return report


def _markdown(report: StudyReport, pictures: Sequence[str], notes: Sequence[str]) -> str:
    study = report.study
    curves, *others = [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    parts = [f"# {study.title}", *notes, *warnings(study)]
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
            if by_budget := report.budget_cells(task.label):
                parts += ["With fewer steps:", markdown(by_budget)]
    return "\n\n".join([*parts, "## How to read this", *legend(study)]) + "\n"


def _task_row(result: TaskResult) -> list[str]:
    cpu = result.cost.cpu_seconds
    return [
        result.arm,
        str(result.n_runs),
        *[str(interval) for interval in (result.final_return, result.score, result.area)],
        _interval(result.improvement),
        _or_dash(None if result.same_seed is None else result.same_seed.ahead),
        _or_dash(result.steps),
        duration(result.cost.wall_seconds),
        "-" if cpu is None else duration(cpu),
    ]


def _arm_row(arm: ArmResult) -> list[str]:
    aggregates = [str(interval) for interval in arm.aggregates.values()]
    held = [_interval(arm.improvement), _or_dash(arm.ahead), _or_dash(arm.steps)]
    return [arm.arm, str(arm.n_runs), *aggregates, *held]


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _or_dash(figure: Ahead | StepsRatio | StepsOverTasks | None) -> str:
    return "-" if figure is None else str(figure)
