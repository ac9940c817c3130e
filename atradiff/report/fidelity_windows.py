"""What is judged: ways to generate by name, and imagined and real windows that can be held side by side.

Imagined and real windows start at the same held-out states and both end where the episode does, so that their rows
can be compared like with like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from atradiff.config import Prune, Refine
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import Windows, WindowSampler
from atradiff.imagine import GenerationReport
from atradiff.types import BoolArray, FloatArray, SyntheticTrajectories

VARIANTS: Mapping[str, tuple[Refine, Prune]] = {
    "raw": ("none", "none"),
    "pruned": ("none", "gated"),
    "cut": ("cut", "none"),
    "project": ("project", "none"),
    "dynamics": ("dynamics", "none"),
}
"""What is judged, by name: (refine, prune). ``raw`` is the diffuser alone; the others add one thing to it."""


class FidelityModel(Protocol):
    """The part of :class:`atradiff.generator.TrajectoryDiffuser` that is judged here."""

    def generate_with_report(
        self,
        states: FloatArray,
        task: FloatArray | None = None,
        *,
        generator_seed: int,
        horizon: int | None = None,
        length: int | None = None,
        refine: Refine | None = None,
        prune: Prune | None = None,
    ) -> tuple[SyntheticTrajectories, GenerationReport]:
        """See :meth:`atradiff.generator.TrajectoryDiffuser.generate_with_report`."""
        ...


def imagine_variant(
    model: FidelityModel, name: str, states: FloatArray, *, seed: int, length: int | None, horizon: int | None = None
) -> tuple[SyntheticTrajectories, GenerationReport]:
    """Trajectories from ``states`` (B, S) by one of :data:`VARIANTS`, up to their first terminal row."""
    refine, prune = VARIANTS[name]
    imagined, account = model.generate_with_report(
        states, generator_seed=seed, horizon=horizon, length=length, refine=refine, prune=prune
    )
    return ends_at_termination(imagined), account


def require_known(variants: Sequence[str]) -> None:
    """Raise ``ValueError`` for names that are not among :data:`VARIANTS`."""
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown:
        raise ValueError(f"variants must be among {', '.join(VARIANTS)}, got {', '.join(unknown)}.")


def real_windows(data: Trajectories, length: int, count: int, seed: int) -> SyntheticTrajectories:
    """At most ``count`` windows of up to ``length`` rows, from random starts; shorter where an episode terminates.

    Starts less than ``length`` rows before a time-out are left out: nobody knows how those windows go on. Where that
    leaves any out, starts as late in episodes that terminate are, too, or windows would terminate too often: see
    :func:`with_room`. Only where no row has so much room do these stay.
    """
    sampler = WindowSampler(data, (length,))
    starts = sampler.starts(length)
    room = with_room(data, length)[starts]
    if len(starts) < data.n_transitions and room.any():
        starts = starts[room]
    chosen = np.random.default_rng(seed).choice(starts, min(count, len(starts)), replace=False)
    return as_trajectories(sampler.at(np.sort(chosen), length))


def with_room(data: Trajectories, rows: int) -> BoolArray:
    """(N,) rows at least ``rows`` before a time limit, the longest episode's length.

    Whatever becomes of them, these are not chosen by how their episode went on.
    """
    position = np.arange(data.n_transitions) - np.repeat(data.offsets[:-1], data.lengths)
    return np.asarray(position + rows <= data.lengths.max())


def as_trajectories(windows: Windows) -> SyntheticTrajectories:
    """Real windows in the form that generators answer in; padding is left off."""
    return SyntheticTrajectories(
        observations=windows.states,
        actions=windows.actions,
        rewards=windows.rewards,
        terminated=windows.terminated,
        lengths=(~windows.padding).sum(axis=1),
        generator_version=0,
    )


def ends_at_termination(trajectories: SyntheticTrajectories) -> SyntheticTrajectories:
    """The same trajectories up to their first terminal row: what a raw diffuser writes after it is padding."""
    terminal = trajectories.terminated & trajectories.mask
    first = np.where(terminal.any(axis=1), terminal.argmax(axis=1) + 1, trajectories.lengths)
    return replace(trajectories, lengths=np.minimum(trajectories.lengths, first))


def mean_length(trajectories: SyntheticTrajectories) -> float:
    """Rows per trajectory."""
    return float(trajectories.lengths.mean())


def share_terminated(trajectories: SyntheticTrajectories) -> float:
    """Share of trajectories that end in a terminal row."""
    return float(trajectories.terminated[np.arange(len(trajectories)), trajectories.lengths - 1].mean())
