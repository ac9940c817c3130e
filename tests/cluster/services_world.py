"""What tests of :class:`cluster.services.ActorServices` need in other processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import ray

from atradiff.ports import EpisodeRows, ServiceOrder
from cluster.checkpoint_files import FileEntry, StoredPart
from cluster.owned_replay import OwnedReplay
from cluster.services import ActorServices
from cluster.storage import Location
from tests.cluster.still_generators import Rolling


class SinkOnly(OwnedReplay):
    """Rows must not come by way of the algorithm."""

    def store(self, chunk: EpisodeRows) -> None:
        raise AssertionError(f"{len(chunk.rows)} rows were brought by the algorithm")


@dataclass(frozen=True)
class Bringing:
    """Services with a generator of their own: an object would have stayed in the process of the test."""

    services: ActorServices

    def start(self, order: ServiceOrder) -> SinkOnly:
        rows = replace(order.replay, rho=0.5)
        service = self.services.start(replace(order, generator=Rolling(), replay=rows))
        service.__class__ = SinkOnly
        return service  # type: ignore[return-value]


class Elsewhere:
    """The handle of an owner whose files go to a machine that nobody else sees."""

    def __init__(self) -> None:
        self.write, self.read = SimpleNamespace(remote=_write), SimpleNamespace(remote=_read)


def _write(target: Location) -> ray.ObjectRef:  # noqa: ARG001
    return ray.put([FileEntry("real/rewards.npy", 8, "")])


def _read(part: StoredPart) -> None:
    away = replace(part, location=Location.of(str(part.location) + "-which-is-not-here"))
    with away.open():
        raise AssertionError("there are no such files")
