"""Scores by RLlib's own networks: against RLlib's own TD errors, a loop by hand, and in time for a pick."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from toy_configs import CONFIGS, tiny_config
from toy_worlds import CountingWorld, spaces_of

from atradiff.adaptation.config import AdaptationConfig, PickUpConfig
from atradiff.adaptation.service import AdaptingServices
from atradiff.types import FloatArray, Transitions
from rllib_ext import ATraDiffCallback
from rllib_ext import callback as callback_module
from rllib_ext.stock_scoring import StockScorer
from tests.toys import random_data, tiny_diffuser

pytestmark = pytest.mark.usefixtures("local_ray")
GAMMA = 0.9


def lived(n: int, discrete: bool) -> Transitions:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, n, 3)).astype(np.float32)
    ends = rng.random((2, n)) < 0.3
    actions = rng.integers(3, size=n) if discrete else rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    return Transitions(
        states[0], actions, rng.normal(size=n).astype(np.float32), states[1], ends[0], ends[1] & ~ends[0]
    )


def q_of(module: Any, state: torch.Tensor, action: Any) -> float:
    """By the layers themselves, one row at a time, one critic at a time."""
    if hasattr(module, "qf_encoders"):  # TQC
        inputs = {"obs": state[None], "actions": action[None]}
        pairs = zip(module.qf_encoders, module.qf_heads, strict=True)
        return float(np.mean([head(encoder(inputs)["encoder_out"]).mean() for encoder, head in pairs]))
    if hasattr(module, "qf_encoder"):  # SAC
        inputs = {"obs": state[None]} if isinstance(action, int) else {"obs": state[None], "actions": action[None]}
        critics = [(module.qf_encoder, module.qf), (module.qf_twin_encoder, module.qf_twin)]
        rows = [head(encoder(inputs)["encoder_out"])[0] for encoder, head in critics]
        return min(float(row[action if isinstance(action, int) else 0]) for row in rows)
    hidden = module.encoder({"obs": state[None]})["encoder_out"]  # DQN, dueling
    advantages = module.af(hidden)[0]
    return float(module.vf(hidden)[0, 0] + advantages[action] - advantages.mean())


def naive(module: Any, rows: Transitions) -> list[float]:
    errors, discrete = [], rows.actions.dtype.kind == "i"
    for i in range(len(rows)):
        here, after = (torch.from_numpy(s[i]) for s in (rows.observations, rows.next_observations))
        if discrete:
            value = max(q_of(module, after, a) for a in range(3))
            q = q_of(module, here, int(rows.actions[i]))
        else:
            loc = module.pi(module.pi_encoder({"obs": after[None]})["encoder_out"])[0, :2]
            value = q_of(module, after, torch.tanh(loc))
            q = q_of(module, here, torch.from_numpy(rows.actions[i]))
        errors.append(abs(rows.rewards[i] + (0 if rows.terminated[i] else GAMMA * value) - q))
    return errors


@pytest.mark.parametrize(("name", "discrete"), [*((name, name == "DQN") for name in CONFIGS), ("SAC", True)])
@torch.no_grad()
def test_scores_are_those_of_the_definition(name: str, discrete: bool) -> None:
    """Truncation is no end; |r + gamma max Q(s', a') - Q(s, a)|, minimum of SAC's critics, mean of TQC's quantiles."""
    algorithm = tiny_config(name, discrete=discrete).build_algo()
    try:
        group, rows = algorithm.learner_group, lived(40, discrete)
        module = group._learner.module[DEFAULT_MODULE_ID]
        scores = StockScorer(group, GAMMA, seed=0)(rows, 1)
        np.testing.assert_allclose(scores, naive(module, rows), rtol=1e-4, atol=1e-5)
        state = torch.get_rng_state()
        several = StockScorer(group, GAMMA, seed=0)(rows, 3)
        assert torch.equal(state, torch.get_rng_state())
        assert (several == scores).all() == discrete  # no draws where all actions are tried
        np.testing.assert_array_equal(several, StockScorer(group, GAMMA, seed=0)(rows, 3))
        assert StockScorer(group, GAMMA, 0)(rows[np.arange(0)], 1).shape == (0,)
    finally:
        algorithm.stop()


class Noting(StockScorer):
    """Keeps what it says."""

    said: ClassVar[list[FloatArray]] = []

    def __call__(self, rows: Transitions, draws: int) -> FloatArray:
        self.said.append(super().__call__(rows, draws))
        return self.said[-1]


def test_the_index_is_scored_by_the_learner_before_each_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[FloatArray] = []
    monkeypatch.setattr(Noting, "said", scored)
    monkeypatch.setattr(callback_module, "StockScorer", Noting)
    data = random_data([12] * 6, [True] * 6, spaces=spaces_of(CountingWorld()))
    pick_up = PickUpConfig("td", entries=60, picked=20)
    adaptation = AdaptationConfig(
        pick_up, every=40, steps=2, tokens_per_step=24, dynamics_updates=1, min_windows=2, max_forgetting=None
    )
    diffuser = tiny_diffuser(data)
    services = AdaptingServices(diffuser, data, adaptation)
    callback = ATraDiffCallback.using(diffuser, services=services, requests_per_batch=4, expected_length=4)
    algorithm = tiny_config("SAC").callbacks(callback).build_algo()
    try:
        for _ in range(2):
            algorithm.train()
        service = algorithm.local_replay_buffer.service
        report = service.adaptation.last_report
        assert report.env_steps == 80
        assert report.outcome == "accepted"
        assert len(scored) == 2
        np.testing.assert_array_equal(report.importance, np.sort(scored[1])[::-1][:20])
    finally:
        algorithm.stop()
