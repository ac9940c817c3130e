"""The benchmark for GPUs, tried out on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu


def test_writes_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--tiny", "--env", "Pendulum-v1", "--json", str(out)])
    gpu.main()
    figures = json.loads(out.read_text())
    assert {(f["length"], f["calls"], f["batch"]) for f in figures["generation"]} == {(10, 1, 8), (25, 1, 8)}
    assert all(f["transitions_per_second"] > 0 and f["share_of_matrix_rate"] > 0 for f in figures["generation"])
    assert set(figures["share_of_own_rate_together"]) == {"learner", "generator"}


def test_multiply_adds_count_each_weight_once_a_row(tmp_path: Path) -> None:
    model, _ = gpu.fitted("Pendulum-v1", gpu.TINY, tmp_path, "cpu")
    weights = sum(p.numel() for p in model.networks.diffuser.parameters())
    assert gpu.multiply_adds(model, 25) == 25 * weights
