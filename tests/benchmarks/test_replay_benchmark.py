"""The benchmark runs, writes its figures, and measures what it says (how fast is for it to say, not for a test)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import replay


def test_writes_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "replay.json"
    monkeypatch.setattr(replay, "cpu_ms", _call_once)
    monkeypatch.setattr(sys, "argv", ["replay", "--json", str(out), "--rows", "20000", "--rllib-rows", "2000"])
    replay.main()
    figures = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    ours = figures["ours"]
    assert ours["rows"] == 40_000
    # observations twice, actions, reward, two flags; synthetic rows know version and time besides
    assert ours["memory_bytes"] == ours["columns_bytes"] == 20_000 * (2 * (2 * 44 + 12 + 4 + 2) + 12)
    for name in ("EpisodeReplayBuffer", "PrioritizedEpisodeReplayBuffer"):
        assert figures[name]["rows"] == 2000
        assert figures[name].keys() == {"rows", "sample_ms", "add_ms"}


def _call_once(call: object, repeats: int) -> float:  # noqa: ARG001
    call()  # type: ignore[operator]
    return 0.0
