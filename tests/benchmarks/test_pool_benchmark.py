"""The benchmark runs, writes its figures, and its arithmetic is right (how good they are is for it to say)."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pool


@pytest.mark.faults
@pytest.mark.slow
def test_writes_all_figures(
    local_ray: None,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(pool, "ray_session", nullcontext)
    out = tmp_path / "pool.json"
    small = pool.measure
    monkeypatch.setattr(pool, "measure", lambda most, seconds, _: small(most, seconds, 4.0))
    monkeypatch.setattr(sys, "argv", ["pool", "--json", str(out), "--generators", "2", "--seconds", "1"])
    pool.main()
    figures = json.loads(out.read_text())
    assert '"scaling_efficiency"' in capsys.readouterr().out
    rates = figures["batches_per_second"]
    assert rates["1"] > 0
    assert figures["scaling_efficiency"] == pytest.approx(rates["2"] / (2 * rates["1"]))
    cpu = figures["cpu_ms_per_batch"]
    assert cpu.keys() == {"driver", "replay", "generators", "all"}
    assert 0 < cpu["driver"] < cpu["all"]
    assert figures["service_ms"] >= 1e3 * pool.SERVICE_SECONDS
    for kind in ("even", "poisson"):
        assert figures[kind]["p99_ms"] >= figures[kind]["p50_ms"] >= 1e3 * pool.SERVICE_SECONDS
    assert figures["p99_over_service_time"] == figures["even"]["p99_over_service_time"]
    assert figures["batches_lost"] == 0
    assert "recovery_seconds" in figures


def test_cpu_seconds_are_those_of_the_process() -> None:
    before, own = pool.cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - own < 0.3:
        sum(range(1000))
    assert pool.cpu_seconds(os.getpid()) - before == pytest.approx(time.process_time() - own, abs=0.05)


def test_recovery_is_when_the_full_rate_is_seen_again() -> None:
    before, half, after = np.arange(0, 10, 0.1), np.arange(10, 12, 0.2), np.arange(12, 16, 0.1)
    times = np.concatenate([before, half, after])
    # 9.5 of 10 in a second are enough: all but half a slow second
    assert pool.recovery_seconds(times, 10.0, 10.0) == pytest.approx(1.9, abs=0.11)
    assert math.isnan(pool.recovery_seconds(np.concatenate([before, half]), 10.0, 10.0))


def test_arrivals_have_the_rate_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    even = np.array(pool.even_arrivals(50.0, 4.0, rng))
    assert len(even) == 200
    gaps = np.diff(even)
    assert (gaps.min(), gaps.max()) == pytest.approx((0.01, 0.03), abs=2e-3)
    poisson = np.array(pool.poisson_arrivals(200.0, 50.0, rng))
    assert len(poisson) == pytest.approx(10_000, rel=0.04)
    assert (np.diff(poisson) >= 0).all()
    assert np.diff(poisson).std() == pytest.approx(1 / 200, rel=0.05)  # exponential gaps: as wide as their mean
