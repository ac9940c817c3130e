"""Plans are played as the environment itself would, and the table has a line for all that is asked."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from atradiff.data.collect import collect
from atradiff.data.store import open_trajectories
from atradiff.report.simulator import simulator_for
from atradiff.types import SyntheticTrajectories
from benchmarks import guidance
from tests.toys import TINY, tiny_diffuser

EPISODES = ("--episodes", "2", "--episode-rows", "10")


def test_playing_a_plan_is_an_episode_of_the_environment() -> None:
    """Random actions for Hopper: one plan runs until it falls, the other ends before."""
    env, rng = gym.make("Hopper-v5"), np.random.default_rng(0)
    start = env.reset(seed=0)[0].astype(np.float32)
    actions = np.repeat(rng.uniform(-1, 1, (1, 60, 3)).astype(np.float32), 2, axis=0)
    rewards = []
    for action in actions[0]:
        _, reward, terminated, _, _ = env.step(action)
        rewards.append(reward)
        if terminated:
            break
    states = np.zeros((2, 61, 11), np.float32)
    states[:, 0] = start
    nothing = np.zeros((2, 60), np.float32)
    plans = SyntheticTrajectories(states, actions, nothing, nothing > 0, np.array([60, 5]), 0)
    played = guidance.play(simulator_for("Hopper-v5"), plans)
    np.testing.assert_allclose(played.returns, [sum(rewards), sum(rewards[:5])], rtol=0.01)  # float32 states drift
    assert played.survived.tolist() == [len(rewards) == 60, False]
    assert len(played.rows) == len(rewards) + 5
    assert played.rows.terminated.sum() == 1


def test_every_target_and_scale_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    collect("Hopper-v5", "random", 30, tmp_path / "data", progress=False)
    model = tiny_diffuser(open_trajectories(tmp_path / "data"), replace(TINY, guide="return"))
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "figures.json"
    places = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--json", str(out)]
    monkeypatch.setattr(
        sys, "argv", ["guidance", *places, "--targets", "0.2", "0.8", "--scales", "1", "--windows", "9"]
    )
    guidance.main()
    figures = json.loads(out.read_text())
    assert [(f["scale"], f["target"]) for f in figures] == [(None, None), (0.0, None), (1.0, 0.2), (1.0, 0.8)]
    for line in figures:
        assert np.isfinite([line[name] for name in ("window", "imagined", "surprise")]).all()
        assert 0 <= line["survived"] <= 1
        assert line["scale"] is None or line["episode"] > 0
    assert figures[0]["imagined"] == pytest.approx(figures[0]["window"], rel=0.05)  # what the data's actions were paid
    assert len(capsys.readouterr().out.splitlines()) == 6
