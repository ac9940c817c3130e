"""Comparison of arms: figures by hand, files on disk."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from atradiff.report.compare import compare_runs


def run(folder: Path, returns: list[float], seconds_per_row: float = 60) -> Path:
    folder.mkdir(parents=True)
    rows = [f"{1000 * i},{value},{seconds_per_row * i}" for i, value in enumerate(returns)]
    (folder / "metrics.csv").write_text("\n".join(["env_steps,eval_return,wall_seconds", *rows]) + "\n")
    return folder


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, list[Path]]:
    return {
        "SAC": [run(tmp_path / "a0", [0, 1, 2, 3]), run(tmp_path / "a1", [0, 1, 2, 5]), run(tmp_path / "a2", [0] * 4)],
        "SAC + ATraDiff": [run(tmp_path / f"b{i}", [0, 6 + i, 8 + i, 10 + i], 90) for i in range(2)],
    }


def test_the_table_holds_what_one_computes_by_hand(arms: dict[str, list[Path]], tmp_path: Path) -> None:
    table = compare_runs(arms, tmp_path / "out", final_evaluations=1)
    sac, ours = table.arms

    assert table.threshold == pytest.approx((3 + 5 + 0) / 3)
    assert sac.final_return.value == pytest.approx(8 / 3)
    assert 0 <= sac.final_return.low <= 8 / 3 <= sac.final_return.high <= 5
    assert sac.area.value == pytest.approx((4.5 + 5.5 + 0) / 3 / 3)
    assert (sac.steps_to_threshold, sac.n_reached, sac.n_seeds) == (3000, 2, 3)
    assert (ours.steps_to_threshold, ours.n_reached, ours.n_seeds) == (1000, 2, 2)
    assert (sac.improvement, ours.improvement) == (0.5, 1.0)
    assert (sac.wall_seconds, ours.wall_seconds) == (180, 270)


def test_an_arm_that_mostly_never_arrives_says_never(arms: dict[str, list[Path]], tmp_path: Path) -> None:
    table = compare_runs(arms, tmp_path / "out", threshold=4.5)
    assert table.arms[0].steps_to_threshold is None
    assert "never (1/3 runs)" in table.to_text()


def test_picture_markdown_and_csv_are_written(arms: dict[str, list[Path]], tmp_path: Path) -> None:
    table = compare_runs(arms, tmp_path / "deep" / "out", title="Pendulum")
    out = tmp_path / "deep" / "out"

    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "comparison.md").read_text() == table.to_markdown()
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["SAC", "SAC + ATraDiff"]
    assert float(rows[1]["final_return"]) == table.arms[1].final_return.value
    assert all(line.count("|") == 8 for line in table.to_markdown().splitlines()[:4])
    assert "4 min 30 s" in table.to_text()


def test_the_same_seed_gives_the_same_table(arms: dict[str, list[Path]], tmp_path: Path) -> None:
    assert compare_runs(arms, tmp_path / "x", seed=3) == compare_runs(arms, tmp_path / "y", seed=3)


def test_arms_of_unequal_length_are_pointed_out(arms: dict[str, list[Path]], tmp_path: Path) -> None:
    arms["short"] = [run(tmp_path / "c0", [0, 1])]
    assert "1000 to 3000 environment steps" in compare_runs(arms, tmp_path / "out").note()


def test_an_arm_without_runs_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none for: SAC"):
        compare_runs({"SAC": []}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
