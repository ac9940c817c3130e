from __future__ import annotations

import numpy as np
import pytest
import torch

from atradiff.diffusion.two_heads import HeadMerge

SCALE = np.float32([0.02, 0.2, 3.0, 0.0])


def heads_of(batch=5, rows=6, seed=0):
    """(B, K, 2 S) of noise, differences first."""
    return torch.randn(batch, rows, 2 * len(SCALE), generator=torch.Generator().manual_seed(seed))


def by_lstsq(differences, displacements, scale):
    """(B, L) of one column, from (B, L) each, by the definition."""
    length = differences.shape[1]
    steps = np.eye(length) - np.eye(length, k=-1)
    system = np.concatenate([np.eye(length), steps / scale])
    return np.linalg.lstsq(system, np.concatenate([displacements, differences], axis=1).T, rcond=None)[0].T


@pytest.mark.parametrize("longest", [6, 9])
def test_paths_are_least_squares_over_the_rows_of_each_window(longest):
    heads, lengths = heads_of(), torch.tensor([1, 2, 4, 6, 6])
    merge = HeadMerge(torch.from_numpy(SCALE), longest)
    paths = merge(heads, lengths).numpy()
    size = len(SCALE)
    for window, length in enumerate(lengths.tolist()):
        told = heads[window : window + 1, :length].double().numpy()
        for column in range(size - 1):
            expected = by_lstsq(told[..., column], told[..., size + column], SCALE[column])
            np.testing.assert_allclose(paths[window, :length, column], expected[0], rtol=1e-4, atol=1e-5)
        past = np.broadcast_to(paths[window, length - 1], paths[window, length:].shape)
        np.testing.assert_allclose(paths[window, length:], past, rtol=1e-4, atol=1e-5)
    assert not paths[..., -1].any()  # a column that never moves


def test_what_comes_after_a_window_says_nothing():
    heads, lengths = heads_of(), torch.full((5,), 3)
    merge = HeadMerge(torch.from_numpy(SCALE), 6)
    told = merge(heads, lengths)
    heads[:, 3:] = float("inf")
    torch.testing.assert_close(merge(heads, lengths), told)
    torch.testing.assert_close(merge(heads[:, :3], torch.full((5,), 6)), told[:, :3])  # cut from a longer one


def test_heads_that_agree_are_believed():
    rng = np.random.default_rng(0)
    path = rng.normal(size=(3, 6, len(SCALE))).cumsum(1).astype(np.float32) * (SCALE > 0)
    differences = np.diff(path, axis=1, prepend=0) / np.where(SCALE > 0, SCALE, 1)
    heads = torch.from_numpy(np.concatenate([differences, path], axis=-1))
    merged = HeadMerge(torch.from_numpy(SCALE), 8)(heads, torch.full((3,), 6)).numpy()
    np.testing.assert_allclose(merged, path, atol=1e-4)


def test_together_they_are_truer_than_either_where_errors_are_alike():
    """The variance of x_K is what a scalar Kalman filter leaves, far below that of one head alone."""
    rows, scale, noise = 25, 0.3, np.random.default_rng(0).normal(size=(20_000, 25, 2)).astype(np.float32)
    ends = HeadMerge(torch.tensor([scale]), rows)(torch.from_numpy(noise), torch.full((20_000,), rows))[:, -1, 0]
    steady = np.roots([1, scale**2, -(scale**2)]).max()  # v = (v + c^2) / (v + c^2 + 1)
    assert ends.var().item() == pytest.approx(steady, rel=0.03)
    assert steady < min(1, rows * scale**2) / 3


def test_half_precision_around_it_changes_nothing():
    heads, lengths = heads_of(), torch.full((5,), 6)
    merge = HeadMerge(torch.from_numpy(SCALE), 6)
    with torch.autocast("cpu", torch.bfloat16):
        rough = merge(heads, lengths)
    torch.testing.assert_close(rough, merge(heads, lengths), rtol=0, atol=0)
