# ruff: noqa: ARG002 (stand-ins keep the signature of what they stand for)
"""Guidance against closed forms: exact networks whose two predictions differ in a known way."""

from __future__ import annotations

import math

import pytest
import torch

from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.edm import SIGMA_DATA, sample_edm
from atradiff.diffusion.guided import SCORE_FEATURES, ScoreConditioned, guided, score_features, with_some_dropped
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.residual_mlp import ResidualMLP
from atradiff.diffusion.shortcut import sample_shortcut, shortcut_loss

SPREAD = 0.5


def asked(batch, score=0.7):
    return Condition(torch.zeros(batch, 2), torch.full((batch,), 4), scores=torch.full((batch,), score))


def wide(x):
    return x[:, None, None]


class Exact(RowNetwork):
    """Rows are around the score where it is known, around 0 where it is not."""

    row_size = 3

    def __init__(self):
        super().__init__()
        self.batches = []

    def centre(self, condition):
        self.batches.append(len(condition.states))
        return wide(condition.scores.nan_to_num())

    def matrices(self):
        return []


class PointFlow(Exact):
    """The exact velocity towards the centre."""

    def forward(self, rows, noise, step, condition):
        return (self.centre(condition) - rows) / (1 - wide(noise)).clamp_min(1e-4)


class GaussianDenoiser(Exact):
    """F of EDM's equation 7 such that D is exact for N(centre, SPREAD^2)."""

    def forward(self, rows, noise, step, condition):
        sigma = wide((4 * noise).exp())
        x = rows * (sigma**2 + SIGMA_DATA**2).sqrt()
        clean = (x * SPREAD**2 + self.centre(condition) * sigma**2) / (SPREAD**2 + sigma**2)
        total = sigma**2 + SIGMA_DATA**2
        return (clean - x * SIGMA_DATA**2 / total) / (sigma * SIGMA_DATA / total.sqrt())


@pytest.mark.parametrize("scale", [0.5, 1, 2, 3])
@pytest.mark.parametrize("calls", [1, 4])
def test_a_flow_arrives_at_scale_times_the_way(scale, calls):
    noise = torch.randn(3, 16, 4, 3, generator=torch.Generator().manual_seed(0))
    rows = sample_shortcut(guided(PointFlow(), scale), noise, asked(16), calls)
    torch.testing.assert_close(rows, torch.full_like(rows, 0.7 * scale), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [1, 2.5])
def test_edm_keeps_the_spread_and_moves_the_mean_scale_times_as_far(scale):
    """The classifier's gradient is constant for equal spreads: samples are N(scale x score, SPREAD^2)."""
    noise = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0))
    rows = sample_edm(guided(GaussianDenoiser(), scale), noise, asked(4000), 60, "heun")
    assert rows.mean().item() == pytest.approx(0.7 * scale, abs=0.02)
    assert rows.std().item() == pytest.approx(SPREAD, abs=0.02)


@pytest.mark.parametrize(("scale", "windows"), [(0, 5), (1, 5), (2, 10)])
def test_a_second_prediction_is_made_where_one_is_not_enough_and_in_the_same_pass(scale, windows):
    network = PointFlow()
    sample_shortcut(guided(network, scale), torch.zeros(2, 5, 4, 3), asked(5), 2)
    assert network.batches == [windows, windows]


def test_features_are_cosines_or_unknown():
    features = score_features(torch.tensor([0.0, 0.25, math.nan]))
    assert features.shape == (3, SCORE_FEATURES)
    torch.testing.assert_close(features[0], torch.tensor([1.0] * 8 + [0]))
    torch.testing.assert_close(features[1, :4], torch.tensor([1, 0.5**0.5, 0, -(0.5**0.5)]), atol=1e-6, rtol=0)
    torch.testing.assert_close(features[2], torch.tensor([0.0] * 8 + [1]))


def told_network():
    torch.manual_seed(0)
    return ScoreConditioned(ResidualMLP(3, 2, 4, 16, 1, task_size=SCORE_FEATURES))


def test_no_scores_are_unknown_scores():
    network, rows = told_network(), torch.randn(5, 4, 3)
    level, unknown = torch.full((5,), 0.5), asked(5, math.nan)
    without = Condition(unknown.states, unknown.lengths)
    torch.testing.assert_close(network(rows, level, level, unknown), network(rows, level, level, without))
    assert not torch.equal(network(rows, level, level, asked(5)), network(rows, level, level, unknown))


def test_unknown_scores_leave_gradients_finite_and_teach_the_null_embedding_alone():
    network = told_network()
    shortcut_loss(network, network, torch.randn(8, 4, 3), asked(8, math.nan), torch.Generator()).backward()
    of_score = network.network.project.weight.grad[:, -SCORE_FEATURES:]
    assert of_score[:, :-1].abs().max() == 0
    assert of_score[:, -1].abs().max() > 0


def test_the_self_made_targets_are_told_the_same_scores():
    """The averaged network, which makes the targets, is asked with the scores of the first quarter."""
    seen = []

    class Listening(PointFlow):
        def forward(self, rows, noise, step, condition):
            seen.append(condition.scores)
            return super().forward(rows, noise, step, condition)

    scores = torch.linspace(0, 1, 16).masked_fill(torch.arange(16) % 3 == 0, math.nan)
    condition = Condition(torch.zeros(16, 2), torch.full((16,), 4), scores=scores)
    shortcut_loss(Listening(), Listening(), torch.zeros(16, 4, 3), condition, torch.Generator().manual_seed(0))
    first, second, all_of_them = seen
    for part in (first, second):
        torch.testing.assert_close(part, scores[:4], equal_nan=True)
    torch.testing.assert_close(all_of_them, scores, equal_nan=True)


def test_about_the_share_that_is_asked_for_is_dropped():
    scores = torch.linspace(0, 1, 10_000)
    kept = with_some_dropped(scores, 0.15, torch.Generator().manual_seed(0))
    assert kept.isnan().float().mean().item() == pytest.approx(0.15, abs=0.01)
    torch.testing.assert_close(kept[~kept.isnan()], scores[~kept.isnan()])
