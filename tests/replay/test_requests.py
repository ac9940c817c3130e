"""Requests against a model that keeps three sets: waiting, outstanding, done."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_worlds import SPACES, answer, numbered

from atradiff.replay.chunks import ChunkName
from atradiff.replay.mixed import MixedReplay, ReplayConfig
from atradiff.replay.requests import GenerationRequest, RequestQueue


def _request(i: int) -> GenerationRequest:
    return GenerationRequest(i, i, np.array([i], np.float32))


STEP = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 4)),
    st.tuples(st.sampled_from(["back", "settle"]), st.lists(st.integers(0, 25), max_size=4, unique=True)),
    st.tuples(st.just("add"), st.just(0)),
)


@settings(max_examples=200)
@given(steps=st.lists(STEP, max_size=40))
def test_each_request_is_in_one_place_and_settled_once(steps: list[tuple[str, object]]) -> None:
    queue = RequestQueue()
    waiting: set[int] = set()
    lent: set[int] = set()
    made = 0
    for what, value in steps:
        if what == "add":
            queue.add(_request(made))
            waiting.add(made)
            made += 1
        elif what == "take":
            taken = [r.request_id for r in queue.take(int(value))]  # type: ignore[call-overload]
            assert taken == sorted(waiting)[: int(value)]  # type: ignore[call-overload]
            waiting -= set(taken)
            lent |= set(taken)
        else:
            ids: list[int] = list(value)  # type: ignore[call-overload]
            if what == "settle":  # also by a late answer, to one that waits again
                assert queue.settle([_request(i) for i in ids]).tolist() == [i in lent | waiting for i in ids]
                waiting -= set(ids)
            else:
                assert queue.put_back([_request(i) for i in ids]) == len(lent & set(ids))
                waiting |= lent & set(ids)
            lent -= set(ids)
        assert [r.request_id for r in queue] == sorted(waiting)
        assert queue.outstanding == len(lent)
    again = RequestQueue.waiting(queue.everything())
    assert [r.request_id for r in again] == sorted(waiting | lent)
    assert again.outstanding == 0


def test_an_answer_to_another_state_under_the_same_number_is_none() -> None:
    queue = RequestQueue()
    queue.add(_request(3))
    queue.take(1)
    assert queue.settle([GenerationRequest(3, 3, np.array([9], np.float32))]).tolist() == [False]
    assert queue.outstanding == 1


def test_generators_slower_than_the_patience_of_their_pool_get_something_done() -> None:
    replay = _asking(4)
    requests = replay.take_requests(4)
    assert replay.put_back(requests) == 4
    late = answer(4, 2)
    assert replay.store_synthetic(requests[:3], late.rows[:6], late.lengths[:3], 0) == 6
    again = replay.take_requests(4)  # what nobody has answered yet
    assert [request.request_id for request in again] == [requests[3].request_id]
    assert replay.store_synthetic(requests, late.rows, late.lengths, 0) == 2
    assert (replay.pending, replay.outstanding, replay.counters.answers_ignored) == (0, 0, 3)


def _asking(rows: int, **config: object) -> MixedReplay:
    """A request per row."""
    options = {"capacity": 100, "rho": 0.5, "expected_length": 1.0, **config}
    replay = MixedReplay(SPACES, ReplayConfig(**options), seed=0)  # type: ignore[arg-type]
    replay.store(numbered(0, rows))
    return replay


def test_a_second_answer_is_ignored_and_counted() -> None:
    replay = _asking(4)
    requests = replay.take_requests(3)
    assert (replay.pending, replay.outstanding) == (1, 3)
    first = answer(3, 2)
    assert replay.store_synthetic(requests, first.rows, first.lengths, 0) == 6
    assert replay.store_synthetic(requests[1:], first.rows[:4], first.lengths[1:], 0) == 0
    assert replay.put_back(requests) == 0
    assert (replay.counters.trajectories, replay.counters.answers_ignored) == (3, 2)
    assert (replay.pending, replay.outstanding, len(replay.synthetic)) == (1, 0, 6)


def test_requests_that_are_too_old_are_dropped_when_taken() -> None:
    replay = _asking(4, max_request_age=10)  # made at steps 1..4
    replay.store(numbered(4, 9))  # step 13
    assert [r.requested_at for r in replay.take_requests(3)] == [3, 4, 5]
    assert replay.counters.requests_dropped == 2
    assert replay.counters.requests == 13 == replay.pending + replay.outstanding + 2


def test_a_repeated_chunk_is_stored_once(tmp_path: Path) -> None:
    replay = _asking(0)
    keys = np.zeros(2, np.int64)
    assert replay.store(numbered(0, 2), keys, ChunkName("a", 0)).tolist() == [0, 1]
    assert replay.store(numbered(0, 2), keys, ChunkName("a", 0)).tolist() == []
    assert replay.store(numbered(6, 2), keys, ChunkName("a", 3)).tolist() == [2, 3]
    assert replay.store(numbered(0, 2), keys, ChunkName("b", 0)).tolist() == [4, 5]
    replay.save(tmp_path)
    again = _asking(0)
    again.load(tmp_path)
    for one in (replay, again):
        assert one.store(numbered(6, 2), keys, ChunkName("a", 3)).tolist() == []
        assert one.store(numbered(2, 2), keys, ChunkName("a", 1)).tolist() == [6, 7]
        assert (one.counters.env_steps, one.counters.requests, one.counters.chunks_repeated) == (8, 8, 2)


def test_a_request_is_the_same_after_a_journey() -> None:
    request = GenerationRequest(7, 9, np.array([1.5, -2.25, 3e-8], np.float32))
    arrived = pickle.loads(pickle.dumps(request))
    assert arrived.same_as(request)
    assert (arrived.state.dtype, arrived.state.shape) == (np.float32, (3,))
