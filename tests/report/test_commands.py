"""The fidelity command on a tiny fitted model, and its picture and table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_generators import Copy, collect, stored

from atradiff.augment.synther_fit import fit_synther
from atradiff.config import DiffuserConfig, FitConfig, SyntherConfig, SyntherFit
from atradiff.data.store import open_trajectories, write_trajectories
from atradiff.data.tasks import join_tasks
from atradiff.fit import fit
from atradiff.replay.ring import ColumnRing, transition_columns
from atradiff.report.commands import fidelity_command
from atradiff.report.fidelity import fidelity
from atradiff.report.fidelity_picture import save_fidelity_picture, shown_dimensions
from atradiff.report.fidelity_table import fidelity_table
from atradiff.types import SyntheticTrajectories


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(model folder, store) of a diffuser that has barely seen random Hopper episodes."""
    folder = tmp_path_factory.mktemp("fidelity")
    stored(folder / "data", collect("Hopper-v5", 30))
    small = DiffuserConfig(lengths=(5, 10), width=16, depth=1, heads=2, dynamics_models=2, dynamics_width=16)
    data = open_trajectories(folder / "data")
    settings = FitConfig(steps=2, tokens_per_step=100, held_out=0.3)
    fit(data, folder / "model", config=small, settings=settings, device="cpu", quiet=True)
    return folder / "model", folder / "data"


