"""The benchmark of generators runs in its tiny form and writes what it says it writes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import generator
from cluster.config import load_run_config
from tests.toys import random_data


def test_writes_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    out, picture = tmp_path / "generator.json", tmp_path / "generator.png"
    arguments = ["--tiny", "--lengths", "5", "--json", str(out), "--plot", str(picture)]
    monkeypatch.setattr(sys, "argv", ["generator", *arguments])
    generator.main()
    figures = json.loads(out.read_text())
    assert set(figures["speed_over_synther_1024"]) == {"1", "2", "4"}
    methods = figures["methods"]
    names = {"synther_1024", "synther_1024_dpm", "s4rl_gaussian", "paper_bank", "bank", "ours", "residuals"}
    assert {m["name"] for m in methods} == names
    assert {m["variant"] for m in methods if m["name"] == "bank"} == {"raw", "cut", "dynamics"}
    assert {m["variant"] for m in methods if m["name"] == "paper_bank"} == {"paper"}
    ours = [m for m in methods if m["name"] == "ours"]
    assert {m["variant"] for m in ours} == {"raw", "cut", "dynamics", "project"}
    assert {m["calls"] for m in ours if m["variant"] == "project"} == {2, 4}
    for m in methods:
        assert m["transitions_per_cpu_second"] > 0
        assert 0 <= m["ks"] <= 1
        assert 1 <= m["mean_length"] <= m["length"]
        if not m["name"].startswith("synther"):  # of four steps of SynthER the physics makes nothing at all
            assert m["relative_dynamics_error"] > 0
    base = next(m for m in methods if m["name"] == "synther_1024")["transitions_per_cpu_second"]
    two = next(m for m in methods if (m["name"], m["calls"], m["variant"]) == ("ours", 2, "raw"))
    assert figures["speed_over_synther_1024"]["2"] == pytest.approx(two["transitions_per_cpu_second"] / base)
    residuals = next(m for m in methods if (m["name"], m["calls"], m["variant"]) == ("residuals", 1, "raw"))
    assert figures["residuals_speed_over_synther_1024"]["1"] == residuals["transitions_per_cpu_second"] / base
    rolled = next(m for m in methods if (m["name"], m["calls"], m["variant"]) == ("ours", 4, "dynamics"))
    assert figures["refined_speed_over_synther_1024"]["4"] == rolled["transitions_per_cpu_second"] / base
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


def test_s4rl_is_judged_and_timed_without_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s4rl.json"
    kinds = ["--only", "synther", "s4rl", "--s4rl-kinds", "gaussian", "dropout"]
    monkeypatch.setattr(sys, "argv", ["generator", "--tiny", *kinds, "--json", str(out)])
    generator.main()
    figures = json.loads(out.read_text())
    assert figures["speed_over_synther_1024"] == {}
    found = {m["name"]: m for m in figures["methods"]}
    assert list(found) == ["synther_1024", "synther_1024_dpm", "s4rl_gaussian", "s4rl_dropout"]
    faint, torn = found["s4rl_gaussian"], found["s4rl_dropout"]
    assert (faint["calls"], faint["length"], faint["mean_length"]) == (0, 1, 1)
    assert 0 < faint["relative_dynamics_error"] < 0.1  # noise of 3e-4 on rows of the data
    assert torn["relative_dynamics_error"] > 10 * faint["relative_dynamics_error"]
    assert faint["transitions_per_cpu_second"] > found["synther_1024"]["transitions_per_cpu_second"]


def test_lengths_that_no_model_has_are_refused_before_any_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(generator, "fit", None)
    monkeypatch.setattr(generator, "fit_synther", None)
    monkeypatch.setattr(sys, "argv", ["generator", "--lengths", "10", "7", "--json", str(tmp_path / "f.json")])
    with pytest.raises(SystemExit):
        generator.main()
    assert "--lengths must be some of those that models are fitted for" in capsys.readouterr().err
    short = replace(random_data([8] * 20, [False] * 20), env_id="Hopper-v5")
    with pytest.raises(ValueError, match=r"data have windows of \(5,\) rows, not of \[25\]"):
        generator.measure(short, generator.TINY, [5, 25], seed=0)


def test_the_papers_bank_is_that_of_its_config() -> None:
    config = load_run_config(Path("configs/ablations/paper_generator.yaml")).generator.model
    assert replace(config, lengths=generator.PAPER.lengths) == generator.PAPER


@pytest.mark.parametrize("arguments", [["--device", "cuda"], ["--synther-widths", "64"], ["--only", "ours"]])
def test_what_speeds_are_given_over_must_be_there(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generator", *arguments])
    with pytest.raises(SystemExit):
        generator.main()
