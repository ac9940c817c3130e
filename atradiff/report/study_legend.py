"""What a reader of a study's report must know: what its figures and marks mean, and where they mislead."""

from __future__ import annotations

from atradiff.report.compare import duration
from atradiff.report.study import Study, StudyTask

_LARGE_SHARE = 0.25
"""Of a run's evaluations: beyond it the mean of the last ones is hardly what the run ends with."""


def warnings(study: Study) -> list[str]:
    """Lines on what misleads: final returns over much of a run, runs of unequal length, arms of one run or of several
    fits."""
    return [*_long_finals(study), *_unequal_lengths(study), *_single_runs(study), *_several_fits(study)]


def _long_finals(study: Study) -> list[str]:
    """A line on the tasks whose final returns cover more than a quarter of the shortest run; empty without any."""
    tasks: dict[str, list[str]] = {}  # by their share
    for task in study.tasks:
        if (share := _final_share(study, task)) > _LARGE_SHARE:
            tasks.setdefault(f"{100 * share:.0f} %", []).append(task.label)
    if not tasks:
        return []
    count = study.final_evaluations
    last = "evaluation is" if count == 1 else f"{count} evaluations are"
    parts = "; ".join(f"{share} of the runs of {', '.join(labels)}" for share, labels in tasks.items())
    return [f"The last {last} {parts}: what an arm ends with is an average over that part."]


def _unequal_lengths(study: Study) -> list[str]:
    """A line for each task whose runs end at different steps: their final returns are not of one moment."""
    lines = []
    for task in study.tasks:
        ends = [float(curve.steps[-1]) for curve in study.all_curves(task.label)]
        if ends and min(ends) < max(ends):
            lines.append(
                f"Mind that the runs of {task.label} are of unequal length: {min(ends):,.0f} to {max(ends):,.0f} "
                "environment steps."
            )
    return lines


def _single_runs(study: Study) -> list[str]:
    """A line on arms of which a task has one run alone; empty without any."""
    alone = [
        f"{arm.label} on {task.label}" for task, arm in study.pairs() if len(study.runs[task.label, arm.label]) < 2
    ]
    if not alone:
        return []
    named = "; ".join(alone) if len(alone) < len(study.pairs()) else "every arm on every task"
    return [f"One run has no spread, so that its brackets say nothing: {named}."]


def _several_fits(study: Study) -> list[str]:
    """A line on arms whose runs on a task began with different diffusers, as where one was deleted and fitted anew."""
    fits = {
        f"{arm.label} on {task.label}": len({run.diffuser for run in study.runs[task.label, arm.label]} - {None})
        for task, arm in study.pairs()
    }
    mixed = [f"{pair} ({count})" for pair, count in fits.items() if count > 1]
    return [f"Mind that runs of one arm began with different fits of a diffuser: {'; '.join(mixed)}."] if mixed else []


def _final_share(study: Study, task: StudyTask) -> float:
    """Share of the final return's evaluations in the shortest curve of ``task``; 0 where it has no run."""
    lengths = [len(curve.steps) for curve in study.all_curves(task.label)]
    return min(study.final_evaluations / min(lengths), 1.0) if lengths else 0.0


def legend(study: Study) -> list[str]:
    """Lines of Markdown on the figures and marks of the report's tables."""
    pairs = "; ".join(f"{arm.label} against {arm.baseline}" for arm in study.arms if arm.baseline is not None)
    ranges = "; ".join(f"{t.label} {t.scores.random:g} to {t.scores.reference:g}" for t in study.tasks)
    solved = "; ".join(f"{t.label} {t.threshold:g}" for t in study.tasks if t.threshold is not None)
    return [
        f"* Final return: mean of a run's last {study.final_evaluations} evaluations. Brackets: 95 % bootstrap "
        "intervals, runs redrawn within their task; tasks that share all of an arm's runs redraw them together. Per "
        "task: interquartile mean over runs; area: mean return along the way.",
        f"* Score: 0 and 100 are these returns: {ranges}. IQM: interquartile mean over all runs; median and mean: over "
        "tasks of a task's mean; optimality gap: what is missing to 100 (lower is better).",
        f"* Baselines: {pairs or 'none'}. P: chance that a run beats one of the baseline's on the same task.",
        "* Ahead, same seed: in how many pairs of runs of one seed, which meet the same first steps and starts of "
        "evaluation episodes, the arm's run is ahead of the baseline's. `tasks.csv` says by how much, with "
        "intervals over pairs (`final_gain`, `area_gain`).",
        "* Steps: environment steps to what the baseline ends with, divided by the baseline's own; below 1 is faster."
        + (f" Counted to the return that solves the task instead: {solved}." if solved else ""),
        "* Marks of steps: ≤: the baseline never got there and its whole length counts, so that the ratio is an upper "
        "bound; never: the baseline got there, the arm did not; neither: neither did; -: a baseline, or no runs of "
        "one. Over tasks, the median: never and neither count as infinite; in parentheses, on how many tasks the arm "
        "got there, where not on all; ≤: a bound is among them; never: not there on half of the tasks or more.",
        "* With fewer steps: steps / baseline's, had all runs ended there, to what the baseline has by then; a "
        "schedule over a run's steps is as it was.",
        "* Wall clock and CPU: medians per run, on whatever else the machine was doing. Data and the fit of a "
        "diffuser, which the runs share, come before and are not in them; what is fitted during a run is: SynthER's "
        f"refits, the adaptation of a diffuser. {_total(study)}",
    ]


def _total(study: Study) -> str:
    runs = {run.folder: run for group in study.runs.values() for run in group}.values()
    cpu = [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    text = f"All {len(runs)} runs one after another: {duration(sum(run.wall_seconds for run in runs))}"
    return text + (f", CPU {duration(sum(cpu))}." if len(cpu) == len(runs) else ".")
