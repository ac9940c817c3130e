"""The pool's rules, without Ray."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.dispatch import LatencyWindow, Roster, Scaler, ScaleRule


def roster_of(n: int, limit: int = 2) -> Roster:
    roster = Roster(limit)
    for number in range(n):
        roster.add(number)
    return roster


def give(roster: Roster) -> int:
    chosen = roster.choose()
    assert chosen is not None
    roster.began(chosen)
    return chosen


def test_idle_ones_first_then_the_one_that_began_first() -> None:
    roster = roster_of(3)
    assert [give(roster) for _ in range(3)] == [0, 1, 2]
    roster.ended(1)
    assert give(roster) == 1
    # all have one in flight; 0's has run for longest
    assert [give(roster) for _ in range(3)] == [0, 2, 1]
    assert roster.choose() is None


def test_a_retired_member_gets_nothing_and_drains() -> None:
    roster = roster_of(2)
    give(roster)
    roster.retire(0)
    assert (len(roster), roster.active, roster.drained) == (1, [1], [])
    assert [give(roster), give(roster)] == [1, 1]
    assert roster.choose() is None
    roster.ended(0)
    assert roster.drained == [0]
    roster.remove(0)
    assert 0 not in roster
    assert roster.in_flight == 2


def test_second_batches_are_asked_for_several_at_once() -> None:
    roster = roster_of(4)
    assert roster.wanted() == 8
    for _ in range(7):
        give(roster)
    assert roster.wanted() == 0  # one could lay a second batch by: that can wait
    roster.ended(0)
    assert roster.wanted() == 2  # half of them could
    roster.ended(3)
    assert roster.wanted() == 3  # 3 idles, and another could lay one by
    for number in (0, 1, 2, 3):
        roster.retire(number)
    assert roster.wanted() == 0


def test_a_single_generator_is_asked_for_as_soon_as_it_has_room() -> None:
    roster = roster_of(1)
    assert give(roster) == 0
    assert roster.wanted() == 1


def test_the_same_number_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="generator 1 is on the roster already"):
        roster_of(2).add(1)


@given(st.integers(1, 6), st.integers(1, 3), st.lists(st.integers(0, 99), max_size=80))
def test_never_above_the_limit_and_never_two_on_one_while_another_idles(n: int, limit: int, moves: list[int]) -> None:
    """Against a naive count of what is in flight; even moves send a batch, odd ones end one of those in flight."""
    roster, running = roster_of(n, limit), []
    for move in moves:
        if move % 2 == 0:
            load = Counter(running)
            chosen = roster.choose()
            if chosen is None:
                assert len(running) == n * limit
                continue
            assert load[chosen] == min(load[number] for number in range(n)) < limit
            roster.began(chosen)
            running.append(chosen)
        elif running:
            roster.ended(running.pop(move % len(running)))
        assert roster.in_flight == len(running)


def test_peak_is_of_the_time_since_it_was_last_asked() -> None:
    roster = roster_of(4)
    for _ in range(3):
        give(roster)
    roster.ended(0)
    roster.ended(1)
    assert roster.take_peak() == 3
    assert roster.take_peak() == 1
    roster.ended(2)
    assert roster.take_peak() == 1
    assert roster.take_peak() == 0


@given(st.lists(st.floats(0, 100), max_size=50), st.integers(1, 20), st.floats(0, 1))
def test_quantiles_are_those_of_the_newest(seconds: list[float], size: int, share: float) -> None:
    window = LatencyWindow(size)
    for value in seconds:
        window.add(value)
    expected = np.quantile(seconds[-size:], share) if seconds else 0.0
    assert window.quantile(share) == pytest.approx(expected)


RULE = ScaleRule(minimum=1, maximum=4, grow_at_age=100, grow_after=2.0, shrink_after=10.0)


def test_grows_only_after_a_while_and_then_waits_for_the_effect() -> None:
    scaler = Scaler(RULE)
    late = [scaler.size(now, 2, age=150, peak=4) for now in (0.0, 1.0, 1.9, 2.0, 2.1)]
    assert late == [2, 2, 2, 3, 2]
    assert scaler.size(4.0, 3, age=150, peak=6) == 3
    assert scaler.size(4.2, 3, age=150, peak=6) == 4


def test_a_short_delay_is_no_reason_to_grow() -> None:
    scaler = Scaler(RULE)
    for now in range(20):
        age = 50 if now % 2 else 150
        assert scaler.size(float(now), 2, age=age, peak=4) == 2


def test_shrinks_when_somebody_idled_all_the_time() -> None:
    scaler = Scaler(RULE)
    assert [scaler.size(float(now), 3, age=0, peak=2) for now in range(11)] == [3] * 10 + [2]
    # one busy moment begins the wait anew
    busy = Scaler(RULE)
    sizes = [busy.size(float(now), 3, age=0, peak=3 if now == 9 else 2) for now in range(20)]
    assert sizes == [3] * 20
    assert busy.size(20.0, 3, age=0, peak=2) == 2


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 300), st.integers(0, 12)), max_size=60), st.integers(0, 9))
def test_always_within_bounds_and_one_step_at_a_time(seen: list[tuple[float, int, int]], start: int) -> None:
    scaler, now, size = Scaler(RULE), 0.0, start
    for wait, age, peak in seen:
        now += wait
        wanted = scaler.size(now, size, age, peak)
        assert RULE.minimum <= wanted <= RULE.maximum
        if RULE.minimum <= size <= RULE.maximum:
            assert abs(wanted - size) <= 1
        size = wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minimum": 0}, "got minimum=0, maximum=4"),
        ({"minimum": 5}, "got minimum=5, maximum=4"),
        ({"grow_at_age": 0}, "grow_at_age must be at least 1"),
        ({"grow_after": -1.0}, "must not be negative, got -1.0"),
    ],
)
def test_rules_that_make_no_sense(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleRule(**({"minimum": 1, "maximum": 4, "grow_at_age": 100} | settings))
