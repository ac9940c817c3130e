"""Cells as Ray tasks: run once, shared, stopped and gone on with; a failed one leaves the others alone."""

from __future__ import annotations

import csv
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from atradiff.report.study import ScoreRange
from cluster.cell_runner import _prepared, _train_cell, prepare_cells, train_cells
from cluster.cells import Cell, data_key
from cluster.cli import main
from cluster.compare import compare_grid, report_grid
from cluster.config import RunConfig
from cluster.grid import Grid, GridTask
from cluster.grid_cells import grid_cells
from cluster.grid_command import _tell
from cluster.run_folder import RunFolder
from tests.second_process import holding

REPOSITORY = Path(__file__).parents[2]
TINY = "configs/grids/tiny/paper_table5.yaml"

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("summary.json")}


def plain(tiny_run: RunConfig, **changes: object) -> RunConfig:
    return replace(tiny_run, augmentation="none", **changes)  # type: ignore[arg-type]


def test_a_paper_grid_in_small_runs_end_to_end_and_only_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", TINY, "--seeds", "[0]", "--output", str(tmp_path)]
    main(words)
    folder = tmp_path / "tiny_table5"
    with (folder / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        with (folder / row["folder"] / "metrics.csv").open(newline="") as file:
            assert float(row["final_return"]) == pytest.approx(float(list(csv.DictReader(file))[-1]["eval_return"]))
    assert len({row["folder"] for row in rows}) == len(rows)
    assert all(Path(row["folder"]).parts[0] == "runs" for row in rows)  # the tables can be moved with the runs
    assert "intervals.png" in (folder / "report.md").read_text()
    before = written(folder)
    assert len(before) == len(rows)
    main(words)
    assert written(folder) == before
    capsys.readouterr()
    main([*words, "--dry-run"])
    assert "nothing is left to run" in capsys.readouterr().out


@pytest.mark.usefixtures("without_pictures")
def test_a_failed_cell_leaves_the_others_alone_and_is_told(tiny_run: RunConfig, tmp_path: Path) -> None:
    settings = {"env": tiny_run.env, "env_steps": 200, "evaluation": {"every": 100, "episodes": 1}}
    grid = Grid(
        name="broken",
        output=str(tmp_path),
        seeds=(0,),
        tasks={"car": GridTask(settings, ScoreRange(-30, 100))},
        algorithms={"SAC": {"hidden_sizes": [16], "batch_size": 16, "learning_starts": 100}},
        augmentations={
            "none": {"augmentation": "none"},
            "lost model": {"generator": {"path": str(tmp_path / "nowhere")}},
            "lost data": {"data": {"source": str(tmp_path / "nowhere.hdf5")}},
        },
        baseline="none",
    )
    comparison = compare_grid(grid)
    assert [failure.cell.arm for failure in comparison.failures] == ["SAC + lost data", "SAC + lost model"]
    assert all("nowhere" in failure.error for failure in comparison.failures)
    assert comparison.report is not None
    assert [result.arm for result in comparison.report.tasks] == ["SAC"]
    text = (comparison.folder / "report.md").read_text()
    assert "Seeds: 0. 1 of 3 runs are complete." in text
    assert "* Failed: car, SAC + lost model, seed 0: " in text


def test_a_diffuser_that_cannot_be_made_leaves_other_cells_of_the_same_data_alone(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(run: RunConfig) -> Path:
        if run.augmentation == "synther":
            raise KeyError("rewards")
        return Path("models/ours")

    runs = [tiny_run, replace(tiny_run, augmentation="synther")]
    assert data_key(runs[0]) == data_key(runs[1])  # one task makes both
    monkeypatch.setattr("cluster.cell_runner.prepare", make)
    made = [_prepared(run) for run in runs]
    monkeypatch.setattr("cluster.cell_runner._prepare", ray.remote(lambda _: made))
    done = Cell("car", "complete", replace(runs[1], seed=1))
    done.folder.path.mkdir(parents=True)
    done.folder.summary.touch()
    kept, failures = prepare_cells(
        [*(Cell("car", name, run) for name, run in zip(("ours", "SynthER"), runs, strict=True)), done]
    )
    assert [(failure.cell.arm, failure.error) for failure in failures] == [("SynthER", "KeyError: 'rewards'")]
    assert kept[0].run.generator.path == "models/ours"


def test_what_a_cell_died_of_is_told_by_name(tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out_of_memory(_: RunConfig) -> None:
        raise MemoryError

    monkeypatch.setattr("cluster.cell_runner._train_cell", ray.remote(run_out_of_memory))
    failures = train_cells([Cell(task, "SAC", plain(tiny_run)) for task in ("car", "the same car")])
    assert [(f.cell.task, f.error) for f in failures] == [("car", "MemoryError: "), ("the same car", "MemoryError: ")]


@pytest.mark.usefixtures("without_pictures")
def test_a_report_says_of_which_seeds_it_is(tmp_path: Path) -> None:
    grid = plain_grid(tmp_path)
    compare_grid(grid)
    other = compare_grid(replace(grid, seeds=(4,)))
    text = (other.folder / "report.md").read_text()
    assert "Seeds: 4. 2 complete runs of other seeds are kept here and are not in this report." in text


def plain_grid(tmp_path: Path) -> Grid:
    """Two cells of a second each."""
    settings = {"env": "MountainCarContinuous-v0", "env_steps": 200, "evaluation": {"every": 100, "episodes": 1}}
    return Grid(
        name="shared",
        output=str(tmp_path),
        seeds=(0,),
        tasks={"car": GridTask({**settings, "augmentation": "none"}, ScoreRange(-30, 100))},
        algorithms={
            "SAC": {"hidden_sizes": [16], "batch_size": 16, "learning_starts": 100},
            "slow": {"hidden_sizes": [16], "batch_size": 16, "learning_starts": 150},
        },
        augmentations={"none": {}},
        baseline="SAC",
    )


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_another_command_trains_is_told_and_left_to_it(tmp_path: Path) -> None:
    grid = plain_grid(tmp_path)
    taken = next(cell for cell in grid_cells(grid) if cell.arm == "slow")
    with holding(taken.run.folder / ".lock", tmp_path / "go") as other:
        comparison = compare_grid(grid)
        (failure,) = comparison.failures
        assert failure.cell.arm == "slow"
        assert f"{taken.run.folder} is being trained by another process (pid {other.pid} on " in failure.error
        assert [path.name for path in taken.run.folder.iterdir()] == [".lock"]
    assert comparison.report is not None
    assert [result.arm for result in comparison.report.tasks] == ["SAC"]
    assert "* Failed: car, slow, seed 0: " in (comparison.folder / "report.md").read_text()
    assert compare_grid(grid).failures == ()
    before = written(tmp_path)
    ray.get(_train_cell.remote(taken.run))  # one that waited for its turn while another command trained the run
    assert written(tmp_path) == before


def test_a_run_that_another_command_finishes_meanwhile_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finished_elsewhere(run: RunConfig) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "summary.json").write_text("{}")
        raise ValueError("is being trained by another process")

    monkeypatch.setattr("cluster.cell_runner._train_cell", ray.remote(finished_elsewhere))
    assert train_cells(grid_cells(plain_grid(tmp_path))) == []


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_cannot_be_read_leaves_the_report_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = plain_grid(tmp_path)
    assert compare_grid(grid).failures == ()
    damaged = next(cell for cell in grid_cells(grid) if cell.arm == "slow").folder
    whole = damaged.metrics.read_text()
    for file, text, said in (
        (damaged.metrics, whole + whole.splitlines()[-1], "env_steps must rise from row to row"),
        (damaged.metrics, "env_steps,eval_return\n100,1\n", r"lacks the column(s) wall_seconds"),
        (damaged.summary, "{}", "summary.json is damaged (KeyError: 'env_steps')"),
    ):
        kept = file.read_text()
        file.write_text(text)
        comparison = report_grid(grid, grid_cells(grid))
        file.write_text(kept)
        assert [failure.cell.arm for failure in comparison.failures] == ["slow"]
        assert said in comparison.failures[0].error
        assert f"Or delete {damaged.path}: " in comparison.failures[0].error
        assert comparison.report is not None
        assert [result.arm for result in comparison.report.tasks] == ["SAC"]
        assert said in (comparison.folder / "report.md").read_text()
    assert report_grid(grid, grid_cells(grid)).failures == ()
    for cell in grid_cells(grid):
        cell.folder.metrics.unlink()
    comparison = report_grid(grid, grid_cells(grid))
    assert (comparison.report, len(comparison.failures)) == (None, 2)
    with pytest.raises(SystemExit):
        _tell(comparison)
    assert "2 cells failed" in capsys.readouterr().err


def test_cells_with_one_recipe_are_run_once(tiny_run: RunConfig) -> None:
    run = plain(tiny_run, env_steps=200)
    assert train_cells([Cell("a", "x", run), Cell("b", "x", run)]) == []
    assert RunFolder(run.folder).complete


def test_ctrl_c_leaves_checkpoints_and_the_same_call_goes_on(tiny_run: RunConfig) -> None:
    run = plain(tiny_run, env_steps=2000, checkpoint=replace(tiny_run.checkpoint, every=100_000))
    folder, over = RunFolder(run.folder), threading.Event()

    def interrupt_when_under_way() -> None:
        while not over.wait(0.05):
            if folder.progress() > 0:
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=interrupt_when_under_way)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            train_cells([Cell("car", "SAC", run)])
    finally:
        over.set()
        watcher.join()
    assert not folder.complete
    stopped_at = {path.name for path in (run.folder / "checkpoints").iterdir()}
    assert len(stopped_at) == 1
    assert train_cells([Cell("car", "SAC", run)]) == []
    with (run.folder / "metrics.csv").open(newline="") as file:
        steps = [int(row["env_steps"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2000


def test_a_run_that_ends_where_nobody_sees_it_has_failed(tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.cell_runner._train_cell", ray.remote(lambda _: None))
    failures = train_cells([Cell("car", "SAC", plain(tiny_run))])
    assert [failure.cell.title for failure in failures] == ["car, SAC, seed 0"]
    assert "output must be a folder that all of them see" in failures[0].error


def test_more_than_the_machine_has_is_refused_before_anything_is_prepared(tiny_run: RunConfig) -> None:
    there = int(ray.cluster_resources()["CPU"])
    with pytest.raises(ValueError, match=f"takes {there + 1} CPUs and Ray has {there} here: lower threads"):
        prepare_cells([Cell("car", "SAC", replace(tiny_run, threads=there + 1))])
    with pytest.raises(ValueError, match="takes 1 GPUs and Ray has 0 here: lower gpus_per_cell"):
        prepare_cells([Cell("car", "SAC", tiny_run)], gpus_per_cell=1)


def test_more_than_the_machine_has_is_refused(tiny_run: RunConfig) -> None:
    there = int(ray.cluster_resources()["CPU"])
    with pytest.raises(ValueError, match=f"takes {there + 1} CPUs and Ray has {there} here: lower threads"):
        train_cells([Cell("car", "SAC", plain(tiny_run, threads=there + 1))])
    with pytest.raises(ValueError, match="takes 1 GPUs and Ray has 0 here: lower gpus_per_cell"):
        train_cells([Cell("car", "SAC", plain(tiny_run))], gpus_per_cell=1)
