"""Pools of real windows: what is set aside to measure on has no row in common with what is learned from."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.adaptation.windows import WindowPool, pool_windows
from tests.adaptation.adapting import double_actions, filled_replay
from tests.toys import random_data


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(3, 40), min_size=1, max_size=12),
    kept=st.floats(0.1, 1),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 9),
)
def test_parts_have_no_row_in_common(lengths: list[int], kept: float, share: float, seed: int) -> None:
    replay = filled_replay(random_data(lengths, [k % 2 == 0 for k in range(len(lengths))]))
    ends = np.repeat(np.cumsum(lengths), lengths)  # a toy replay numbers its rows from 0, episode by episode

    def rows(first: int, count: int) -> set[int]:
        return set(range(first, min(first + count, int(ends[first]))))

    def rows_of(part: WindowPool) -> set[int]:
        return set().union(*(rows(int(i), int(k)) for i, k in zip(part.row_ids, part.available, strict=True)))

    rng = np.random.default_rng(seed)
    pool = pool_windows(replay, np.flatnonzero(rng.random(len(replay)) < kept), (3, 6), double_actions)
    if len(pool) < 2:
        return
    most, aside = pool.split(share, rng)
    assert len(most) > 0
    assert len(aside) > 0
    aside_rows = rows_of(aside)
    fit = {int(i) for i in set(pool.row_ids) - set(aside.row_ids) if not rows(int(i), 3) & aside_rows}
    if not fit:
        assert set(most.row_ids) == set(pool.row_ids) - set(aside.row_ids)
        return
    assert set(most.row_ids) == fit
    assert not rows_of(most) & aside_rows
    had = dict(zip(pool.row_ids, pool.available, strict=True))
    for row, available in zip(most.row_ids, most.available, strict=True):
        longer_fits = had[row] == 6 and not rows(int(row), 6) & aside_rows
        assert available == (6 if longer_fits else 3)


def test_the_most_of_a_dense_pool_is_learned_from() -> None:
    pool = pool_windows(filled_replay(random_data([5000], [False])), np.arange(5000), (5, 10, 25), double_actions)
    most, aside = pool.split(0.05, np.random.default_rng(0))
    assert 0.04 * len(pool) < len(aside) < 0.06 * len(pool)
    assert len(most) > 0.9 * len(pool)
    assert most.transitions().observations.shape[0] == (np.arange(25) < most.available[:, None]).sum()
