"""The pictures of a study: each arm looks the same in all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atradiff.report.aggregate import AGGREGATES, aggregate_curve, iqm, performance_profile, runs_curve
from atradiff.report.curves import align
from atradiff.report.plots import STYLE, Look, new_figure, save
from atradiff.report.stats import Interval, Numbers
from atradiff.report.study import ArmResult, Study, StudyTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PICTURES = ("learning_curves", "sample_efficiency", "intervals", "profiles")
_MUTED = "#666666"
_POINTS = 101
"""Points of a curve over tasks of unequal length, and of a performance profile."""

_LEGEND_LINE, _LEGEND_LETTER = 0.6, 0.07
"""Inches of a legend's line with its gaps, and of a letter: a legend is not to leave its figure."""


def save_study_pictures(study: Study, arms: Sequence[ArmResult], out: Path) -> list[Path]:
    """Write the pictures into ``out`` and return their paths, in the order in which a report shows them.

    Without shared tasks (``arms`` is empty) there are learning curves only.
    """
    import matplotlib as mpl

    curves, *over_tasks = [out / f"{name}.png" for name in _PICTURES]
    with mpl.rc_context(STYLE):
        _learning_curves(study, curves)
        if arms:
            _sample_efficiency(study, over_tasks[0])
            _intervals(study, arms, over_tasks[1])
            _profiles(study, over_tasks[2])
            return [curves, *over_tasks]
    for picture in over_tasks:  # one of an earlier report would pass for this one's
        picture.unlink(missing_ok=True)
    return [curves]


def arm_looks(study: Study) -> dict[str, Look]:
    """A look for each arm of the study, present or not: it stays the same while runs come in."""
    return {arm.label: Look.of(index) for index, arm in enumerate(study.arms)}


