"""Checkpoints appear whole or not at all, and the curve is cut back to the checkpoint it goes on from."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cluster.run_folder import MetricsFile, RunFolder


def write_marker(folder: Path) -> None:
    (folder / "weights").write_text("w")


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (100, 900, 1000, 20_000):
        run.write_checkpoint(step, write_marker, {"env_steps": step}, keep=2)
    assert [run.checkpoint_state(c)["env_steps"] for c in sorted(run.checkpoints.iterdir())] == [1000, 20_000]
    latest = run.latest_checkpoint()
    assert latest is not None
    assert run.checkpoint_state(latest) == {"env_steps": 20_000}
    assert (latest / "weights").read_text() == "w"


def test_a_checkpoint_that_failed_half_way_is_not_seen(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_checkpoint(100, write_marker, {"env_steps": 100}, keep=2)

    def fail(folder: Path) -> None:
        write_marker(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.write_checkpoint(200, fail, {"env_steps": 200}, keep=1)
    latest = run.latest_checkpoint()
    assert latest is not None
    assert run.checkpoint_state(latest) == {"env_steps": 100}


def test_an_abandoned_future_is_dropped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (100, 200, 300):
        run.write_checkpoint(step, write_marker, {"env_steps": step}, keep=3)
    run.drop_checkpoints_after(100)
    latest = run.latest_checkpoint()
    assert latest is not None
    assert run.checkpoint_state(latest)["env_steps"] == 100


def test_a_run_is_found_from_its_folder_and_from_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    checkpoint = run.write_checkpoint(5, write_marker, {"env_steps": 5}, keep=1)
    run.config.write_text("env: x")
    assert RunFolder.of(run.path).path == run.path
    assert RunFolder.of(checkpoint).path == run.path
    with pytest.raises(ValueError, match="neither a run folder nor a checkpoint"):
        RunFolder.of(tmp_path)
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        RunFolder.checkpoint_state(run.path)
    (checkpoint / "checkpoint.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        RunFolder.checkpoint_state(checkpoint)


def test_progress_is_told_across_processes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.progress() == 0
    run.tell_progress(450)
    assert RunFolder(tmp_path).progress() == 450


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    for step in (100, 200, 300):
        metrics.append({"env_steps": step, "eval_return": -step / 2, "gap": None})
    metrics.keep_until(200)
    metrics.append({"env_steps": 250, "eval_return": 1.0, "gap": None})
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["env_steps", "eval_return", "gap"],
        ["100", "-50.0", ""],
        ["200", "-100.0", ""],
        ["250", "1.0", ""],
    ]


def test_a_row_of_other_columns_is_refused(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.append({"env_steps": 1, "eval_return": 0.0})
    with pytest.raises(ValueError, match="eval_length"):
        metrics.append({"env_steps": 2, "eval_length": 0.0})
