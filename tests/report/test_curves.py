"""Reading and aligning metrics.csv files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atradiff.report.curves import RunCurve, align, read_run


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(text)
    return folder


def curve(steps: list[float], returns: list[float]) -> RunCurve:
    return RunCurve(np.array(steps), np.array(returns), np.zeros(len(steps)))


def test_columns_are_found_by_name_among_others(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, "loss,wall_seconds,env_steps,eval_return\n,1.5,0,-3\n0.1,4,100,7.25\n"))
    assert run.steps.tolist() == [0, 100]
    assert run.returns.tolist() == [-3, 7.25]
    assert run.wall_seconds.tolist() == [1.5, 4]
    assert run.final_return(1) == 7.25
    assert run.final_return(9) == pytest.approx(4.25 / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env_steps,eval_return\n0,1\n", "lacks the column.*wall_seconds"),
        ("env_steps,eval_return,wall_seconds\n", "no evaluation yet"),
        ("env_steps,eval_return,wall_seconds\n0,1,1\n5,nan,2\n", "line 3: eval_return is 'nan'"),
        ("env_steps,eval_return,wall_seconds\n0,1,1\n5,abc,2\n", "line 3: eval_return is 'abc'"),
        ("env_steps,eval_return,wall_seconds\n0,1,1\n5,2\n", "line 3: wall_seconds is None"),
        ("env_steps,eval_return,wall_seconds\n0,1,1\n5,2,2\n5,2,3\n", "line 4: env_steps must rise"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"metrics.csv.*{message}"):
        read_run(write(tmp_path, text))


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="evaluated at least once"):
        read_run(tmp_path)


def test_runs_are_compared_where_all_of_them_have_been() -> None:
    grid, returns = align([curve([0, 10, 20, 30], [0, 1, 2, 3]), curve([5, 15, 25], [50, 150, 250])])
    assert grid.tolist() == [5, 10, 15, 20, 25]
    np.testing.assert_allclose(returns, [[0.5, 1, 1.5, 2, 2.5], [50, 100, 150, 200, 250]])


def test_runs_without_common_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="one starts at 10 and another ends at 5"):
        align([curve([0, 5], [0, 0]), curve([10, 20], [0, 0])])
