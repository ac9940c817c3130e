"""Requests for imagined trajectories: those that wait, and those that somebody is answering."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.types import BoolArray, FloatArray

_by_age = attrgetter("request_id")


@dataclass(frozen=True)
class GenerationRequest:
    """A trajectory is wanted from ``state`` (S,); ``request_id`` counts requests, ``requested_at`` is an env step."""

    request_id: int
    requested_at: int
    state: FloatArray

    def same_as(self, other: GenerationRequest) -> bool:
        """Whether both ask for the same; dataclass equality cannot compare arrays."""
        return (
            self.request_id == other.request_id
            and self.requested_at == other.requested_at
            and np.array_equal(self.state, other.state)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """By the hundred between processes: plain bytes take a fifth of the time that an array for each takes."""
        return _from_bytes, (self.request_id, self.requested_at, self.state.tobytes())


def _from_bytes(request_id: int, requested_at: int, state: bytes) -> GenerationRequest:
    return GenerationRequest(request_id, requested_at, np.frombuffer(state, np.float32))


class RequestQueue:
    """A request waits, is lent out (outstanding), and is settled once; or goes back to its place among the waiting.

    Iterating gives the waiting ones, oldest first.
    """

    def __init__(self) -> None:
        self._waiting: deque[GenerationRequest] = deque()
        self._outstanding: dict[int, GenerationRequest] = {}

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[GenerationRequest]:
        return iter(self._waiting)

    @property
    def outstanding(self) -> int:
        """Requests that were taken and neither settled nor put back."""
        return len(self._outstanding)

    @property
    def oldest(self) -> GenerationRequest | None:
        """The request that has waited longest; None where none waits."""
        return self._waiting[0] if self._waiting else None

    def add(self, request: GenerationRequest) -> None:
        self._waiting.append(request)

    def drop_before(self, env_step: int) -> int:
        """Forget the waiting requests that were made before ``env_step``; returns how many."""
        before = len(self._waiting)
        while self._waiting and self._waiting[0].requested_at < env_step:
            self._waiting.popleft()
        return before - len(self._waiting)

    def take(self, limit: int) -> list[GenerationRequest]:
        """The oldest waiting requests, at most ``limit``, which are outstanding from now on."""
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._outstanding.update((request.request_id, request) for request in taken)
        return taken

    def put_back(self, requests: Iterable[GenerationRequest]) -> int:
        """Let those of ``requests`` that are outstanding wait again, in their places; returns how many they were."""
        back = [request for request in requests if self._settle_one(request)]
        if not back:
            return 0
        in_order = sorted(back, key=_by_age)
        if self._waiting and in_order[-1].request_id > self._waiting[0].request_id:
            self._waiting = deque(sorted([*in_order, *self._waiting], key=_by_age))
        else:
            self._waiting.extendleft(reversed(in_order))
        return len(back)

    def settle(self, requests: Iterable[GenerationRequest]) -> BoolArray:
        """Which of ``requests`` (n,) were unanswered, in their order; they are no longer.

        An answer may come late, to a request that was put back and waits again. It is as good as any: refused, it would
        be made anew, and by generators that are slower than everybody's patience for ever.
        """
        requests = list(requests)
        settled = np.array([self._settle_one(request) for request in requests], np.bool_)
        if not settled.all() and self._waiting:
            late = {r.request_id: r for r, known in zip(requests, settled, strict=True) if not known}
            answered = {w.request_id for w in self._waiting if (r := late.get(w.request_id)) and w.same_as(r)}
            if answered:
                self._waiting = deque(w for w in self._waiting if w.request_id not in answered)
                settled |= np.array([r.request_id in answered for r in requests])
        return settled

    def everything(self) -> dict[str, NDArray[Any]]:
        """Waiting and outstanding requests, oldest first, as columns: after a restart nobody answers any of them."""
        requests = sorted([*self._outstanding.values(), *self._waiting], key=_by_age)
        return {
            "request_id": np.array([r.request_id for r in requests], np.int64),
            "requested_at": np.array([r.requested_at for r in requests], np.int64),
            "state": np.array([r.state for r in requests], np.float32),
        }

    @classmethod
    def waiting(cls, columns: dict[str, NDArray[Any]]) -> RequestQueue:
        """A queue in which all the requests of :meth:`everything` wait."""
        queue = cls()
        rows = zip(columns["request_id"], columns["requested_at"], columns["state"], strict=True)
        queue._waiting.extend(GenerationRequest(int(i), int(at), np.array(state)) for i, at, state in rows)
        return queue

    def _settle_one(self, request: GenerationRequest) -> bool:
        # After a recovery an id may stand for another state than the one that an old answer is about.
        known = self._outstanding.get(request.request_id)
        if known is None or not known.same_as(request):
            return False
        del self._outstanding[request.request_id]
        return True
