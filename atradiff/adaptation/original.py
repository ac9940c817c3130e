"""The copy of the diffuser as it was fitted, which keeps serving a share of requests (ATraDiff, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atradiff.adaptation.adapt import Weights
from atradiff.adaptation.served import ServedCount
from atradiff.config import require
from atradiff.generator import TrajectoryDiffuser
from atradiff.rollout import Choose
from atradiff.types import FloatArray, Spaces, SyntheticTrajectories


def serves_original(generator_seed: int, share: float) -> bool:
    """Whether a batch of requests goes to the original: a function of its seed, so that a repeated request agrees."""
    word = np.random.SeedSequence([generator_seed, 5]).generate_state(1, np.uint32)[0]
    return bool(word < share * 2**32)


class WithOriginal:
    """A :class:`atradiff.ports.TrajectoryGenerator` of two: the adapted diffuser, and the original for ``share`` of
    the batches. Rows carry the version of the one that made them.
    """

    def __init__(self, adapted: TrajectoryDiffuser, share: float, original: TrajectoryDiffuser | None = None) -> None:
        """``original`` None: a copy of ``adapted`` as it is now."""
        require(0 <= share < 1, "share", share, "must lie in [0, 1)")
        self.adapted, self.share = adapted, share
        self.original = original or adapted.on(str(adapted.device))
        self.served = ServedCount(self.original.version)

    @property
    def spaces(self) -> Spaces:
        return self.adapted.spaces

    @property
    def version(self) -> int:
        return self.adapted.version

    @property
    def starts_at_states(self) -> bool:
        return self.adapted.starts_at_states

    def generate(
        self, states: FloatArray, task: FloatArray | None = None, *, generator_seed: int
    ) -> SyntheticTrajectories:
        """See :class:`atradiff.ports.TrajectoryGenerator`; a batch is made by one of the two as a whole."""
        chosen = self.original if serves_original(generator_seed, self.share) else self.adapted
        made = chosen.generate(states, task, generator_seed=generator_seed)
        self.served.add(self.version, made.generator_version, len(made.lengths))
        return made

    def roll(self, states: FloatArray, act: Choose, rows: int) -> SyntheticTrajectories:
        """See :class:`atradiff.ports.RollsPolicies`: by the adapted one-step model, also from the original's states."""
        return self.adapted.roll(states, act, rows)

    def weights(self) -> Weights:
        """Of the adapted one, as are those that the next two methods take: a pool replaces them like a diffuser's."""
        return self.adapted.weights()

    def check_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Of the adapted diffuser: raise ``ValueError`` for weights that are not its network's."""
        self.adapted.check_weights(weights)

    def load_weights(self, version: int, weights: Mapping[str, NDArray[Any]]) -> None:
        """Replace the weights of the adapted diffuser; the original keeps its own."""
        self.adapted.load_weights(version, weights)

    def on(self, device: str, *, compiled: bool = False) -> WithOriginal:
        """Copies of both on ``device``."""
        adapted = self.adapted.on(device, compiled=compiled)
        return WithOriginal(adapted, self.share, self.original.on(device, compiled=compiled))
