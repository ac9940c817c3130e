"""Are imagined trajectories right? A model is held against the data it has not seen and against the real environment.

Imagined and real windows start at the same held-out states and both end where the episode does, so that their rows
can be compared like with like.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from atradiff.config import Prune, Refine
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import Windows, WindowSampler
from atradiff.imagine import GenerationReport
from atradiff.report.judge import Judge, RowFigures
from atradiff.types import FloatArray, SyntheticTrajectories

VARIANTS: Mapping[str, tuple[Refine, Prune]] = {
    "raw": ("none", "none"),
    "pruned": ("none", "gated"),
    "cut": ("cut", "none"),
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
        length: int | None = None,
        refine: Refine | None = None,
        prune: Prune | None = None,
    ) -> tuple[SyntheticTrajectories, GenerationReport]: ...


@dataclass(frozen=True)
class VariantFidelity:
    """Figures of one way to generate, at one window length."""

    rows: RowFigures
    mean_length: float  # rows per trajectory
    share_pruned: float | None = None  # of the trajectories, shortened by pruning
    share_cut: float | None = None  # of the trajectories, shortened by the consistency cut
    share_disagreed: float | None = None  # of the trajectories, ended where the one-step models disagree
    residual: float | None = None  # mean gap between diffused and one-step states; None where nobody asked
    transitions_per_cpu_second: float | None = None  # of process time, over all threads

    def to_json(self) -> dict[str, Any]:
        figures = asdict(self)
        return figures.pop("rows") | figures


@dataclass(frozen=True)
class FidelityReport:
    """Figures by window length K, then by variant; ``real`` holds real windows to the same measures, as a yardstick."""

    env_id: str | None
    data_hash: str
    windows: int
    seed: int
    by_length: dict[int, dict[str, VariantFidelity]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Figures under ``{"K": {length: {variant: {name: value}}}}``, beside what they were measured on."""
        lengths = {
            str(length): {name: figures.to_json() for name, figures in variants.items()}
            for length, variants in self.by_length.items()
        }
        head = {name: getattr(self, name) for name in ("env_id", "data_hash", "windows", "seed")}
        return head | {"K": lengths}


def fidelity(
    model: FidelityModel,
    held_out: Trajectories,
    train: Trajectories | None,
    env_id: str | None,
    *,
    lengths: Sequence[int] = (10, 25),
    windows: int = 512,
    simulated_rows: int = 4000,
    variants: Sequence[str] = tuple(VARIANTS),
    seed: int = 0,
) -> FidelityReport:
    """Judge ``model`` from at most ``windows`` held-out states per length K.

    ``train`` (what the model learned from) serves novelty, ``env_id`` the comparison with the real environment; where
    one is None, or the environment's state cannot be set, those figures are None and ``reasons`` says why. At most
    ``simulated_rows`` rows per variant are stepped in the environment. Raises ``ValueError`` for unknown variants and
    for lengths of which the data has no window.
    """
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown:
        raise ValueError(f"variants must be among {', '.join(VARIANTS)}, got {', '.join(unknown)}.")
    judge = Judge.over(held_out, train, env_id, simulated_rows=simulated_rows, seed=seed)
    real = {length: real_windows(held_out, length, windows, seed) for length in lengths}
    report = FidelityReport(env_id, held_out.content_hash, windows, seed)
    for length, truth in real.items():
        rows = truth.to_transitions()
        report.by_length[length] = {"real": VariantFidelity(judge.figures(rows, rows), _mean_length(truth))}
        for name in variants:
            report.by_length[length][name] = _judged(model, name, length, truth, judge, seed)
    return report


def _judged(
    model: FidelityModel, name: str, length: int, truth: SyntheticTrajectories, judge: Judge, seed: int
) -> VariantFidelity:
    refine, prune = VARIANTS[name]
    states = truth.observations[:, 0]
    settings: dict[str, Any] = {"generator_seed": seed, "length": length, "refine": refine, "prune": prune}
    model.generate_with_report(states[:8], **settings)  # first calls load and compile; they are not what is timed
    started = time.process_time()
    imagined, account = model.generate_with_report(states, **settings)
    seconds = max(time.process_time() - started, 1e-9)
    ended = ends_at_termination(imagined)
    return VariantFidelity(
        rows=judge.figures(ended.to_transitions(), truth.to_transitions()),
        mean_length=_mean_length(ended),
        share_pruned=account.pruned,
        share_cut=account.cut,
        share_disagreed=account.disagreement,
        residual=None if refine == "none" else account.residual,
        transitions_per_cpu_second=float(imagined.lengths.sum()) / seconds,
    )


def real_windows(data: Trajectories, length: int, count: int, seed: int) -> SyntheticTrajectories:
    """At most ``count`` windows of up to ``length`` rows, from random starts; shorter where an episode terminates.

    Starts less than ``length`` rows before a time-out are left out: nobody knows how those windows go on.
    """
    sampler = WindowSampler(data, (length,))
    starts = sampler.starts(length)
    chosen = np.random.default_rng(seed).choice(starts, min(count, len(starts)), replace=False)
    return as_trajectories(sampler.at(np.sort(chosen), length))


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


def _mean_length(trajectories: SyntheticTrajectories) -> float:
    return float(trajectories.lengths.mean())
