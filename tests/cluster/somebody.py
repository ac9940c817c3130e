"""An actor that answers, or fails as ours do."""

from __future__ import annotations

from typing import Any

import ray

from cluster.replay_actor import RowsLostError


@ray.remote(num_cpus=0)
class Somebody:
    def add(self, one: int, other: int) -> int:
        return one + other

    def fail(self, other: Any = None) -> None:
        if other is not None:
            ray.get(other.fail.remote())
        raise RowsLostError("the replay gave no row.")