def _learning_curves(study: Study, path: Path) -> None:
    """One panel per task: return against environment steps."""
    tasks = [task for task in study.tasks if any(label == task.label for label, _ in study.runs)]
    columns = min(len(tasks), 3 if len(tasks) != 4 else 2)
    rows = math.ceil(len(tasks) / columns)
    figure = new_figure(max(3.4 * columns, 6.0), 2.7 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, task in zip(panels, tasks, strict=False):
        _task_panel(ax, study, task)
    for ax in panels[len(tasks) :]:
        ax.set_visible(False)
    figure.supylabel("evaluation return", fontsize=10)
    figure.supxlabel("environment steps", fontsize=10)
    _legend_above(figure, study)
    save(figure, path)


def _task_panel(ax: Axes, study: Study, task: StudyTask) -> None:
    for arm, look in arm_looks(study).items():
        if curves := study.curves(task.label, arm):
            steps, returns = align(curves)
            _band(ax, steps, runs_curve(returns, seed=study.seed), look)
    if task.threshold is not None:
        ax.axhline(task.threshold, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    ax.set_title(task.label, fontsize=10)
    _count_steps(ax)


def _sample_efficiency(study: Study, path: Path) -> None:
    """Interquartile mean of the normalised score over the shared tasks, against steps."""
    tasks = study.shared_tasks()
    ends = {task.label: _shortest(study, task) for task in tasks}
    same = len(set(ends.values())) == 1
    figure = new_figure(6.4, 4.0)
    ax = figure.subplots()
    for arm, look in _present(study).items():
        shares, curves = _score_curves(study, tasks, arm, ends)
        x = shares * next(iter(ends.values())) if same else 100 * shares
        groups = study.sources(tasks, arm)
        _band(ax, x, aggregate_curve(curves, iqm, seed=study.seed, groups=groups), look)
    ax.set(ylabel="normalised score (IQM)")
    ax.set_xlabel("environment steps" if same else "share of a task's environment steps (%)")
    if same:
        _count_steps(ax)
    ax.margins(x=0.01)
    _legend_above(figure, study)
    save(figure, path)


def _score_curves(
    study: Study, tasks: Sequence[StudyTask], arm: str, ends: Mapping[str, float]
) -> tuple[Numbers, list[Numbers]]:
    """(P,) shares of the tasks' lengths that all runs of the arm cover, and the scores (R_t, P) there for each task."""
    aligned = {task.label: align(study.curves(task.label, arm)) for task in tasks}
    first = max(steps[0] / ends[label] for label, (steps, _) in aligned.items())
    shares = np.linspace(first, 1.0, _POINTS)
    curves = []
    for task in tasks:
        steps, returns = aligned[task.label]
        at = shares * ends[task.label]
        curves.append(task.scores.score(np.stack([np.interp(at, steps, run) for run in returns])))
    return shares, curves


def _shortest(study: Study, task: StudyTask) -> float:
    """The last step that every run of every arm on this task covers."""
    return min(float(curve.steps[-1]) for curve in study.all_curves(task.label))


def _intervals(study: Study, arms: Sequence[ArmResult], path: Path) -> None:
    """One row per arm: aggregates over the shared tasks and the chance to beat the baseline, with intervals."""
    against = [arm for arm in arms if arm.improvement is not None]
    titles = [*AGGREGATES, *(["P(better than baseline)"] if against else [])]
    figure = new_figure(2.0 + 2.0 * len(titles), 0.9 + 0.36 * len(arms))
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    looks = arm_looks(study)
    for ax, title in zip(panels, titles, strict=True):
        for row, arm in enumerate(arms):
            interval = arm.aggregates.get(title, arm.improvement)
            if interval is not None:
                _bar(ax, row, interval, looks[arm.arm])
        ax.set_title(f"{title} ↓" if title == "optimality gap" else title, fontsize=10)
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=4)
        ax.use_sticky_edges = False  # bars keep away from the panel's edges
        ax.margins(x=0.1)
    if against:
        panels[-1].axvline(0.5, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        panels[-1].set_xlim(-0.05, 1.05)
    panels[0].set_yticks(range(len(arms)), [arm.arm for arm in arms])
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    figure.supxlabel(f"normalised score, {_over(study)}; bars: 95 % bootstrap intervals", fontsize=9, color=_MUTED)
    save(figure, path)


def _bar(ax: Axes, row: int, interval: Interval, look: Look) -> None:
    color, ends = look.color, [row - 0.28, row + 0.28]
    (bar,) = ax.barh(row, max(interval.high - interval.low, 1e-9), left=interval.low, height=0.56, zorder=2)
    bar.set(facecolor=color, edgecolor=color, hatch=look.hatch, alpha=0.35, linewidth=0)
    ax.plot([interval.value] * 2, ends, color=color, linewidth=2.4, solid_capstyle="butt", zorder=3)


def _profiles(study: Study, path: Path) -> None:
    """Share of runs that score above each level: the higher the better, crossings show who wins where."""
    tasks = study.shared_tasks()
    scores = {arm: [study.scores(task, arm) for task in tasks] for arm in _present(study)}
    every = np.concatenate([values for arm in scores.values() for values in arm])
    levels = np.linspace(min(0.0, every.min()), max(every.max() * 1.02, 1.0), _POINTS)
    figure = new_figure(6.4, 4.0)
    ax = figure.subplots()
    for arm, look in _present(study).items():
        groups = study.sources(tasks, arm)
        _band(ax, levels, performance_profile(scores[arm], levels, seed=study.seed, groups=groups), look)
    ax.set(xlabel="normalised score τ", ylabel="share of runs with a score above τ", ylim=(-0.02, 1.02))
    ax.margins(x=0.01)
    _legend_above(figure, study)
    save(figure, path)


def _band(ax: Axes, x: Numbers, curve: tuple[Numbers, Numbers, Numbers], look: Look) -> None:
    middle, low, high = curve
    ax.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0, zorder=2)
    ax.plot(x, middle, **look.stroke(), linewidth=1.9, zorder=3)


def _legend_above(figure: Figure, study: Study) -> None:
    from matplotlib.lines import Line2D

    present = _present(study)
    handles = [Line2D([], [], **look.stroke(), linewidth=2.2, label=arm) for arm, look in present.items()]
    widest = _LEGEND_LINE + _LEGEND_LETTER * max(map(len, present))
    columns = min(max(int(figure.get_figwidth() / widest), 1), 4)
    lines = math.ceil(len(handles) / columns)
    figure.legend(handles=handles, loc="outside upper center", ncols=math.ceil(len(handles) / lines))


def _present(study: Study) -> dict[str, Look]:
    looks = arm_looks(study)
    return {arm.label: looks[arm.label] for arm in study.present_arms()}


def _count_steps(ax: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.locator_params(axis="x", nbins=5)
    ax.margins(x=0.01)


def _over(study: Study) -> str:
    count = len(study.shared_tasks())
    return "1 task" if count == 1 else f"{count} tasks"
