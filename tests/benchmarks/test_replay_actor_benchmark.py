"""The benchmark of the replay actor runs in tiny form and writes all its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import ray

from benchmarks import replay_actor


def test_writes_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    ray.shutdown()
    capsys.readouterr()  # what a Ray of another file still had to say
    out = tmp_path / "figures.json"
    options = ["--json", str(out), "--rows", "5000", "--seconds", "0.2", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["replay_actor", *options])
    replay_actor.main()
    figures = json.loads(out.read_text())
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{") :]) == figures
    sizes = {"batch": 256, "chunk": 1000, "fragment": 50, "rows": 5000}
    assert {name: figures.pop(name) for name in sizes} == sizes
    adds = {f"adds_per_second{journal}" for journal in ("", "_journal", "_journal_synced")}
    assert figures.keys() == {
        "samples_per_second",
        "learner_wait_share",
        *adds,
        *(f"{name}_fragments" for name in adds),
    }
    assert all(value > 0 for value in figures.values())
    assert figures["learner_wait_share"] < 1
    assert list(tmp_path.iterdir()) == [out]
