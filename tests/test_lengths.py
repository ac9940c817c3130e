# ruff: noqa: ARG005 (stand-ins keep the signature of what they stand for)
from __future__ import annotations

import numpy as np
import torch

from atradiff.lengths import LengthEstimator, remaining_rows, round_up
from tests.toys import random_data


def test_time_outs_are_censored_as_the_longest():
    data = random_data([4, 7, 3], [True, False, True])
    assert remaining_rows(data, 5).tolist() == [4, 3, 2, 1, 5, 5, 5, 5, 5, 5, 5, 3, 2, 1]
    assert remaining_rows(data, 2).tolist() == [2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]


def test_quantile_is_the_fewest_rows_that_suffice():
    estimator = LengthEstimator(1, 0, 5)
    probabilities = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.1]])
    estimator.forward = lambda states, task=None: probabilities.log()
    counts = [int(estimator.quantile(torch.zeros(1, 1), level)) for level in (0.3, 0.6, 0.75, 0.95)]
    assert counts == [1, 2, 3, 5]


def test_round_up_to_what_is_trained():
    assert round_up(torch.tensor([1, 5, 6, 25, 30]), (5, 10, 25)).tolist() == [5, 5, 10, 25, 25]


def test_learns_the_distance_to_a_wall():
    torch.manual_seed(0)
    estimator, rng = LengthEstimator(1, 0, 10), np.random.default_rng(0)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=3e-3)
    for _ in range(300):
        remaining = torch.from_numpy(rng.integers(1, 11, size=256))
        loss = estimator.loss(remaining[:, None] / 5 - 1, remaining)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    distances = torch.arange(1, 11)
    assert (estimator.quantile(distances[:, None] / 5 - 1, 0.8) - distances).abs().max() <= 1
