"""Which chunks have arrived: a sender that heard no answer sends again, and nothing is stored twice."""

from __future__ import annotations

from typing import Any, NamedTuple


class ChunkName(NamedTuple):
    """``sequence`` counts the chunks of ``source`` from 0; each is sent until it is acknowledged."""

    source: str
    sequence: int


class ChunkLog:
    """Remembers per source the first missing number, and those beyond it that came before their turn."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._early: dict[str, set[int]] = {}

    def __contains__(self, chunk: ChunkName) -> bool:
        source, sequence = chunk
        return sequence < self._next.get(source, 0) or sequence in self._early.get(source, ())

    def add(self, chunk: ChunkName) -> None:
        """Remember ``chunk``; what came in order is kept as one number, however long the run."""
        source, sequence = chunk
        early = self._early.setdefault(source, set())
        early.add(sequence)
        first_missing = self._next.get(source, 0)
        while first_missing in early:
            early.remove(first_missing)
            first_missing += 1
        self._next[source] = first_missing
        if not early:
            del self._early[source]

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes, in JSON's types."""
        return {source: [first, sorted(self._early.get(source, ()))] for source, first in self._next.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what :meth:`state` told."""
        self._next = {source: int(first) for source, (first, _) in state.items()}
        self._early = {source: {int(n) for n in early} for source, (_, early) in state.items() if early}
