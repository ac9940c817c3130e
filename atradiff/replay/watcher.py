"""Somebody who looks on as rows arrive and are learned from: the picking of online adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from atradiff.types import FloatArray, IntArray, Transitions


class Watcher(Protocol):
    """Told of real rows only. Called by the replay, with its lock held: each call should be short.

    On a cluster it lives in the replay's actor: it is sent there by pickle, and its part of a snapshot is restored
    before the rows of the journal are told to it again.
    """

    def stored(self, row_ids: IntArray, rows: Transitions, episodes: IntArray | None) -> None:
        """n new rows, with the keys (n,) of their episodes where the sender gave them."""
        ...

    def scored(self, row_ids: IntArray, td_errors: FloatArray) -> None:
        """Absolute TD errors (n,) of rows that were learned from; a row may come twice, or have left the ring."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything into ``folder``, which exists and is empty."""
        ...

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote."""
        ...
