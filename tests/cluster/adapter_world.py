"""What tests of the adapter actor need in its process and in the replay's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from atradiff.adaptation.config import AdaptationConfig
from atradiff.adaptation.pickup import NewestPickUp, Picked
from atradiff.types import Transitions
from cluster.adapter_actor import AdapterOrder

PICKS = "picks.txt"


class WrittenPickUp(NewestPickUp):
    """The newest rows; leaves a line in a file whenever it is asked."""

    def __init__(self, capacity: int, folder: Path) -> None:
        super().__init__(capacity)
        self._file = folder / PICKS

    def pick(self, count: int) -> Picked:
        with self._file.open("a") as file:
            file.write("pick\n")
        return super().pick(count)


def double_actions(rows: Transitions) -> Transitions:
    return replace(rows, actions=rows.actions * 2)


def picks(folder: Path) -> int:
    """How often a :class:`WrittenPickUp` was asked."""
    file = folder / PICKS
    return len(file.read_text().splitlines()) if file.exists() else 0


def order(folder: Path, config: AdaptationConfig) -> AdapterOrder:
    return AdapterOrder(config, 0, double_actions, str(folder))
