"""SynthER online (Lu et al. 2023, section 4.2): a replay whose generator is fitted anew on what the agent has seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atradiff.augment.synther_fit import OnlineSynther
from atradiff.ports import ServiceOrder
from atradiff.replay.local import LocalReplay
from atradiff.types import Transitions

_STATE_FILE = "synther.json"
_MODEL_FOLDER = "synther"


class SyntherReplay(LocalReplay):
    """In process. Requests wait until the first model is fitted; those that grow too old are dropped, and counted.

    With each new model all synthetic rows are made anew, as its authors empty and refill their buffer. Between two
    models, rows are made as they are asked for: at the rate of the other generators.
    """

    def __init__(self, order: ServiceOrder) -> None:
        """``order.generator`` is the :class:`OnlineSynther` that is fitted; the service is its only user."""
        if not isinstance(order.generator, OnlineSynther):
            raise ValueError(f"the generator must be an OnlineSynther, got a {type(order.generator).__name__}.")
        self.online = order.generator
        super().__init__(order)

    def serve(self) -> None:
        """Fit anew where that is due, then answer the requests that are due."""
        if self.online.due(self.env_steps):
            self.online.retrain(self._real_rows(), self.env_steps)
            self._renew_synthetic_rows()
        if self.online.ready:
            super().serve()

    def save(self, folder: Path) -> None:
        """See :class:`LocalReplay`; the model lies in a folder of its own."""
        super().save(folder)
        if self.online.model is not None:
            self.online.model.save_pretrained(folder / _MODEL_FOLDER)
        (folder / _STATE_FILE).write_text(json.dumps({"trained_at": self.online.trained_at}))

    def load(self, folder: Path) -> None:
        """See :class:`LocalReplay`."""
        super().load(folder)
        self.online.trained_at = int(json.loads((folder / _STATE_FILE).read_text())["trained_at"])
        model = folder / _MODEL_FOLDER
        self.online.model = self.online.read(model) if model.is_dir() else None

    def _real_rows(self) -> Transitions:
        ring = self.replay.real
        rows = Transitions(**{name: ring[name][: len(ring)] for name in ring.columns})
        return self._order.to_environment(rows)

    def _renew_synthetic_rows(self) -> None:
        ring = self.replay.synthetic
        count = len(ring)
        if count == 0:
            return
        states = np.zeros((count, self._order.spaces.observation_size), np.float32)
        seed = int(np.random.SeedSequence([self._order.seed, self.env_steps]).generate_state(1)[0])
        imagined = self.online.generate(states, generator_seed=seed)
        for name, column in self._order.to_learner(imagined.to_transitions()).items():
            ring[name][:count] = column
        ring["generator_version"][:count] = self.online.version
        ring["created_at"][:count] = self.env_steps


@dataclass(frozen=True)
class SyntherServices:
    """Makes a :class:`SyntherReplay` for each order; an :class:`atradiff.ports.ReplayServices`."""

    def start(self, order: ServiceOrder) -> SyntherReplay:
        return SyntherReplay(order)
