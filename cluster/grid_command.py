"""``atradiff compare GRID.yaml``: what it prints and how it ends."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from cluster.compare import GridComparison, checked_cells, compare_grid, report_grid
from cluster.grid import Grid
from cluster.grid_file import load_grid
from cluster.grid_plan import plan_text

_DESCRIPTION = """Run a grid of tasks, algorithms, augmentations and seeds, and compare them (docs/comparing.md).

The same command goes on where it was stopped; what is complete is not run again."""


def run_grid_command(arguments: list[str]) -> None:
    """Parse ``GRID.yaml [--dry_run] [--report_only]`` and do it; ends the program with 1 where cells failed."""
    parser = ArgumentParser(prog="atradiff compare GRID.yaml", description=_DESCRIPTION)
    parser.add_argument("grid", type=Path, help="YAML file of the grid")
    parser.add_argument("--dry_run", action="store_true", help="only say what would run, and about how long")
    parser.add_argument("--report_only", action="store_true", help="only write the report of what is complete")
    parser.add_argument("--seeds", type=list[int] | None, default=None, help="these instead of the grid's")
    parser.add_argument("--output", type=str | None, default=None, help="this folder instead of the grid's")
    words = parser.parse_args(arguments)
    changes = {key: value for key, value in (("seeds", words.seeds), ("output", words.output)) if value is not None}
    grid = load_grid(words.grid, **changes)
    if words.dry_run:
        print(plan_text(grid, checked_cells(grid)))
    elif words.report_only:
        _tell(report_grid(grid, checked_cells(grid)))
    else:
        _run(grid)


def _run(grid: Grid) -> None:
    try:
        comparison = compare_grid(grid)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoints", file=sys.stderr)
        sys.exit(130)
    _tell(comparison)


def _tell(comparison: GridComparison) -> None:
    if comparison.report is None:
        print("no run is complete yet", file=sys.stderr)
    else:
        print(f"\n{comparison.report.to_text()}\n")
        print(f"report       {comparison.folder / 'report.md'}")
    for failure in comparison.failures:
        print(f"failed       {failure.cell.title}: {failure.error}", file=sys.stderr)
    if comparison.failures:
        print(f"{len(comparison.failures)} cells failed; the same command runs what is not complete", file=sys.stderr)
        sys.exit(1)
