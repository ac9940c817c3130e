from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.pruning import gated_rows, kept_rows, paper_rows, step_similarity

SCALE = np.geomspace(0.1, 2, 11).astype(np.float32)


def naive_paper(c):
    """Section 4.2 as printed, with one-based i over the n states."""
    n = len(c) + 1
    if n <= 3:
        return len(c)
    gaps = {i: abs(np.mean(c[:i]) - np.sum(c[i - 2 :]) / (n - i + 1)) for i in range(2, n)}
    return max(gaps, key=gaps.get) - 1


def naive_gated(c, tolerance):
    """Prefix and suffix means, one cut at a time."""
    best, kept = -np.inf, len(c)
    for e in range(1, len(c)) if len(c) >= 3 else ():
        before, after = np.mean(c[:e]), np.mean(c[e:])
        score = (after - before) ** 2 * e * (len(c) - e) / len(c)
        if after > before and score > best:
            best, kept, calm = score, e, after
    return kept if best > -np.inf and calm >= -tolerance else len(c)


similarities = st.lists(st.floats(-3, 0, width=32), min_size=1, max_size=12)


@settings(max_examples=200)
@given(similarities, st.integers(0, 4))
def test_rules_equal_their_naive_loops_whatever_the_padding(values, padding):
    c = np.round(np.array(values), 2).astype(np.float32)  # coarse, so that ties are exact ties
    row = np.concatenate([c, np.full(padding, -9, np.float32)])[None]
    lengths = np.array([len(c)])
    paper, gated = int(paper_rows(row, lengths)[0]), int(gated_rows(row, lengths, 0.3)[0])
    assert 1 <= gated <= len(c)
    assert 1 <= paper <= len(c)
    if not _has_ties(c):
        assert paper == naive_paper(c.astype(np.float64))
        assert gated == naive_gated(c.astype(np.float64), 0.3)


def _has_ties(c):
    """Cuts whose scores differ by rounding only may fall either way."""
    if len(c) < 3:
        return False
    e = np.arange(1, len(c))
    total = np.cumsum(c, dtype=np.float64)
    before, after = total[:-1] / e, (total[-1] - total[:-1]) / (len(c) - e)
    gated = np.sort(np.where(after > before, (after - before) ** 2 * e * (len(c) - e), 0))
    i = np.arange(2, len(c) + 1)
    shifted = np.concatenate([[0], total])
    paper = np.sort(np.abs(total[1:] / i - (total[-1] - shifted[i - 2]) / (len(c) + 2 - i)))
    close = [np.diff(x[-2:]).min(initial=1) < 1e-4 for x in (gated, paper)]
    return any(close) or np.abs(after + 0.3).min() < 1e-4 or np.abs(after - before).min() < 1e-6


def walks(kept, length, noise, batch=500, seed=0):
    """Random walks with unit steps that stand still after ``kept`` rows, all with observation noise on each step."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(batch, length, 11))
    steps *= (np.arange(length) < kept[:, None])[..., None]
    steps += noise * rng.normal(size=steps.shape)
    states = np.concatenate([np.zeros((batch, 1, 11)), np.cumsum(steps * SCALE, axis=1)], axis=1)
    return states.astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
@pytest.mark.parametrize("length", [10, 25])
def test_gated_finds_the_exact_end(length, noise):
    kept = np.random.default_rng(1).integers(2, length - 1, size=500)
    found = kept_rows("gated", walks(kept, length, noise), np.full(500, length), SCALE, noise)
    assert (found == kept).mean() >= 0.95


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_gated_keeps_whole_windows_where_the_paper_cuts_them(noise):
    whole = np.full(500, 25)
    states = walks(whole, 25, noise)
    assert (kept_rows("gated", states, whole, SCALE, noise) == 25).mean() >= 0.98
    assert (kept_rows("paper", states, whole, SCALE, noise) == 25).mean() < 0.6


def test_none_keeps_all_and_columns_that_never_move_do_not_count():
    states, lengths = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32), np.array([5, 4, 3, 1])
    np.testing.assert_array_equal(kept_rows("none", states, lengths, np.ones(2, np.float32), 0.0), lengths)
    expected = -np.abs(np.diff(states[..., 0], axis=1)) / 0.5
    np.testing.assert_allclose(step_similarity(states, np.array([0.5, 0], np.float32)), expected, rtol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_gated_finds_the_ends_of_real_falls(shared_data, noise):
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared_data / "locomotion" / "hopper_medium-replay-v5.hdf5") as file:
        before, after = file["observations"][:], file["next_observations"][:]
        falls = np.flatnonzero(file["terminals"][:])
    scale = (after - before).std(0)
    rng = np.random.default_rng(0)
    kept = rng.integers(2, 8, size=len(falls))  # rows of the fall, then padding up to 10
    rows = np.minimum(falls[:, None] - kept[:, None] + 1 + np.arange(10), falls[:, None])
    still = np.arange(10) >= kept[:, None]
    steps = np.where(still[..., None], 0, after[rows] - before[rows])
    steps = steps + noise * scale * rng.normal(size=steps.shape)
    states = np.concatenate([before[rows[:, :1]], before[rows[:, :1]] + np.cumsum(steps, axis=1)], axis=1)
    found = kept_rows("gated", states.astype(np.float32), np.full(len(falls), 10), scale, noise)
    assert (found == kept).mean() >= 0.95
