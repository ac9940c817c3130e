"""The replay actor that an algorithm owns, together with those who answer its requests."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cluster.policy_snapshots import PolicySnapshots
from cluster.replay_actor import ReplayActorConfig
from cluster.replay_client import RemoteReplay
from cluster.rescoring import Rescoring
from cluster.shared_folder import read_from, write_into
from cluster.starting import Actors

_ADAPTATION = "adaptation"


class OwnedReplay(RemoteReplay):
    """A :class:`RemoteReplay` with those who answer its requests. It owns them: :meth:`close` ends all actors."""

    def __init__(
        self,
        actors: Actors,
        config: ReplayActorConfig,
        rescoring: Rescoring,
        snapshots: PolicySnapshots | None = None,
    ) -> None:
        """``snapshots`` None: the generators need no policy."""
        super().__init__(actors.replay, config, raise_errors=None if actors.pool is None else actors.pool.check)
        self.pool, self.adapter, self._rescoring = actors.pool, actors.adapter, rescoring
        self._snapshots = snapshots
        self._ending = ExitStack()

    def ends_with(self, ending: ExitStack) -> None:
        """Have :meth:`close` call ``ending``."""
        self._ending = ending

    def serve(self) -> None:
        """Raise what ended the pool or an update of the diffuser; begin an update, publish one that is ready.

        A new snapshot of the policy is published where one is due.
        """
        super().serve()
        if self.pool is not None and self._snapshots is not None:
            own = self._snapshots.step(self.env_steps)
            if own is not None:
                self.pool.act_by(own)
        if self.adapter is None:
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
        super().save(folder)
        if self.adapter is not None:
            write_into(folder / _ADAPTATION, self.adapter.write)

    def load(self, folder: Path) -> None:
        """Have the actors become what :meth:`save` wrote; ``ValueError`` where it does not fit or is not all there."""
        super().load(folder)
        if self._snapshots is not None:
            self._snapshots.forget()
        if self.adapter is not None:
            read_from(folder / _ADAPTATION, self.adapter.restore)

    def close(self) -> None:
        """End generators, adapter and replay, and give their places back; what an unanswered report met is raised."""
        try:
            super().close()
        finally:
            self._ending.close()
