"""What the parts ask of each other. In process these are plain objects, on a cluster actor handles hide behind them."""

from __future__ import annotations

from typing import Protocol

from atradiff.types import FloatArray, Spaces, SyntheticTrajectories


class TrajectoryGenerator(Protocol):
    """Imagines trajectories from states: :class:`atradiff.TrajectoryDiffuser`, or a baseline with the same method."""

    @property
    def spaces(self) -> Spaces: ...

    @property
    def version(self) -> int:
        """Counts the weight updates since the model was fitted; written on every synthetic row."""
        ...

    def generate(
        self, states: FloatArray, task: FloatArray | None = None, *, generator_seed: int
    ) -> SyntheticTrajectories:
        """Trajectories that start exactly at ``states`` (B, S), in the environment's own action scale.

        The same states, task, seed and version give the same trajectories.
        """
        ...
