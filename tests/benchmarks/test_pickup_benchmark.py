"""The benchmark runs, writes its figures, and measures what it says (how fast is for it to say, not for a test)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from atradiff.adaptation.config import PickUpConfig
from benchmarks import pickup


def test_writes_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "pickup.json"
    monkeypatch.setattr(pickup, "cpu_ms", _call_once)
    monkeypatch.setattr(pickup, "PickUpConfig", lambda: PickUpConfig(entries=1000))
    monkeypatch.setattr(sys, "argv", ["pickup", "--json", str(out), "--rows", "20000"])
    pickup.main()
    figures = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert figures.keys() == {"entries", "rows", "update_ms", "store_ms", "pick_ms", "memory_mb"}
    assert figures["entries"] == 1000
    # per ring row the number of its entry; per entry a row id, an importance, a place among the free and a flag
    assert 20_000 * 4 + 1000 * (8 + 4 + 1) <= figures["memory_mb"] * 1e6 < 20_000 * 4 + 1000 * 40


def _call_once(call: object, repeats: int) -> float:  # noqa: ARG001
    call()  # type: ignore[operator]
    return 0.0
