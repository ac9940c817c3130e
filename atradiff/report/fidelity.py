"""Are imagined trajectories right? A model is held against the data it has not seen and against the real environment.

Windows of each length here; whole chained trajectories in ``fidelity_chains``, states of an agent in
``fidelity_stages``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from atradiff.data.trajectories import Trajectories
from atradiff.report.fidelity_chains import ChainFidelity
from atradiff.report.fidelity_copies import CopyFigures, TrainingWindows
from atradiff.report.fidelity_stages import StageFidelity
from atradiff.report.fidelity_windows import (
    VARIANTS,
    FidelityModel,
    imagine_variant,
    mean_length,
    real_windows,
    require_known,
    share_terminated,
)
from atradiff.report.judge import Judge, RowFigures
from atradiff.types import SyntheticTrajectories


@dataclass(frozen=True)
class VariantFidelity:
    """Figures of one way to generate, at one window length."""

    rows: RowFigures
    mean_length: float  # rows per trajectory
    share_terminated: float | None = None  # of the trajectories, ended by a terminal row
    share_pruned: float | None = None  # of the trajectories, shortened by pruning
    share_cut: float | None = None  # of the trajectories, shortened by the consistency cut
    share_disagreed: float | None = None  # of the trajectories, ended where the one-step models disagree
    share_left_data: float | None = None  # of those, the ones that left the data's range
    residual: float | None = None  # mean gap between diffused and one-step states; None where nobody asked
    copies: CopyFigures | None = None  # None without training data
    transitions_per_cpu_second: float | None = None  # of process time, over all threads

    def to_json(self) -> dict[str, Any]:
        """All figures in one flat dictionary, those of rows and copies beside the others."""
        figures = asdict(self)
        return figures.pop("rows") | (figures.pop("copies") or {}) | figures


@dataclass(frozen=True)
class FidelityReport:
    """Figures by window length K, then by variant; ``real`` holds real windows to the same measures, as a yardstick.

    ``chains`` are whole trajectories by variant, ``stages`` windows from an agent's states; empty where not asked for.
    """

    env_id: str | None
    data_hash: str
    windows: int
    seed: int
    by_length: dict[int, dict[str, VariantFidelity]] = field(default_factory=dict)
    chains: dict[str, ChainFidelity] = field(default_factory=dict)
    stages: dict[str, StageFidelity] = field(default_factory=dict)

    @property
    def copies(self) -> list[tuple[int, str, CopyFigures]]:
        """(K, variant, figures) of all generations that were looked for among the training windows, nearest first."""
        found = [
            (length, name, figures.copies)
            for length, variants in self.by_length.items()
            for name, figures in variants.items()
            if name != "real" and figures.copies is not None
        ]
        return sorted(found, key=lambda entry: entry[2].order)

    @property
    def warnings(self) -> list[str]:
        """Sentences on what nobody should overlook: generations that are copies of training data, as one sentence."""
        suspicious = [entry for entry in self.copies if entry[2].suspicious]
        if not suspicious:
            return []
        named = [
            f"K = {length} ({', '.join(name for k, name, _ in suspicious if k == length)})"
            for length in self.by_length
            if any(k == length for k, _, _ in suspicious)
        ]
        length, name, nearest = suspicious[0]
        told = f"Of these, nearest come {name} windows of {length} rows. {nearest.sentence}"
        return [f"The generations are copies of training data: {', '.join(named)}. {told}"]

    def to_json(self) -> dict[str, Any]:
        """Figures under ``{"K": {length: {variant: {name: value}}}}``, beside what they were measured on."""
        lengths = {
            str(length): {name: figures.to_json() for name, figures in variants.items()}
            for length, variants in self.by_length.items()
        }
        head = {name: getattr(self, name) for name in ("env_id", "data_hash", "windows", "seed", "warnings")}
        more = {name: {k: v.to_json() for k, v in getattr(self, name).items()} for name in ("chains", "stages")}
        return head | {"K": lengths} | more


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
    judge: Judge | None = None,
) -> FidelityReport:
    """Judge ``model`` from at most ``windows`` held-out states per length K.

    ``train`` (what the model learned from) serves novelty, ``env_id`` the comparison with the real environment; where
    one is None, or the environment's state cannot be set, those figures are None and ``reasons`` says why. At most
    ``simulated_rows`` rows per variant are stepped in the environment. ``judge``: one of the same data, to be used
    again. Raises ``ValueError`` for unknown variants and for lengths of which the data has no window.
    """
    require_known(variants)
    judge = judge or Judge.over(held_out, train, env_id, simulated_rows=simulated_rows, seed=seed)
    real = {length: real_windows(held_out, length, windows, seed) for length in lengths}
    report = FidelityReport(env_id, held_out.content_hash, windows, seed)
    for length, truth in real.items():
        known = None if train is None else TrainingWindows.of(train, length, judge.feature_scale, seed)
        report.by_length[length] = {"real": _real(truth, known, judge)}
        for name in variants:
            report.by_length[length][name] = _judged(model, name, length, truth, known, judge)
    return report


def _real(truth: SyntheticTrajectories, known: TrainingWindows | None, judge: Judge) -> VariantFidelity:
    rows = truth.to_transitions()
    copies = None if known is None else known.figures(truth, truth)
    return VariantFidelity(judge.figures(rows, rows), mean_length(truth), share_terminated(truth), copies=copies)


def _judged(
    model: FidelityModel,
    name: str,
    length: int,
    truth: SyntheticTrajectories,
    known: TrainingWindows | None,
    judge: Judge,
) -> VariantFidelity:
    states = truth.observations[:, 0]
    # First calls load and compile; they are not what is timed.
    imagine_variant(model, name, states[:8], seed=judge.seed, length=length)
    started = time.process_time()
    imagined, account = imagine_variant(model, name, states, seed=judge.seed, length=length)
    seconds = max(time.process_time() - started, 1e-9)
    return VariantFidelity(
        rows=judge.figures(imagined.to_transitions(), truth.to_transitions()),
        mean_length=mean_length(imagined),
        share_terminated=share_terminated(imagined),
        share_pruned=account.pruned,
        share_cut=account.cut,
        share_disagreed=account.disagreement,
        share_left_data=account.left_data,
        residual=None if name in ("raw", "pruned") else account.residual,
        copies=None if known is None else known.figures(imagined, truth),
        transitions_per_cpu_second=float(imagined.lengths.sum()) / seconds,
    )
