"""Who gets the next batch, how long answers take, and how many generators there should be. Plain classes, no Ray."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np


class LatencyWindow:
    """The newest ``size`` latencies in seconds."""

    def __init__(self, size: int = 1024) -> None:
        self._seconds: deque[float] = deque(maxlen=size)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def quantile(self, share: float) -> float:
        """The latency that ``share`` of the window does not exceed; 0 while nothing was added."""
        return float(np.quantile(list(self._seconds), share)) if self._seconds else 0.0


@dataclass
class _Member:
    in_flight: int = 0
    last_turn: int = -1
    retired: bool = False


@dataclass
class Roster:
    """The generators at work, by number, each with at most ``limit`` batches in flight.

    More than two in flight would gain nothing and wait behind a generator that died.
    """

    limit: int = 2
    _members: dict[int, _Member] = field(default_factory=dict)
    _turns: int = 0
    _peak: int = 0

    def __len__(self) -> int:
        """Generators that may be given work."""
        return sum(not member.retired for member in self._members.values())

    def __contains__(self, number: int) -> bool:
        return number in self._members

    @property
    def in_flight(self) -> int:
        """Batches that are out, those of retired members too."""
        return sum(member.in_flight for member in self._members.values())

    @property
    def active(self) -> list[int]:
        """Their numbers, oldest member first."""
        return [number for number, member in self._members.items() if not member.retired]

    @property
    def drained(self) -> list[int]:
        """Retired members that owe nothing any more."""
        return [number for number, m in self._members.items() if m.retired and m.in_flight == 0]

    def add(self, number: int) -> None:
        """A new member, with nothing to do; raises ``ValueError`` for a number that is taken."""
        if number in self._members:
            raise ValueError(f"generator {number} is on the roster already.")
        self._members[number] = _Member()

    def retire(self, number: int) -> None:
        """Give it no more batches."""
        self._members[number].retired = True

    def remove(self, number: int) -> None:
        """Forget a member, and what it had in flight; ``KeyError`` where it is none."""
        del self._members[number]

    def choose(self) -> int | None:
        """The least loaded member with room; among equals the one whose last batch began longest ago. None: all full.

        Of two with one batch in flight, the longer running one will be free sooner.
        """
        free = [(m.in_flight, m.last_turn, n) for n, m in self._members.items() if self._has_room(m)]
        return min(free)[2] if free else None

    def wanted(self) -> int:
        """How many batches to ask for now: as many as there is room for, once somebody idles or half could take one.

        A second batch is not urgent: it lies ready for the moment when the first is done. Asking for several of them
        at once saves most of the questions under full load.
        """
        room = [self.limit - member.in_flight for member in self._members.values() if self._has_room(member)]
        urgent = any(free == self.limit for free in room)
        return sum(room) if urgent or 2 * len(room) >= len(self) else 0

    def began(self, number: int) -> None:
        """A batch was sent to this member."""
        member = self._members[number]
        member.in_flight += 1
        member.last_turn, self._turns = self._turns, self._turns + 1
        self._peak = max(self._peak, self.in_flight)

    def ended(self, number: int) -> None:
        """One of its batches came to an end, well or not."""
        self._members[number].in_flight -= 1

    def take_peak(self) -> int:
        """The most batches that were in flight at one time since the last call."""
        peak, self._peak = self._peak, self.in_flight
        return peak

    def _has_room(self, member: _Member) -> bool:
        return not member.retired and member.in_flight < self.limit


@dataclass(frozen=True)
class ScaleRule:
    """When the number of generators changes, one at a time.

    One more after ``grow_after`` seconds in which the oldest waiting request was older than ``grow_at_age`` env steps;
    one less after ``shrink_after`` seconds in which at least one generator had nothing to do.
    """

    minimum: int
    maximum: int
    grow_at_age: int
    grow_after: float = 2.0
    shrink_after: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(
                f"the pool needs 1 <= minimum <= maximum, got minimum={self.minimum}, maximum={self.maximum}."
            )
        if self.grow_at_age < 1:
            raise ValueError(f"grow_at_age must be at least 1 env step, got {self.grow_at_age}.")
        if self.grow_after < 0 or self.shrink_after < 0:
            raise ValueError(
                f"grow_after and shrink_after must not be negative, got {self.grow_after} and {self.shrink_after} s."
            )


class Scaler:
    """Applies a :class:`ScaleRule` to what is seen from time to time."""

    def __init__(self, rule: ScaleRule) -> None:
        self._rule = rule
        self._late_since: float | None = None
        self._idle_since: float | None = None

    def size(self, now: float, size: int, age: int, peak: int) -> int:
        """How many generators there should be.

        Args:
            now: Seconds of a clock that does not go back.
            size: How many there are, those that are starting included.
            age: Env steps that the oldest waiting request has waited.
            peak: The most batches in flight at one time since the last call.
        """
        late = age > self._rule.grow_at_age
        self._late_since = _since(late, self._late_since, now)
        self._idle_since = _since(not late and peak < size, self._idle_since, now)
        if self._late_since is not None and now - self._late_since >= self._rule.grow_after:
            return self._changed(size, size + 1)
        if self._idle_since is not None and now - self._idle_since >= self._rule.shrink_after:
            return self._changed(size, size - 1)
        return self._within(size)

    def _changed(self, size: int, wanted: int) -> int:
        """The clocks start anew: the next step waits for what this one brings."""
        if self._within(wanted) != size:
            self._late_since = self._idle_since = None
        return self._within(wanted)

    def _within(self, size: int) -> int:
        return min(max(size, self._rule.minimum), self._rule.maximum)


def _since(holds: bool, since: float | None, now: float) -> float | None:
    if not holds:
        return None
    return now if since is None else since
