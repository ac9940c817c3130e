"""The replay service with online adaptation in one process: an update when one is due, between two of the learner."""

from __future__ import annotations

import uuid
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atradiff.adaptation.adapt import Adapter
from atradiff.adaptation.config import AdaptationConfig
from atradiff.adaptation.feed import scorer
from atradiff.adaptation.local import LocalAdaptation
from atradiff.adaptation.original import WithOriginal
from atradiff.adaptation.pickup import make_pick_up
from atradiff.adaptation.served import ServedCount
from atradiff.data.trajectories import Trajectories
from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import ServiceOrder
from atradiff.replay.local import LocalReplay

_ADAPTATION = "adaptation"
_SERVED_FILE = "served.json"


class AdaptingReplay(LocalReplay):
    """A :class:`LocalReplay` whose diffuser follows the agent. ``generator`` of the order is what serves."""

    def __init__(self, order: ServiceOrder, adapter: Adapter, serving: WithOriginal) -> None:
        pick_up = make_pick_up(adapter.config.pick_up, order.replay.capacity, order.seed)
        super().__init__(replace(order, generator=serving), pick_up)
        self._serving = serving
        score = scorer(order.score, adapter.config.pick_up)
        self.adaptation = LocalAdaptation(adapter, self.replay, order.to_environment, serving.load_weights, score)

    def serve(self) -> None:
        """Update the diffuser if that is due, then answer the requests that are."""
        self.adaptation.step(self.env_steps)
        super().serve()

    def metrics(self) -> dict[str, float]:
        """Those of the replay, and of the adaptation with ``adapter/`` before each name."""
        figures = self.adaptation.metrics() | self._serving.served.metrics()
        return super().metrics() | {f"adapter/{name}": value for name, value in figures.items()}

    def save(self, folder: Path) -> None:
        """Write the replay, the adapter and what the original has served into ``folder``."""
        super().save(folder)
        self.adaptation.save(folder / _ADAPTATION)
        self._serving.served.write(folder / _ADAPTATION / _SERVED_FILE)

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote; raises ``ValueError`` where it is of another configuration."""
        super().load(folder)
        self.adaptation.load(folder / _ADAPTATION)
        if (served := folder / _ADAPTATION / _SERVED_FILE).is_file():  # older checkpoints have none
            self._serving.served = ServedCount.read(served)


@dataclass(frozen=True, eq=False)
class AdaptingServices:
    """Makes :class:`AdaptingReplay` services of a diffuser and the offline data that it rehearses.

    Stays in the process that made it, like the objects that it holds: a copy of it is itself, and what is unpickled of
    it elsewhere starts nothing (RLlib sends a config to its env runners and writes it into its checkpoints). An adapter
    goes with each service: it starts from ``diffuser`` as it is when the service starts, with the optimisers of
    ``training_state`` where that is given.
    """

    diffuser: TrajectoryDiffuser
    data: Trajectories
    config: AdaptationConfig
    training_state: Path | None = None
    _token: str = field(default_factory=lambda: uuid.uuid4().hex, init=False, repr=False)

    def __post_init__(self) -> None:
        _LIVE[self._token] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self._token,)

    def start(self, order: ServiceOrder) -> AdaptingReplay:
        """A replay with an adapter of its own; the order's generator is replaced by copies of the diffuser."""
        adapter = Adapter(self.diffuser, self.data, self.config, order.seed, self.training_state)
        adapted = self.diffuser.on(str(self.diffuser.device))  # the next service starts from what this one did
        return AdaptingReplay(order, adapter, WithOriginal(adapted, self.config.original_share, self.diffuser))


_LIVE: weakref.WeakValueDictionary[str, AdaptingServices] = weakref.WeakValueDictionary()
"""Those of this process by token, so that unpickling one here gives the original back."""


@dataclass(frozen=True)
class _LeftBehind:
    """What arrives of :class:`AdaptingServices` in another process."""

    token: str

    def start(self, order: ServiceOrder) -> AdaptingReplay:  # noqa: ARG002
        """Raises ``RuntimeError``, always: model and data are not here."""
        raise RuntimeError(
            "this run was configured with AdaptingServices that are gone, or stayed in the process that made them: "
            "make new ones of the same diffuser and data, and configure the run with those."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self.token,)


def _find(token: str) -> AdaptingServices | _LeftBehind:
    return _LIVE.get(token) or _LeftBehind(token)
