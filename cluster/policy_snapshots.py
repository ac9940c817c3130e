"""When the generators of a cluster are given a new snapshot of the agent's policy."""

from __future__ import annotations

from collections.abc import Callable

from atradiff.branches import OwnActions
from atradiff.config import ServingConfig


class PolicySnapshots:
    """One at the first step, and whenever env steps have passed a multiple of ``serving.max_wait``: the wait that a
    request is allowed is the age that its policy may have.
    """

    def __init__(self, take: Callable[[], OwnActions], serving: ServingConfig) -> None:
        self._take, self._every = take, max(serving.max_wait, 1)
        self._period: int | None = None

    def step(self, env_steps: int) -> OwnActions | None:
        """A new snapshot, where one is due."""
        before, self._period = self._period, env_steps // self._every
        return None if self._period == before else self._take()

    def forget(self) -> None:
        """Take one at the next step, whenever that is: the policy has become another."""
        self._period = None
