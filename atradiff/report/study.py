"""A comparison over tasks: its runs, and what they come to per task and over all tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atradiff.report.aggregate import AGGREGATES, aggregate_interval, improvement_interval, runs_interval
from atradiff.report.budgets import AtBudget, budgets, ratios_at
from atradiff.report.curves import RunCurve
from atradiff.report.same_seed import Ahead, SameSeed, same_seed
from atradiff.report.stats import Interval, Numbers
from atradiff.report.steps_ratio import StepsOverTasks, StepsRatio, steps_ratio


@dataclass(frozen=True)
class ScoreRange:
    """The returns that count as 0 and as 100: a random policy's and a reference's (an expert, a published result)."""

    random: float
    reference: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.random) and math.isfinite(self.reference) and self.random < self.reference):
            raise ValueError(
                f"a score needs a reference return above a random policy's, got random {self.random} and reference "
                f"{self.reference}."
            )

    def score(self, returns: Numbers) -> Numbers:
        """Returns of any shape as scores: 0 is a random policy, 100 the reference; neither is a bound."""
        return 100.0 * (returns - self.random) / (self.reference - self.random)


@dataclass(frozen=True)
class StudyTask:
    """``threshold`` is the return that counts as solved; None: what the baseline ends with."""

    label: str
    scores: ScoreRange
    threshold: float | None = None


@dataclass(frozen=True)
class StudyArm:
    """``baseline`` is the label of the arm that this one is held against; None for a baseline itself."""

    label: str
    baseline: str | None = None


@dataclass(frozen=True)
class StudyRun:
    """One finished run. ``folder``: below the report's own; ``cpu_seconds``: None where the run did not count them;
    ``diffuser``: what tells the fit that it began with from any other."""

    seed: int
    folder: str
    curve: RunCurve
    wall_seconds: float
    cpu_seconds: float | None = None
    diffuser: str | None = None


@dataclass(frozen=True)
class Study:
    """Finished runs by (task, arm) labels; a pair without any is absent."""

    title: str
    tasks: tuple[StudyTask, ...]
    arms: tuple[StudyArm, ...]
    runs: Mapping[tuple[str, str], tuple[StudyRun, ...]]
    final_evaluations: int = 3
    seed: int = 0

    def curves(self, task: str, arm: str) -> list[RunCurve]:
        """The curves of all finished runs of a pair; empty where there is none."""
        return [run.curve for run in self.runs.get((task, arm), ())]

    def all_curves(self, task: str) -> list[RunCurve]:
        """Those of every arm on ``task``."""
        return [curve for arm in self.arms for curve in self.curves(task, arm.label)]

    def by_seed(self, task: str, arm: str) -> dict[int, RunCurve]:
        """The same, by the seeds of the runs."""
        return {run.seed: run.curve for run in self.runs.get((task, arm), ())}

    def scores(self, task: StudyTask, arm: str) -> Numbers:
        """(R,) normalised final returns."""
        return task.scores.score(
            np.array([c.final_return(self.final_evaluations) for c in self.curves(task.label, arm)])
        )

    def sources(self, tasks: Sequence[StudyTask], arm: str) -> list[tuple[str, ...]]:
        """The folders of an arm's runs per task, in their order: equal ones are the same runs under several tasks."""
        return [tuple(run.folder for run in self.runs[task.label, arm]) for task in tasks]

    def pairs(self) -> list[tuple[StudyTask, StudyArm]]:
        """Every task and arm with at least one finished run, in the order of the study."""
        return [(task, arm) for task in self.tasks for arm in self.arms if (task.label, arm.label) in self.runs]

    def present_arms(self) -> list[StudyArm]:
        """The arms with at least one finished run on any task."""
        return [arm for arm in self.arms if any(label == arm.label for _, label in self.runs)]

    def shared_tasks(self) -> list[StudyTask]:
        """The tasks that a fair aggregate is over: those on which every present arm has a finished run."""
        arms = [arm.label for arm in self.present_arms()]
        return [task for task in self.tasks if all((task.label, arm) in self.runs for arm in arms)]