def test_the_command_prints_a_table_and_writes_json_and_picture(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = fitted
    out, picture = tmp_path / "deep" / "f.json", tmp_path / "pictures" / "f.png"
    fidelity_command(
        model, data, lengths=[5, 10], json=out, picture=picture, windows=20, simulated_rows=30, device="cpu"
    )

    document = json.loads(out.read_text())
    assert document["env_id"] == "Hopper-v5"
    assert document["data_hash"] == open_trajectories(data).content_hash
    raw = document["K"]["10"]["raw"]
    assert raw["relative_dynamics_error"] > 0.1
    assert raw["novelty"] is not None  # the store is the one the model was fitted on, so its split is known
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert [line.split()[:2] for line in printed.splitlines()[2:8]] == [
        ["5", name] for name in ("real", "raw", "pruned", "cut", "project", "dynamics")
    ]


def test_a_folder_of_synther_is_told_where_its_rows_are_judged(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    _, data = fitted
    columns, settings = open_trajectories(data).columns, SyntherFit(steps=1)
    model = fit_synther(open_trajectories(data).spaces, columns, SyntherConfig(width=8, depth=1), settings, quiet=True)
    model.save_pretrained(tmp_path / "synther")
    with pytest.raises(ValueError, match=r"holds a SynthER model.*`python -m benchmarks.generator` judges"):
        fidelity_command(tmp_path / "synther", data)


def test_chains_and_the_states_of_a_run_join_the_report(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, store = fitted
    data = open_trajectories(store)
    ring = ColumnRing(transition_columns(data.spaces), 500)
    ring.add(dict(data.columns[:90].items()))
    ring.save(tmp_path / "run" / "checkpoints" / "step_000000000090" / "algorithm" / "replay" / "real")
    out, picture = tmp_path / "f.json", tmp_path / "f.png"
    common = {"windows": 12, "simulated_rows": 30, "device": "cpu"}
    fidelity_command(
        model, store, horizon=12, length=5, run=tmp_path / "run", json=out, picture=picture, temperature=0.5, **common
    )
    document = json.loads(out.read_text())
    assert set(document["K"]) == {"5", "10"}  # all lengths of the model
    assert document["chains"]["raw"]["links"][0]["running"] == 1
    assert list(document["stages"]) == ["held-out", "early", "middle", "late"]
    assert (document["stages"]["middle"]["first"], document["stages"]["middle"]["last"]) == (30, 59)
    assert document["stages"]["late"]["one_step"]["relative_error"] > 0
    assert document["stages"]["late"]["K"]["5"]["dynamics"]["relative_dynamics_error"] > 0
    printed = capsys.readouterr().out
    assert "Chains of at most 12 rows" in printed
    assert "60-89" in printed

    np.save(tmp_path / "states.npy", np.zeros((9, 3), np.float32))
    with pytest.raises(ValueError, match="have 3 columns, the model's have 11"):
        fidelity_command(model, store, states=tmp_path / "states.npy", **common)
    with pytest.raises(ValueError, match="give one of them"):
        fidelity_command(model, store, states=tmp_path / "states.npy", run=tmp_path, **common)


def test_a_model_of_several_tasks_is_judged_on_one(tmp_path: Path) -> None:
    easy, dear = collect("Pendulum-v1", 4), collect("Pendulum-v1", 4)
    dear = replace(dear, columns=replace(dear.columns, rewards=dear.columns.rewards - 50))
    data = join_tasks([easy, dear], "one_hot")
    write_trajectories(tmp_path / "data", data, source="two tasks", licence="none")
    config = DiffuserConfig(lengths=(5,), width=16, depth=1, heads=2, dynamics_models=1, dynamics_width=16, task_size=2)
    settings = FitConfig(steps=2, tokens_per_step=100, held_out=0.5)
    fit(data, tmp_path / "model", config=config, settings=settings, device="cpu", quiet=True)
    common = {"windows": 12, "simulated_rows": 30, "device": "cpu"}
    report = fidelity_command(tmp_path / "model", tmp_path / "data", task=[1, 0], horizon=10, length=5, **common)
    assert report.chains["raw"].real_reward_per_row > -20  # Pendulum's own lie between -16.3 and 0
    report = fidelity_command(tmp_path / "model", tmp_path / "data", task=[0, 1], horizon=10, length=5, **common)
    assert report.chains["raw"].real_reward_per_row < -50
    with pytest.raises(ValueError, match=r"no episode of task \[2.0, 0.0\]: theirs are \[0.0, 1.0\], \[1.0, 0.0\]"):
        fidelity_command(tmp_path / "model", tmp_path / "data", task=[2, 0], **common)
    with pytest.raises(ValueError, match="task must be 2 finite numbers"):
        fidelity_command(tmp_path / "model", tmp_path / "data", **common)


def test_other_data_than_the_fit_was_made_on_is_held_out_whole(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    stored(tmp_path / "other", collect("Hopper-v5", 5, seed=100))
    report = fidelity_command(fitted[0], tmp_path / "other", lengths=[5], windows=10, simulated_rows=10, device="cpu")
    assert "no training data" in report.by_length[5]["raw"].rows.reasons["novelty"]


def test_more_steps_of_projection_come_nearer_to_the_one_step_model(fitted: tuple[Path, Path]) -> None:
    few, many = (
        fidelity_command(*fitted, lengths=[5], windows=10, simulated_rows=10, device="cpu", projection_steps=steps)
        for steps in (1, 30)
    )
    assert many.by_length[5]["project"].residual < few.by_length[5]["project"].residual
    assert many.by_length[5]["raw"].residual == few.by_length[5]["raw"].residual


def test_data_that_do_not_fit_the_model_are_refused(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    stored(tmp_path / "pendulum", collect("Pendulum-v1", 2))
    with pytest.raises(ValueError, match="the data and the model do not fit"):
        fidelity_command(fitted[0], tmp_path / "pendulum", device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [5, 40]}, "lengths must be at most 10, the model's longest window, got 40"),
        ({"length": 5}, "length needs --horizon, got 5"),
        ({"stretch": 5}, "stretch needs --horizon, got 5"),
        ({"horizon": 9, "stretch": 0}, "stretch must be at least 1, got 0"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"lengths": [5, 0]}, "lengths must be at least 1, got 0"),
        ({"windows": -3}, "windows must be at least 1, got -3"),
        ({"simulated_rows": -5}, "simulated_rows must be at least 1, got -5"),
    ],
)
def test_lengths_and_counts_that_cannot_be_had_are_refused(
    fitted: tuple[Path, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fidelity_command(*fitted, device="cpu", **options)


def test_the_table_names_what_could_not_be_had() -> None:
    data = collect("Pendulum-v1", 3)
    table = fidelity_table(fidelity(Copy(data), data, None, None, lengths=(5,), windows=5, variants=("raw",)))
    assert "No relative_dynamics_error: no environment is known" in table
    assert "5  raw" in table


def test_discrete_actions_and_few_dimensions_can_be_drawn(tmp_path: Path) -> None:
    data = collect("CartPole-v1", 20)
    bars = {"raw": tuple(np.linspace(0.2, 1, 4 + 2 + 1))}
    save_fidelity_picture(Copy(data), data, tmp_path / "p.png", length=5, ks_by_column=bars)
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_dimensions_that_never_move_are_not_drawn() -> None:
    path = np.random.default_rng(0).normal(size=(3, 6, 9)).astype(np.float32)
    path[..., [0, 4]] = 1.0
    flat = np.zeros((3, 5), np.float32)
    windows = SyntheticTrajectories(path, flat[..., None], flat, flat > 0, np.full(3, 5), 0)
    assert shown_dimensions(windows).tolist() == [1, 3, 6, 8]
