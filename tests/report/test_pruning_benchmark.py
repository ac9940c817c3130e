"""The pruning benchmark from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from known_generators import collect, stored

ROOT = Path(__file__).resolve().parents[2]


def test_the_gate_finds_clean_ends_and_keeps_whole_windows(tmp_path: Path) -> None:
    stored(tmp_path / "data", collect("Hopper-v5", 80))
    command = [sys.executable, "-m", "benchmarks.pruning", "--data", tmp_path / "data", "--json", tmp_path / "p.json"]
    subprocess.run([*map(str, command), "--length", "10", "--windows", "300"], cwd=ROOT, check=True)

    shares = json.loads((tmp_path / "p.json").read_text())
    assert set(shares) == {"gated", "paper"}
    assert shares["gated"]["0.0"]["exact_end"] > 0.95
    assert shares["gated"]["0.0"]["whole_kept"] > 0.98
    assert shares["gated"]["0.0"]["standing_step"] == 0
    assert shares["paper"]["0.0"]["whole_kept"] < 0.6
