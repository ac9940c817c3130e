"""Pick-up strategies against naive loops over dictionaries and lists."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.adaptation.config import PickUpConfig
from atradiff.adaptation.pickup import NewestPickUp, UniformPickUp, make_pick_up
from atradiff.adaptation.reward_index import RewardPickUp
from atradiff.adaptation.td_index import TdErrorPickUp
from atradiff.types import Transitions


def rows(rewards, ends=None):
    """Rows of which only rewards and ends matter; an end is a truncation where its index is odd."""
    n = len(rewards)
    ends = np.zeros(n, bool) if ends is None else np.asarray(ends, bool)
    nothing = np.zeros((n, 1), np.float32)
    odd = np.arange(n) % 2 == 1
    return Transitions(nothing, nothing, np.asarray(rewards, np.float32), nothing, ends & ~odd, ends & odd)


def store(pick_up, n):
    first = pick_up.ring.total
    pick_up.stored(np.arange(first, first + n), rows(np.zeros(n)), np.zeros(n, np.int64))


class NaiveTdIndex:
    """The rule in words, as a loop: only for ``evict_lowest`` = 1, where nothing is left to chance."""

    def __init__(self, size, capacity):
        self.size, self.capacity, self.total, self.entries = size, capacity, 0, {}

    def stored(self, n):
        self.total += n
        self.entries = {r: i for r, i in self.entries.items() if r >= self.total - self.capacity}

    def scored(self, row_ids, errors):
        last = {r: e for r, e in zip(row_ids, errors, strict=True) if self.total - self.capacity <= r < self.total}
        new = sorted(r for r in last if r not in self.entries)
        self.entries |= {r: e for r, e in last.items() if r in self.entries}
        while new:
            room = self.size - len(self.entries) or min(self.size, len(new))
            batch, new = new[:room], new[room:]
            for _ in range(len(self.entries) + len(batch) - self.size):
                del self.entries[min(self.entries, key=self.entries.get)]
            self.entries |= {r: last[r] for r in batch}


@settings(max_examples=150)
@given(data=st.data(), size=st.integers(1, 12), capacity=st.integers(1, 40))
def test_the_td_index_is_the_naive_one(data, size, capacity):
    size = min(size, capacity)
    index = TdErrorPickUp(PickUpConfig(entries=size, evict_lowest=1.0), capacity, seed=0)
    naive, errors = NaiveTdIndex(size, capacity), iter(np.random.default_rng(0).permutation(4000).astype(np.float32))
    for _ in range(data.draw(st.integers(1, 15))):
        n = data.draw(st.integers(0, 12))
        store(index, n)
        naive.stored(n)
        if naive.total:
            ids = data.draw(st.lists(st.integers(0, naive.total + 2), max_size=20))
            values = [float(next(errors)) for _ in ids]
            index.scored(np.array(ids, np.int64), np.array(values, np.float32))
            naive.scored(ids, values)
        picked = index.pick(5)
        expected = sorted(naive.entries.items(), key=lambda item: -item[1])
        assert len(index) == len(expected)
        assert list(zip(picked.row_ids.tolist(), picked.importance.tolist(), strict=True)) == expected[:5]
        assert picked.ages.tolist() == [naive.total - 1 - r for r, _ in expected[:5]]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 100),
    share=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    batches=st.lists(st.integers(1, 30), min_size=1, max_size=20),
)
def test_equal_values_and_chance_keep_the_index_whole(seed, share, batches):
    """Ties, random evictions and overwritten rows: no row is there twice, none is lost before the index is full."""
    index, rng = TdErrorPickUp(PickUpConfig(entries=10, evict_lowest=share), 25, seed), np.random.default_rng(seed)
    for n in batches:
        store(index, n)
        held = {r for r in index.row_ids.tolist() if r >= index.ring.oldest}
        ids = index.ring.oldest + rng.integers(min(index.ring.total, 25), size=8)
        index.scored(ids, rng.integers(3, size=8).astype(np.float32))
        assert len(index) == min(len(held | set(ids.tolist())), 10)
        held = index.row_ids
        assert len(set(held.tolist())) == len(held) == len(index) <= 10
        assert (held >= index.ring.oldest).all()
        assert set(held.tolist()) >= set(ids.tolist()) or len(held) == 10


def test_a_full_index_gives_up_the_lowest_four_times_in_five():
    index, lowest = TdErrorPickUp(PickUpConfig(entries=50), 100_000, seed=1), 0
    store(index, 50)
    index.scored(np.arange(50), np.arange(50, dtype=np.float32))
    for _ in range(4000):
        before = index.pick(50)
        store(index, 1)
        index.scored(np.array([index.ring.total - 1]), np.array([float(index.ring.total)], np.float32))
        lowest += int(before.row_ids[-1]) not in set(index.row_ids.tolist())
    assert lowest / 4000 == pytest.approx(0.8 + 0.2 / 50, abs=0.025)  # four standard errors


def test_rescoring_asks_once_and_changes_what_is_evicted():
    index, calls = TdErrorPickUp(PickUpConfig(entries=4, evict_lowest=1.0), 100, seed=0), []
    store(index, 6)
    index.scored(np.arange(4), np.array([4, 3, 2, 1], np.float32))
    index.scored(np.array([4]), np.array([5], np.float32))  # row 3 goes

    def score(row_ids):
        calls.append(sorted(row_ids.tolist()))
        return row_ids.astype(np.float32)

    index.rescore(score)
    assert calls == [[0, 1, 2, 4]]
    assert index.pick(2).row_ids.tolist() == [4, 2]
    index.scored(np.array([5]), np.array([9], np.float32))
    assert sorted(index.row_ids.tolist()) == [1, 2, 4, 5]


def test_errors_that_are_not_finite_are_not_indexed():
    index = TdErrorPickUp(PickUpConfig(entries=4), 10, seed=0)
    store(index, 3)
    index.scored(np.arange(3), np.array([np.nan, np.inf, 1], np.float32))
    assert index.row_ids.tolist() == [2]


@st.composite
def interleaved(draw):
    """(rewards, episode keys, ends) in chunks: three senders, each with one open episode at a time."""
    lengths = [draw(st.lists(st.integers(1, 6), max_size=6)) for _ in range(3)]
    senders = [
        [(f"{s}-{e}", t == n - 1) for e, n in enumerate(lengths[s]) for t in range(n)][: draw(st.integers(0, 30))]
        for s in range(3)
    ]
    chunks = []
    while any(senders):
        s = draw(st.sampled_from([i for i in range(3) if senders[i]]))
        n = draw(st.integers(1, 5))
        chunks.append([(hash(key) % 2**60, end) for key, end in senders[s][:n]])
        senders[s] = senders[s][n:]
    return chunks


@settings(max_examples=150)
@given(chunks=interleaved(), capacity=st.integers(3, 60), size=st.integers(1, 12), data=st.data())
def test_the_reward_index_holds_the_rows_of_the_best_episodes(chunks, capacity, size, data):
    """An open episode whose newest row left the ring counts as abandoned: should it go on after all, it begins anew."""
    config = PickUpConfig(indicator="reward", entries=size, drop_oldest=0, drop_random=0, max_uses=10**6)
    index = RewardPickUp(config, capacity, seed=0)
    seen, candidates = [], []
    for chunk in chunks:
        rewards = [float(data.draw(st.integers(-9, 9))) for _ in chunk]
        first = len(seen)
        keys = np.array([key for key, _ in chunk], np.int64)
        index.stored(np.arange(first, first + len(chunk)), rows(rewards, [end for _, end in chunk]), keys)
        seen += [(key, reward) for (key, _), reward in zip(chunk, rewards, strict=True)]
        for key, end in chunk:
            if end:
                total = sum(reward for k, reward in seen if k == key)
                candidates += [(total, r) for r, (k, _) in enumerate(seen) if k == key]
                candidates = sorted(candidates, reverse=True)[:size]
        newest = {key: r for r, (key, _) in enumerate(seen)}
        seen = [(k if newest.get(k, -1) >= len(seen) - capacity else None, reward) for k, reward in seen]
        candidates = [(value, r) for value, r in candidates if r >= len(seen) - capacity]
        picked = index.pick(size)
        found = list(zip(picked.importance.tolist(), picked.row_ids.tolist(), strict=True))
        assert found == candidates


def test_rotation_drops_the_oldest_some_at_random_and_what_was_used_thrice():
    index = RewardPickUp(PickUpConfig(indicator="reward", entries=100), 1000, seed=0)
    end = np.arange(100) == 99
    index.stored(np.arange(100), rows(np.ones(100), end), np.zeros(100, np.int64))
    assert len(index.pick(100)) == 100
    left = index.pick(0)
    assert len(index) < 70
    assert len(left) == 0
    again = RewardPickUp(PickUpConfig(indicator="reward", entries=100), 1000, seed=0)
    again.stored(np.arange(100), rows(np.ones(100), end), np.zeros(100, np.int64))
    again.pick(100)
    kept = again.pick(100).row_ids
    assert len(kept) == 70  # 100 less 20 of the oldest less 10 at random
    assert kept.min() >= 20
    assert len(again.pick(100)) == 70 - 14 - 7
    assert len(again) == 0  # three uses


def test_without_random_drop_only_age_and_use_count():
    index = RewardPickUp(PickUpConfig(indicator="reward", entries=100, drop_random=0), 1000, seed=0)
    index.stored(np.arange(100), rows(np.ones(100), np.arange(100) == 99), np.zeros(100, np.int64))
    index.pick(100)
    assert sorted(index.pick(100).row_ids.tolist()) == list(range(20, 100))


def test_an_episode_whose_sender_died_is_forgotten():
    index = RewardPickUp(PickUpConfig(indicator="reward"), 10, seed=0)
    index.stored(np.arange(4), rows(np.ones(4)), np.full(4, 7))
    index.stored(np.arange(4, 20), rows(np.ones(16)), np.full(16, 8))
    before = index.nbytes
    index.stored(np.arange(20, 21), rows([1.0], [True]), np.full(1, 8))
    assert before == 16 * 8  # of episode 8 alone
    assert index.pick(100).row_ids.tolist() == list(range(20, 10, -1))
    assert index.ring.oldest == 11


def test_controls():
    newest, uniform = NewestPickUp(10), UniformPickUp(10, seed=0)
    for pick_up in (newest, uniform):
        assert len(pick_up.pick(5)) == 0
        store(pick_up, 25)
    assert newest.pick(3).row_ids.tolist() == [24, 23, 22]
    assert sorted(newest.pick(99).row_ids.tolist()) == sorted(uniform.pick(99).row_ids.tolist()) == list(range(15, 25))
    counts = np.bincount(np.concatenate([uniform.pick(5).row_ids for _ in range(2000)]) - 15, minlength=10)
    assert np.abs(counts / 1000 - 1).max() < 0.1


@pytest.mark.parametrize("indicator", ["td", "reward", "uniform", "newest"])
def test_saved_and_loaded_goes_on_the_same(tmp_path, indicator):
    config = PickUpConfig(indicator=indicator, entries=30)
    one, other = make_pick_up(config, 80, seed=3), make_pick_up(config, 80, seed=9)
    rng = np.random.default_rng(0)

    def go_on(pick_up, rng):
        picks = []
        for _ in range(12):
            first = pick_up.ring.total
            ids = np.arange(first, first + 15)
            pick_up.stored(ids, rows(rng.normal(size=15), rng.random(15) < 0.2), rng.integers(3, size=15))
            scored = pick_up.ring.oldest + rng.integers(pick_up.ring.total - pick_up.ring.oldest, size=20)
            pick_up.scored(scored, rng.exponential(size=20).astype(np.float32))
            picks.append(pick_up.pick(10).row_ids.tolist())
        return picks

    go_on(one, rng)
    one.save(tmp_path)
    other.load(tmp_path)
    assert go_on(one, np.random.default_rng(1)) == go_on(other, np.random.default_rng(1))


def test_another_strategys_files_are_refused(tmp_path):
    make_pick_up(PickUpConfig(indicator="td", entries=20), 100, seed=0).save(tmp_path)
    with pytest.raises(ValueError, match=r"kind 'td'.*this run has 'reward'"):
        make_pick_up(PickUpConfig(indicator="reward"), 100, seed=0).load(tmp_path)
    with pytest.raises(ValueError, match="'capacity': 100"):
        make_pick_up(PickUpConfig(indicator="td", entries=20), 101, seed=0).load(tmp_path)
    assert json.loads((tmp_path / "pick_up.json").read_text())["strategy"] == "td"


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"indicator must be one of td, .*got 'tde'"):
        PickUpConfig(indicator="tde")
    with pytest.raises(ValueError, match=r"drop_random must lie in 0..1, got 10"):
        PickUpConfig(drop_random=10)


def test_a_new_index_travels_light_and_a_used_one_whole():
    index = make_pick_up(PickUpConfig(), 1_000_000, seed=0)
    assert len(pickle.dumps(index)) < 10_000
    store(index, 30)
    index.scored(np.arange(30), np.arange(30, dtype=np.float32))
    copy = pickle.loads(pickle.dumps(index))
    assert copy.pick(5).row_ids.tolist() == index.pick(5).row_ids.tolist() == [29, 28, 27, 26, 25]
    for one in (index, copy):  # as the copy goes on, its list of the lowest must still be about its own values
        one.scored(np.arange(30), np.arange(30, 0, -1, dtype=np.float32))
    assert copy.pick(30).row_ids.tolist() == index.pick(30).row_ids.tolist()
