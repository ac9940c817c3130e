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


def test_multiply_adds_count_what_reads_a_row_for_each_row_and_the_rest_once(tmp_path: Path) -> None:
    model, states = gpu.fitted("Pendulum-v1", gpu.TINY, tmp_path, "cpu")
    network = model.networks.diffuser
    matrices = {name: p.numel() for name, p in network.named_parameters() if p.ndim == 2 and name != "position"}
    by_row = sum(n for name, n in matrices.items() if name.startswith(("embed", "blocks", "head")))
    once = sum(n for name, n in matrices.items() if name.startswith(("encode", "modulate")))
    width, depth = model.config.width, model.config.depth
    for length in (10, 25):
        attention = depth * 2 * length**2 * width
        expected = length * by_row + once + attention
        assert gpu.multiply_adds(model, states, length) == pytest.approx(expected, rel=0.05)
