"""How far a run is."""

from __future__ import annotations

from dataclasses import dataclass

from atradiff.branches import OwnActions


@dataclass(frozen=True)
class Progress:
    """What a watcher of a run is told after each iteration."""

    env_steps: int
    last_return: float | None
    finished: bool = False
    """Whether nothing is left to do: all env steps are done, and learned from."""
    own: OwnActions | None = None
    """A new snapshot of the policy, for generators that make own rows."""
