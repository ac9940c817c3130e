"""The benchmark of generators runs in its tiny form and writes what it says it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import generator


def test_writes_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    out, picture = tmp_path / "generator.json", tmp_path / "generator.png"
    arguments = ["--tiny", "--lengths", "5", "--json", str(out), "--plot", str(picture)]
    monkeypatch.setattr(sys, "argv", ["generator", *arguments])
    generator.main()
    figures = json.loads(out.read_text())
    assert set(figures["speed_over_synther_1024"]) == {"1", "2", "4"}
    methods = figures["methods"]
    assert {m["name"] for m in methods} == {"synther_1024", "synther_1024_dpm", "paper_bank", "bank", "ours"}
    assert {m["variant"] for m in methods if m["name"] == "ours"} == {"raw", "cut", "dynamics"}
    for m in methods:
        assert m["transitions_per_cpu_second"] > 0
        assert 0 <= m["ks"] <= 1
        assert 1 <= m["mean_length"] <= m["length"]
        if not m["name"].startswith("synther"):  # of four steps of SynthER the physics makes nothing at all
            assert m["relative_dynamics_error"] > 0
    base = next(m for m in methods if m["name"] == "synther_1024")["transitions_per_cpu_second"]
    two = next(m for m in methods if (m["name"], m["calls"], m["variant"]) == ("ours", 2, "raw"))
    assert figures["speed_over_synther_1024"]["2"] == pytest.approx(two["transitions_per_cpu_second"] / base)
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert all(name in table for name in ("synther_1024_dpm", "paper_bank", "ours"))


def test_synther_can_be_fitted_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "synther.json"
    monkeypatch.setattr(sys, "argv", ["generator", "--tiny", "--only", "synther", "--json", str(out)])
    generator.main()
    figures = json.loads(out.read_text())
    assert [m["name"] for m in figures["methods"]] == ["synther_1024", "synther_1024_dpm"]
    assert figures["speed_over_synther_1024"] == {}


@pytest.mark.parametrize("arguments", [["--synther-widths", "64"], ["--only", "ours"]])
def test_what_speeds_are_given_over_must_be_there(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generator", *arguments])
    with pytest.raises(SystemExit):
        generator.main()
