"""What every pick-up strategy can do, and the two controls that need no indicator (ATraDiff, appendix A.1).

A strategy lives beside the ring of real rows. It hears of every row that is stored and of every TD error that the
learner reports, and says which rows the next update starts its windows at. Row ids count the rows that were ever
stored, so a row is in a ring of C rows exactly while its id is at least ``total - C``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atradiff.adaptation.config import PickUpConfig
from atradiff.staging import write_text
from atradiff.types import FloatArray, IntArray, Transitions


@dataclass(frozen=True)
class Picked:
    """N picked rows, the most important first; ``importance`` is NaN where the strategy knows none."""

    row_ids: IntArray  # (N,)
    importance: FloatArray  # (N,)
    ages: IntArray  # (N,) rows stored since

    def __len__(self) -> int:
        return len(self.row_ids)


class PickUp(Protocol):
    """A pick-up strategy; satisfies the replay's own protocol for those who watch it."""

    def stored(self, row_ids: IntArray, rows: Transitions, episodes: IntArray | None) -> None:
        """N real rows went into the ring; ids follow on from the last call's. ``episodes`` (N,) names their episodes,
        whose chunks may be interleaved with those of others."""
        ...

    def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
        """Absolute TD errors (N,) of real rows, by the learner's networks of this moment; ids may repeat."""
        ...

    def pick(self, count: int) -> Picked:
        """At most ``count`` rows for an update; counts as their use."""
        ...

    def save(self, folder: Path) -> None:
        """Write what is needed to go on into ``folder`` (made if absent)."""
        ...

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote; ``ValueError``, changing nothing, where it is of another strategy or size."""
        ...


class RingView:
    """Which rows of a ring of ``capacity`` rows are still there."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.total = capacity, 0

    @property
    def oldest(self) -> int:
        """The lowest id of a row that is still in the ring."""
        return max(self.total - self.capacity, 0)

    def advance(self, row_ids: IntArray) -> None:
        """Rows with these ids were stored."""
        if len(row_ids):
            self.total = int(row_ids[-1]) + 1

    def picked(self, row_ids: IntArray, importance: FloatArray | None = None) -> Picked:
        """Rows (M,) with their ``importance`` (M,), NaN where it is None, and their age: rows stored after them."""
        unknown = np.full(len(row_ids), np.nan, np.float32)
        return Picked(row_ids, unknown if importance is None else importance, self.total - 1 - row_ids)


class NewestPickUp:
    """Control: the newest rows."""

    def __init__(self, capacity: int) -> None:
        self.ring = RingView(capacity)

    def stored(self, row_ids: IntArray, rows: Transitions, episodes: IntArray | None) -> None:  # noqa: ARG002
        self.ring.advance(row_ids)

    def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
        """Of no use here."""

    def pick(self, count: int) -> Picked:
        """At most ``count`` rows, newest first."""
        first = max(self.ring.oldest, self.ring.total - count)
        return self.ring.picked(np.arange(self.ring.total - 1, first - 1, -1))

    def save(self, folder: Path) -> None:
        write_state(folder, "newest", {"capacity": self.ring.capacity}, {"total": self.ring.total}, {})

    def load(self, folder: Path) -> None:
        state, _ = read_state(folder, "newest", {"capacity": self.ring.capacity}, ())
        self.ring.total = state["total"]


class UniformPickUp:
    """Control: rows of the ring at random, each at most once per pick."""

    def __init__(self, capacity: int, seed: int) -> None:
        self.ring = RingView(capacity)
        self._rng = np.random.default_rng(seed)

    def stored(self, row_ids: IntArray, rows: Transitions, episodes: IntArray | None) -> None:  # noqa: ARG002
        self.ring.advance(row_ids)

    def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
        """Of no use here."""

    def pick(self, count: int) -> Picked:
        """At most ``count`` different rows of those in the ring, each as likely as the others."""
        held = self.ring.total - self.ring.oldest
        chosen = self._rng.choice(held, min(count, held), replace=False) if held else np.empty(0, np.int64)
        return self.ring.picked(self.ring.oldest + chosen)

    def save(self, folder: Path) -> None:
        state = {"total": self.ring.total, "rng": self._rng.bit_generator.state}
        write_state(folder, "uniform", {"capacity": self.ring.capacity}, state, {})

    def load(self, folder: Path) -> None:
        """As :class:`PickUp`; the next draws are those that would have followed."""
        state, _ = read_state(folder, "uniform", {"capacity": self.ring.capacity}, ())
        self.ring.total = state["total"]
        self._rng.bit_generator.state = state["rng"]


def make_pick_up(config: PickUpConfig, capacity: int, seed: int) -> PickUp:
    """The strategy of ``config`` over a ring of ``capacity`` real rows."""
    from atradiff.adaptation.reward_index import RewardPickUp
    from atradiff.adaptation.td_index import TdErrorPickUp

    if config.indicator == "td":
        return TdErrorPickUp(config, capacity, seed)
    if config.indicator == "reward":
        return RewardPickUp(config, capacity, seed)
    return UniformPickUp(capacity, seed) if config.indicator == "uniform" else NewestPickUp(capacity)


def write_state(
    folder: Path,
    strategy: str,
    sizes: Mapping[str, int],
    state: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> None:
    """One ``.npy`` per array and, last, ``pick_up.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    write_text(folder / "pick_up.json", json.dumps({"strategy": strategy, "sizes": dict(sizes), "state": dict(state)}))


def read_state(
    folder: Path, strategy: str, sizes: Mapping[str, int], arrays: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What :func:`write_state` wrote; ``ValueError`` where it is of another strategy or of other sizes."""
    found = json.loads((folder / "pick_up.json").read_text(encoding="utf-8"))
    if found["strategy"] != strategy or found["sizes"] != dict(sizes):
        raise ValueError(
            f"{folder} holds a pick-up of kind {found['strategy']!r} with {found['sizes']}, this run has {strategy!r} "
            f"with {dict(sizes)}: resume with the same settings of replay and adaptation."
        )
    return found["state"], {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in arrays}
