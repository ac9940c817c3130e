"""The benchmark of levers resumes where it was ended and makes tables of what is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from atradiff.data.collect import collect
from benchmarks import levers
from benchmarks.levers_table import tables


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("levers") / "hopper"
    collect("Hopper-v5", "random", 12, folder, progress=False)
    return folder


def test_cells_are_written_once_and_shown(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [
        "levers",
        "--tiny",
        "--out",
        str(out),
        "--data",
        str(store),
        "--only",
        "base",
        "ema_0.99",
        "calls_1",
        "straight",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    levers.main()
    found = json.loads((out / "ema_0.99__hopper.json").read_text())
    assert found["steps"] == 2
    models = sorted(folder.name for folder in (out / "models").iterdir())
    assert models == ["base__hopper", "ema_0.99__hopper"]  # fewer calls sample the same model
    assert found["settings"]["fit"]["ema_decay"] == 0.99
    assert set(found["fidelity"]["K"]["10"]) == {"real", "raw", "cut", "project", "dynamics"}
    raw = found["fidelity"]["K"]["10"]["raw"]["relative_dynamics_error"]
    table = capsys.readouterr().out
    assert f"{raw:.3f}" in table
    assert (out / "levers.md").read_text().strip() in table

    before = (out / "base__hopper.json").stat().st_mtime_ns
    monkeypatch.setattr(levers, "fit", lambda *_, **__: pytest.fail("a cell that is there was fitted again"))
    levers.main()
    assert (out / "base__hopper.json").stat().st_mtime_ns == before

    monkeypatch.setattr(sys, "argv", [*arguments[:-4], "192x4", "--seed", "1"])  # its cell is not there, but others are
    with pytest.raises(ValueError, match=r"plan\.seed = 0, now 1 is asked for: choose another --out"):
        levers.main()
    monkeypatch.setattr(levers, "LEVERS", levers.LEVERS | {"base": levers.Lever(model={"heads": 2})})
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(ValueError, match=r"model\.heads = 4, now 2"):
        levers.main()


def cell(name: str, data: str, error: float) -> dict:
    figures = {"relative_dynamics_error": error, "mean_length": 10.0}
    return {"name": name, "data": data, "steps": 100, "fidelity": {"K": {"10": {"raw": figures}}, "chains": {}}}


def test_means_are_geometric_and_only_over_levers_that_all_data_sets_have() -> None:
    cells = [cell("base", "a", 0.1), cell("base", "b", 0.4), cell("192x4", "a", 0.3)]
    text = tables(cells)
    assert "### a\n\n| lever | raw K10 | fit steps |" in text
    assert "| 192x4 | 0.300 | 100 |" in text
    mean = text.split("geometric mean over 2 data sets")[1]
    assert "| base | 0.200 | 100 |" in mean
    assert "192x4" not in mean


def test_unknown_levers_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["levers", "--only", "sharper"])
    with pytest.raises(SystemExit):
        levers.main()
    assert "sharper" in capsys.readouterr().err


def test_every_lever_is_another_setting_that_exists() -> None:
    made = [
        (
            levers.DiffuserConfig(**lever.model),
            levers.FitConfig(**({"steps": 1} | dict(lever.fit))),
            levers.SamplingConfig(**lever.sampling),
            levers.PROBES[lever.probe],
        )
        for lever in levers.LEVERS.values()
    ]
    assert len(set(made)) == len(made)
