"""The replay actor of an algorithm together with those who answer its requests, in one hand."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import ray
from ray.actor import ActorHandle

from cluster.adapter_actor import AdapterClient
from cluster.checkpoint_files import DamagedCheckpoint, FileEntry, Part, StoredPart, require_sizes
from cluster.generator_pool import GeneratorPool
from cluster.replay_actor import ReplayActorConfig
from cluster.replay_client import RemoteReplay
from cluster.rescoring import Rescoring
from cluster.storage import Location

_ADAPTATION = "adaptation"
_SHARE = (
    "Checkpoints need a folder that all machines of the cluster share (storage behind a URI passes through TMPDIR), or "
    "a placement of ActorServices that keeps its actors on the machine of the algorithm."
)


class ActorReplay(RemoteReplay):
    """A :class:`RemoteReplay` with those who answer its requests. It owns them: :meth:`close` ends all actors."""

    def __init__(
        self,
        actor: ActorHandle,
        config: ReplayActorConfig,
        pool: GeneratorPool | None = None,
        adapter: AdapterClient | None = None,
        rescoring: Rescoring | None = None,
    ) -> None:
        super().__init__(actor, config, raise_errors=None if pool is None else pool.check)
        self.pool, self.adapter, self._rescoring = pool, adapter, rescoring
        self._ending = ExitStack()

    def ends_with(self, ending: ExitStack) -> None:
        """Have :meth:`close` call ``ending``."""
        self._ending = ending

    def serve(self) -> None:
        """Raise what ended the pool or an update of the diffuser; begin an update, publish one that is ready."""
        super().serve()
        if self.adapter is None or self._rescoring is None:
            return
        env_steps = self.env_steps
        self._rescoring.step(env_steps)
        self.adapter.step(env_steps)

    def metrics(self) -> dict[str, float]:
        """Those of the replay, and with ``pool/`` and ``adapter/`` before each name those of the others."""
        figures = super().metrics()
        for group, actors in (("pool", self.pool), ("adapter", self.adapter)):
            if actors is not None:
                figures |= {f"{group}/{name}": value for name, value in actors.metrics().items()}
        return figures

    def save(self, folder: Path) -> None:
        """Have the actors write their parts into ``folder``; ``OSError`` where they are on a machine without it."""
        self.settle()
        _write(lambda target: ray.get(self._actor.write.remote(target)), folder)
        if self.adapter is not None:
            _write(self.adapter.write, folder / _ADAPTATION)

    def load(self, folder: Path) -> None:
        """Have the actors become what :meth:`save` wrote; ``ValueError`` where it does not fit or is not all there."""
        try:
            ray.get(self._actor.read.remote(_part(folder)))
            if self.adapter is not None:
                self.adapter.restore(_part(folder / _ADAPTATION))
        except DamagedCheckpoint as error:
            raise ValueError(f"{folder} is not the same for an actor on another machine: {error}. {_SHARE}") from error
        self.forget()

    def close(self) -> None:
        """End generators, adapter and replay, and give their places back; what an unanswered report met is raised."""
        try:
            super().close()
        finally:
            self._ending.close()


def _write(part: Part, folder: Path) -> None:
    location = Location.of(folder)
    entries = part(location)
    try:
        require_sizes(location, entries)
    except DamagedCheckpoint as error:
        raise OSError(f"{folder} was written by an actor on another machine, here {error}. {_SHARE}") from error


def _part(folder: Path) -> StoredPart:
    """The files as this process sees them: an actor that sees others refuses them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [FileEntry(file.relative_to(folder).as_posix(), file.stat().st_size, "") for file in files]
    return StoredPart(Location.of(folder), tuple(entries))
