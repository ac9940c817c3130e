"""The copy of the diffuser as it was fitted, which keeps serving a share of requests (ATraDiff, section 4.3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atradiff.adaptation.adapt import Weights
from atradiff.config import require
from atradiff.generator import TrajectoryDiffuser
from atradiff.types import FloatArray, Spaces, SyntheticTrajectories


def serves_original(generator_seed: int, share: float) -> bool:
    """Whether a batch of requests goes to the original: a function of its seed, so that a repeated request agrees."""
    word = np.random.SeedSequence([generator_seed, 5]).generate_state(1, np.uint32)[0]
    return bool(word < share * 2**32)


class WithOriginal:
    """An :class:`atradiff.ports.TrajectoryGenerator` of two: the adapted diffuser, and the original for ``share`` of
    the batches. Rows carry the version of the one that made them.
    """

    def __init__(self, diffuser: TrajectoryDiffuser, share: float) -> None:
        require(0 <= share < 1, "share", share, "must lie in [0, 1)")
        self.adapted, self.share = diffuser, share
        self.original = diffuser.on(str(diffuser.device))

    @property
    def spaces(self) -> Spaces:
        return self.adapted.spaces

    @property
    def version(self) -> int:
        return self.adapted.version

    def generate(
        self, states: FloatArray, task: FloatArray | None = None, *, generator_seed: int
    ) -> SyntheticTrajectories:
        """See :class:`atradiff.ports.TrajectoryGenerator`; a batch is made by one of the two as a whole."""
        chosen = self.original if serves_original(generator_seed, self.share) else self.adapted
        return chosen.generate(states, task, generator_seed=generator_seed)

    def publish(self, version: int, weights: Weights) -> None:
        """The adapted one becomes ``version``."""
        self.adapted.load_weights(version, weights)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapted diffuser as a model folder."""
        self.adapted.save_pretrained(folder)
