"""Comparisons: one config with and without imagined trajectories, or a whole grid of runs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from atradiff.report.compare import ComparisonTable, compare_runs
from atradiff.report.curves import read_run
from atradiff.report.study import Study, StudyRun
from atradiff.report.study_files import StudyReport, write_study
from cluster.cell_runner import Failure, prepare_cells, train_cells
from cluster.cells import Cell, distinct_runs, require_one_process, require_reserved_gpu, require_same_runs
from cluster.config import RunConfig
from cluster.grid import Grid
from cluster.grid_cells import grid_cells, grid_folder, study_arms, study_tasks
from cluster.prepare import check_environment, prepare_diffuser, require_model
from cluster.storage import is_uri

ARMS: dict[Literal["none", "atradiff"], str] = {"none": "without", "atradiff": "with ATraDiff"}


@dataclass(frozen=True)
class Comparison:
    """Where the runs are and what they came to."""

    folder: Path
    table: ComparisonTable


@dataclass(frozen=True)
class GridComparison:
    """What a grid came to; without any finished run there is no report."""

    folder: Path
    report: StudyReport | None
    failures: tuple[Failure, ...]


def compare(run: RunConfig, seeds: Sequence[int]) -> Comparison:
    """Train every arm with every seed, as many at once as there are CPUs, and write the comparison.

    Data and diffuser are made once, before the first run: every seed is augmented by the same diffuser. Runs that are
    complete are not repeated, interrupted ones go on from their last checkpoint.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"compare needs at least one seed and each only once, got {list(seeds)}.")
    if run.augmentation not in ARMS:
        raise ValueError(
            f"compare holds {' against '.join(ARMS)} for a config, got augmentation: {run.augmentation}. Compare that "
            "one by a grid, with an augmentation of its own beside them: docs/comparing.md shows how."
        )
    _require_folder(run.output)
    require_one_process(run)
    require_reserved_gpu(run, 0.0)
    run = replace(run, augmentation="atradiff").absolute()
    run.require_data()
    spaces = check_environment(run)
    require_model(run, spaces)
    run = replace(run, generator=replace(run.generator, path=str(prepare_diffuser(run, spaces))))
    cells = [Cell(run.env, ARMS[arm], replace(run, augmentation=arm, seed=seed)) for seed in seeds for arm in ARMS]
    require_same_runs(cells)
    if failures := train_cells(cells):
        raise ValueError("\n".join(f"{failure.cell.title}: {failure.error}" for failure in failures))
    folder = Path(run.output) / run.name
    arms = {label: [c.run.folder for c in cells if c.arm == label] for label in ARMS.values()}
    title = f"{run.env}, {len(seeds)} seeds"
    return Comparison(folder, compare_runs(arms, folder, threshold=run.evaluation.solved_at, title=title))


def compare_grid(grid: Grid) -> GridComparison:
    """Run every cell of ``grid`` that is not complete, then write tables and pictures of all that are.

    Every cell is built and checked before anything runs. A cell that fails leaves the others alone; the report says
    what is missing. The same call goes on where the last one stopped, and runs failed cells again.
    """
    cells = checked_cells(grid)
    cells, failures = prepare_cells(cells, grid.gpus_per_cell)
    require_same_runs(distinct_runs(cells))
    hopeless = {failure.cell.run.folder for failure in failures}
    failures += train_cells([cell for cell in cells if cell.run.folder not in hopeless], grid.gpus_per_cell)
    return report_grid(grid, cells, failures)


def checked_cells(grid: Grid) -> list[Cell]:
    """The grid's cells; raises ``ValueError`` for all that would keep one of them from running or counting."""
    _require_folder(grid.output)
    cells = grid_cells(grid)
    study_tasks(grid, cells)
    require_same_runs(distinct_runs(cells))
    spaces = {run.env: check_environment(run) for run in {cell.run.env: cell.run for cell in cells}.values()}
    for cell in cells:
        try:
            require_reserved_gpu(cell.run, grid.gpus_per_cell)
            require_model(cell.run, spaces[cell.run.env])
        except (OSError, ValueError) as error:
            raise ValueError(f"{grid.name}: {cell.title}: {error}") from error
    return cells


def report_grid(grid: Grid, cells: Sequence[Cell], failures: Sequence[Failure] = ()) -> GridComparison:
    """Write what the complete cells came to beside the runs; those that cannot be read join the failures."""
    folder = grid_folder(grid)
    runs, unreadable = _finished_runs(cells, folder)
    failures = (*failures, *unreadable)
    study = Study(
        title=grid.title or grid.name,
        tasks=study_tasks(grid, cells),
        arms=study_arms(grid),
        runs=runs,
        final_evaluations=grid.final_evaluations,
    )
    report = write_study(study, folder, notes=_notes(grid, cells, failures)) if runs else None
    return GridComparison(folder, report, failures)


def _finished_runs(
    cells: Sequence[Cell], out: Path
) -> tuple[dict[tuple[str, str], tuple[StudyRun, ...]], list[Failure]]:
    """The complete runs by task and arm, and the complete cells whose files cannot be read."""
    runs: dict[tuple[str, str], tuple[StudyRun, ...]] = {}
    unreadable = []
    for cell in cells:
        if cell.folder.complete:
            pair = (cell.task, cell.arm)
            try:
                runs[pair] = (*runs.get(pair, ()), _finished_run(cell, out))
            except (OSError, ValueError, csv.Error) as error:
                remedy = f"Or delete {cell.folder.path}: the next call then runs it again."
                unreadable.append(Failure(cell, f"{str(error).rstrip('.')}. {remedy}"))
    return runs, unreadable


def _finished_run(cell: Cell, out: Path) -> StudyRun:
    """A complete cell's run, which is kept below ``out``; ``OSError`` or ``ValueError`` where it cannot be read."""
    cost, folder = cell.folder.cost(), cell.folder.path
    return StudyRun(
        seed=cell.run.seed,
        folder=folder.relative_to(out).as_posix(),
        curve=read_run(folder),
        wall_seconds=cost.wall_seconds,
        cpu_seconds=cost.cpu_seconds,
        diffuser=cell.folder.began_with(),
    )


def _notes(grid: Grid, cells: Sequence[Cell], failures: Sequence[Failure]) -> list[str]:
    """What a reader must know first: of which seeds this is, how much of the grid is there, and what failed."""
    runs = distinct_runs(cells)
    complete = sum(cell.folder.complete for cell in runs)
    notes = [f"Seeds: {', '.join(map(str, grid.seeds))}."]
    if others := _runs_of_other_seeds(grid):
        notes.append(f"{others} complete runs of other seeds are kept here and are not in this report.")
    if complete < len(runs):
        notes.append(f"{complete} of {len(runs)} runs are complete.")
    return [" ".join(notes), *[f"* Failed: {failure.cell.title}: {failure.error}" for failure in failures]]


def _runs_of_other_seeds(grid: Grid) -> int:
    """Complete runs that an earlier call has left, with ``--seeds`` of its own."""
    asked = {f"seed_{seed}" for seed in grid.seeds}
    folders = {file.parent for file in (grid_folder(grid) / "runs").glob("*/*/*/*/seed_*/summary.json")}
    return sum(folder.name not in asked for folder in folders)


def _require_folder(output: str) -> None:
    if is_uri(output):
        raise ValueError(f"compare reads its runs from a folder of this machine, got output {output}.")
