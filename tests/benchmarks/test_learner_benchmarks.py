"""The benchmarks run and write their figures (how fast is for them to say, not for a test)."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import learner, overhead
from benchmarks.tight_sac import TightSAC


def test_learner_figures(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    out = tmp_path / "learner.json"
    monkeypatch.setattr(learner, "ray_session", nullcontext)
    monkeypatch.setattr(learner, "WARM_UP", 40)
    monkeypatch.setattr(learner, "SLICE", 50)
    monkeypatch.setattr(learner, "stock_sac", learner.ensemble_sac)  # the real one takes half a minute
    monkeypatch.setattr(sys, "argv", ["learner", "--json", str(out), "--rounds", "1"])
    learner.main()
    figures = json.loads(out.read_text())
    assert figures["env_steps_per_second"].keys() == {"stock", "ours", "tight"}
    assert min(figures["env_steps_per_second"].values()) > 0
    speeds = figures["env_steps_per_second"]
    assert figures["ours_over_tight"] == pytest.approx(speeds["ours"] / speeds["tight"])
    assert figures["ours_over_stock"] == pytest.approx(speeds["ours"] / speeds["stock"])


def test_ratios_are_medians_over_rounds() -> None:
    speeds = {
        "ours": [(10, 1), (20, 2), (40, 4)],
        "stock": [(5, 1), (5, 1), (5, 1)],
        "tight": [(20, 1), (10, 1), (80, 1)],
    }
    figures = learner.report(speeds)
    assert figures["ours_over_stock"] == 4.0  # of 2, 4 and 8
    assert figures["ours_over_tight"] == 0.5  # of 0.5, 2 and 0.5


@pytest.mark.usefixtures("local_ray")
def test_the_stock_contender_is_built_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "WARM_UP", 10_000)  # it samples without learning, which would take half a minute
    assert learner.stock_sac("Pendulum-v1")() >= 100


def test_overhead_figures(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    out = tmp_path / "overhead.json"
    monkeypatch.setattr(overhead, "ray_session", nullcontext)
    monkeypatch.setattr(overhead, "LEARNING_STARTS", 300)
    arguments = ["--rounds", "1", "--iterations", "1", "--fit-steps", "2", "--run-rounds", "0"]
    monkeypatch.setattr(sys, "argv", ["overhead", "--json", str(out), *arguments])
    overhead.main()
    figures = json.loads(out.read_text())
    seconds = figures["seconds_per_1000_env_steps"]
    assert figures["ratio"] == pytest.approx(seconds["with"] / seconds["without"])
    assert figures["synthetic_rows_per_env_step"] > 0


def test_the_hand_written_loop_is_sac() -> None:
    """A yardstick that does not learn would measure nothing."""
    torch.set_num_threads(1)
    sac = TightSAC("Pendulum-v1", seed=0)
    sac.steps(300, learn=False)
    before = [p.detach().clone() for p in sac.actor_parameters]
    sac.steps(150, learn=True)
    assert sac.size == 450
    assert all(not torch.equal(old, new) for old, new in zip(before, sac.actor_parameters, strict=True))
    assert sac.log_alpha.item() < 0  # the random policy has more entropy than its target
    assert np.isfinite(sac.ring[: sac.size]).all()
