"""The curve is cut back to the checkpoint it goes on from; progress crosses processes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cluster.run_folder import MetricsFile, RunFolder


def test_progress_is_told_across_processes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.progress() == 0
    run.tell_progress(450)
    assert RunFolder(tmp_path).progress() == 450


def test_rows_after_the_checkpoint_are_dropped_and_columns_are_todays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    for step in (100, 200, 300):
        metrics.append({"env_steps": step, "eval_return": -step / 2, "gap": None})
    metrics.keep_until(200, ["env_steps", "new", "eval_return"])
    metrics.append({"env_steps": 250, "new": 3, "eval_return": 1.0})
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["env_steps", "new", "eval_return"],
        ["100", "", "-50.0"],
        ["200", "", "-100.0"],
        ["250", "3", "1.0"],
    ]


def test_the_newest_value_of_a_column_is_found_where_there_is_one(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    assert metrics.newest("eval_return") is None
    for step in (100, 200):
        metrics.append({"env_steps": step, "eval_return": -step / 2, "gap": None})
    assert [metrics.newest(name) for name in ("eval_return", "gap", "new")] == [-100.0, None, None]


def test_a_row_of_other_columns_is_refused(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.append({"env_steps": 1, "eval_return": 0.0})
    with pytest.raises(ValueError, match="eval_length"):
        metrics.append({"env_steps": 2, "eval_length": 0.0})


def test_a_second_row_of_the_last_step_takes_the_place_of_the_first(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for step, value in ((0, 0.0), (0, 0.5), (100, 1.0), (200, 2.0), (200, 3.0)):
        metrics.append({"env_steps": step, "eval_return": value})
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["0", "0.5"], ["100", "1.0"], ["200", "3.0"]]
