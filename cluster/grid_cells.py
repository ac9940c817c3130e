"""From a grid to its cells: every run is built and checked before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from atradiff.data.scores import find_task, has_score
from atradiff.report.study import ScoreRange, StudyArm, StudyTask
from cluster.cells import Cell, require_one_process, share_runs, with_runs_kept
from cluster.config import RunConfig, instantiated, run_parser
from cluster.config_errors import plain, require_known
from cluster.grid import Grid, Settings, arm_name, slug
from cluster.layers import merged

_RUN_SETTINGS = frozenset(field.name for field in fields(RunConfig))


def grid_folder(grid: Grid) -> Path:
    """Tables and pictures of the grid; its runs are kept below ``runs`` in it."""
    return Path(grid.output).absolute() / grid.name


def grid_cells(grid: Grid) -> list[Cell]:
    """Every cell that is not excluded, seed by seed, so that all arms are there early.

    Cells with the same recipe share one run, also one that an earlier form of the grid has begun. Raises
    ``ValueError`` naming the cell for settings that no run can have, and for a grid of which nothing is left.
    """
    parser = run_parser("atradiff compare", None)
    cells = [
        Cell(task, arm_name(algorithm, augmentation), _run(grid, parser, task, algorithm, augmentation))
        for task in grid.tasks
        for algorithm in grid.algorithms
        for augmentation in grid.augmentations
        if not grid.excluded(task, algorithm, augmentation)
    ]
    if not cells:
        raise ValueError(f"exclude leaves no cell of {grid.name}.")
    seeded = share_runs(replace(cell, run=replace(cell.run, seed=seed)) for seed in grid.seeds for cell in cells)
    return with_runs_kept(seeded, grid_folder(grid) / "runs")


def study_tasks(grid: Grid, cells: Sequence[Cell]) -> tuple[StudyTask, ...]:
    """The tasks as the report needs them; raises ``ValueError`` for one whose score has no reference returns."""
    runs = {cell.task: cell.run for cell in cells}
    return tuple(
        StudyTask(label, task.scores or _d4rl_range(label, runs[label].env), runs[label].evaluation.solved_at)
        for label, task in grid.tasks.items()
        if label in runs
    )


def study_arms(grid: Grid) -> tuple[StudyArm, ...]:
    """All arms of the grid, each with what it is held against."""
    return tuple(StudyArm(arm, grid.baseline_of(arm)) for arm in grid.arms())


def _run(grid: Grid, parser: ArgumentParser, task: str, algorithm: str, augmentation: str) -> RunConfig:
    on_task = grid.tasks[task].algorithms.get(algorithm, {})
    settings = merged(
        grid.tasks[task].settings,
        _of_the_run(grid.algorithms[algorithm]),
        _of_the_run(on_task),
        grid.augmentations[augmentation],
        {
            "name": str(Path(slug(task), slug(algorithm), slug(augmentation))),
            "output": str(grid_folder(grid) / "runs"),
            "seed": grid.seeds[0],
        },
    )
    try:
        require_known(settings, RunConfig)
        run = _parsed(parser, settings).absolute()
        require_one_process(run)
        run.require_data()
    except (ArgumentError, OSError, ValueError) as error:
        raise ValueError(f"{grid.name}: {task}, {arm_name(algorithm, augmentation)}: {plain(str(error))}") from error
    return run


def _of_the_run(settings: Settings) -> dict[str, Any]:
    """An algorithm's settings as a run's: names that are no setting of a run are below ``algorithm``."""
    own = {key: value for key, value in settings.items() if key in _RUN_SETTINGS}
    return merged(own, {"algorithm": {key: value for key, value in settings.items() if key not in own}})


def _parsed(parser: ArgumentParser, settings: dict[str, Any]) -> RunConfig:
    values = vars(instantiated(parser, parser.parse_object(settings, defaults=False)))
    return RunConfig(**{name: values[name] for name in _RUN_SETTINGS})


def _d4rl_range(label: str, env: str) -> ScoreRange:
    task = find_task(env) if has_score(env) else None
    if task is None or task.random_return is None or task.expert_return is None:
        raise ValueError(
            f"tasks.{label}: D4RL has no reference returns for {env}: give score: {{random: RETURN, reference: "
            "RETURN}, a random policy's return and the one that shall count as 100."
        )
    return ScoreRange(task.random_return, task.expert_return)