@dataclass(frozen=True)
class Cost:
    """Seconds per run (medians); CPU seconds are None where not every run counted them."""

    wall_seconds: float
    cpu_seconds: float | None

    @classmethod
    def of(cls, runs: Sequence[StudyRun]) -> Cost:
        """The medians over ``runs``, of which there must be one at least."""
        cpu = [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
        return cls(
            float(np.median([run.wall_seconds for run in runs])),
            float(np.median(cpu)) if len(cpu) == len(runs) else None,
        )


@dataclass(frozen=True)
class TaskResult:
    """One arm on one task. Intervals are over runs. What holds it against a baseline is None, or empty, without runs of
    one; ``same_seed`` also where no seed is in both, ``at_budgets`` where steps are counted to a given return."""

    task: str
    arm: str
    n_runs: int
    final_return: Interval
    score: Interval
    area: Interval
    cost: Cost
    improvement: Interval | None
    steps: StepsRatio | None
    same_seed: SameSeed | None
    at_budgets: tuple[AtBudget, ...]


@dataclass(frozen=True)
class ArmResult:
    """One arm over the shared tasks: aggregates by name. The last three are None without runs of a baseline, the last
    also where no seed is in both."""

    arm: str
    n_runs: int
    aggregates: Mapping[str, Interval]
    improvement: Interval | None
    steps: StepsOverTasks | None
    ahead: Ahead | None


def task_results(study: Study) -> list[TaskResult]:
    """Every arm on every task where it has a finished run, in the order of the study."""
    return [_task_result(study, task, arm) for task, arm in study.pairs()]


def _task_result(study: Study, task: StudyTask, arm: StudyArm) -> TaskResult:
    runs = study.runs[task.label, arm.label]
    curves = [run.curve for run in runs]
    against = arm.baseline if arm.baseline is not None and (task.label, arm.baseline) in study.runs else None
    scores = study.scores(task, arm.label)
    return TaskResult(
        task=task.label,
        arm=arm.label,
        n_runs=len(runs),
        final_return=runs_interval([c.final_return(study.final_evaluations) for c in curves], seed=study.seed),
        score=runs_interval(scores, seed=study.seed),
        area=runs_interval([c.area for c in curves], seed=study.seed),
        cost=Cost.of(runs),
        improvement=None
        if against is None
        else improvement_interval([scores], [study.scores(task, against)], seed=study.seed),
        steps=None
        if against is None
        else steps_ratio(
            curves,
            study.curves(task.label, against),
            threshold=task.threshold,
            final_evaluations=study.final_evaluations,
            seed=study.seed,
        ),
        same_seed=None
        if against is None
        else same_seed(
            study.by_seed(task.label, arm.label),
            study.by_seed(task.label, against),
            study.final_evaluations,
            seed=study.seed,
        ),
        at_budgets=()
        if against is None or task.threshold is not None
        else ratios_at(
            budgets(study.all_curves(task.label), study.final_evaluations),
            curves,
            study.curves(task.label, against),
            study.final_evaluations,
            study.seed,
        ),
    )


def arm_results(study: Study, results: Sequence[TaskResult]) -> list[ArmResult]:
    """Every present arm over the shared tasks; empty where no task has a finished run of every arm."""
    tasks = study.shared_tasks()
    return [_arm_result(study, arm, tasks, results) for arm in study.present_arms()] if tasks else []


def _arm_result(study: Study, arm: StudyArm, tasks: Sequence[StudyTask], results: Sequence[TaskResult]) -> ArmResult:
    labels = [task.label for task in tasks]
    scores = [study.scores(task, arm.label) for task in tasks]
    groups = study.sources(tasks, arm.label)
    own = [result for result in results if result.arm == arm.label and result.task in labels]
    ratios = [result.steps for result in own if result.steps is not None]
    ahead = [result.same_seed.ahead for result in own if result.same_seed is not None]
    return ArmResult(
        arm=arm.label,
        n_runs=sum(map(len, scores)),
        aggregates={
            name: aggregate_interval(scores, use, seed=study.seed, groups=groups) for name, use in AGGREGATES.items()
        },
        improvement=_improvement(study, arm, tasks),
        steps=StepsOverTasks.of(ratios) if ratios else None,
        ahead=Ahead.over(ahead) if ahead else None,
    )


def _improvement(study: Study, arm: StudyArm, tasks: Sequence[StudyTask]) -> Interval | None:
    baseline = arm.baseline
    if baseline is None or any((task.label, baseline) not in study.runs for task in tasks):
        return None
    return improvement_interval(
        [study.scores(task, arm.label) for task in tasks],
        [study.scores(task, baseline) for task in tasks],
        seed=study.seed,
        our_groups=study.sources(tasks, arm.label),
        their_groups=study.sources(tasks, baseline),
    )
