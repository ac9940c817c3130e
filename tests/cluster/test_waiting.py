"""Waiting for an actor's answer: it is said what is missing, and a stop does not wait for ever."""

from __future__ import annotations

import threading

import pytest
import ray
from somebody import Somebody

from atradiff.errors import RunFailed
from cluster.replay_actor import RowsLostError
from cluster.waiting import Patience, Waiting

pytestmark = pytest.mark.usefixtures("local_ray")


@ray.remote(num_cpus=0, resources={"a node that is gone": 1})
def never() -> None: ...


def test_answers_and_errors_come_as_the_actor_gave_them() -> None:
    somebody, waiting = Somebody.remote(), Waiting(lambda: None, threading.Event())
    assert waiting.get(somebody.add.remote(2, 3)) == 5
    for call in (somebody.fail.remote(), somebody.fail.remote(Somebody.remote())):  # heard from another actor, too
        with pytest.raises(RowsLostError) as told:
            waiting.get(call)
        assert str(told.value) == "the replay gave no row."  # as the command line shows it: no traceback
        assert isinstance(told.value, RunFailed)


def test_it_is_said_what_is_missing_and_a_stop_ends_the_wait() -> None:
    stop, told = threading.Event(), []

    def tell(message: str) -> None:
        told.append(message)
        if len(told) == 2:
            stop.set()

    waiting = Waiting(lambda: "1 x generator.", stop, Patience(first=0, between=0, stopping=0.5), tell)
    with pytest.raises(RunFailed, match=r"without a new checkpoint.*1 x generator\..*--resume"):
        waiting.get(never.remote())
    assert len(told) >= 2
    assert "s. 1 x generator." in told[0]


def test_what_merely_takes_long_is_waited_for_in_silence() -> None:
    stop, told = threading.Event(), []
    stop.set()
    asked = iter(range(3))
    missing = lambda: None if next(asked) < 2 else "it is gone."  # noqa: E731 - two looks later
    waiting = Waiting(missing, stop, Patience(first=0, between=0, stopping=0), told.append)
    with pytest.raises(RunFailed, match="it is gone"):
        waiting.get(never.remote())
    assert not told
    assert next(asked, None) is None
