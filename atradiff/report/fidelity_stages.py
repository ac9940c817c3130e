"""Right where the agent is? Windows from the states of a run's replay, beside those from held-out states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atradiff.report import metrics
from atradiff.report.fidelity_windows import FidelityModel, imagine_variant, mean_length, require_known
from atradiff.report.judge import Judge, RowFigures
from atradiff.types import ActionArray, FloatArray, Transitions

if TYPE_CHECKING:
    from atradiff.generator import TrajectoryDiffuser

STAGED = ("raw", "cut", "project", "dynamics")
"""Variants that are judged at each stage by default."""

OneStep = Callable[[FloatArray, ActionArray], tuple[FloatArray, FloatArray]]
"""(next states (N, S), disagreement (N,)) from states (N, S) and actions."""


@dataclass(frozen=True)
class OneStepFigures:
    """The one-step model on diffused rows, against the environment: does its disagreement know where it errs?"""

    relative_error: float | None  # as the relative dynamics error
    rank_correlation: float | None  # Spearman's, of disagreement and true error
    share_beyond: float  # of the rows, disagreement beyond the limit that ends trajectories
    error_within: float | None  # relative error of the rows within it
    error_beyond: float | None


@dataclass(frozen=True)
class StageVariant:
    """Figures of one variant from one stage's states."""

    rows: RowFigures
    mean_length: float
    share_cut: float
    share_disagreed: float
    share_left_data: float

    def to_json(self) -> dict[str, Any]:
        """All figures in one flat dictionary."""
        figures = asdict(self)
        return figures.pop("rows") | figures


@dataclass(frozen=True)
class StageFidelity:
    """``first`` and ``last``: env steps of the agent, None for held-out states of the data."""

    states: int
    first: int | None
    last: int | None
    state_distance: float | None  # of the stage's states from the training states, over that of held-out states
    one_step: OneStepFigures | None  # None without an environment or a one-step model
    by_length: dict[int, dict[str, StageVariant]]

    def to_json(self) -> dict[str, Any]:
        """As the report: figures under ``K``, then length, then variant."""
        lengths = {
            str(k): {name: v.to_json() for name, v in variants.items()} for k, variants in self.by_length.items()
        }
        head = {name: getattr(self, name) for name in ("states", "first", "last", "state_distance")}
        return head | {"one_step": None if self.one_step is None else asdict(self.one_step), "K": lengths}


@dataclass(frozen=True)
class Stage:
    """States (N, S) to imagine from, and the env steps at which an agent came through the first and the last."""

    states: FloatArray
    first: int | None = None
    last: int | None = None


def stage_fidelity(
    model: FidelityModel,
    stages: Mapping[str, Stage],
    judge: Judge,
    *,
    lengths: Sequence[int],
    windows: int = 512,
    variants: Sequence[str] = STAGED,
    one_step: OneStep | None = None,
    limit: float = float("inf"),
) -> dict[str, StageFidelity]:
    """Judge ``model`` at at most ``windows`` states of each stage.

    ``one_step`` is the model's own, ``limit`` the disagreement at which it ends trajectories.
    """
    require_known(variants)
    rng = np.random.default_rng([judge.seed, 2])
    found = {}
    for name, stage in stages.items():
        chosen = np.sort(rng.choice(len(stage.states), min(windows, len(stage.states)), replace=False))
        states = stage.states[chosen]
        by_length = {k: {v: _judged(model, v, k, states, judge) for v in variants} for k in lengths}
        rows = imagine_variant(model, "raw", states, seed=judge.seed, length=max(lengths))[0].to_transitions()
        found[name] = StageFidelity(
            states=len(states),
            first=stage.first,
            last=stage.last,
            state_distance=judge.state_distance(states),
            one_step=None if one_step is None else one_step_figures(one_step, limit, rows, judge),
            by_length=by_length,
        )
    return found


def one_step_of(model: TrajectoryDiffuser) -> OneStep:
    """The model's one-step ensemble as a plain function."""
    import torch

    def step(states: FloatArray, actions: ActionArray) -> tuple[FloatArray, FloatArray]:
        """(B, S) next states and (B,) the members' disagreement about them."""
        tasks = np.tile(model.own_task(), (len(states), 1)) if model.config.task_size else None
        columns = [torch.as_tensor(x, device=model.device) for x in (states, actions, tasks) if x is not None]
        answer = model.dynamics.predict(*columns)
        return states + answer.deltas.cpu().numpy(), answer.disagreement.cpu().numpy()

    return step


def one_step_figures(one_step: OneStep, limit: float, rows: Transitions, judge: Judge) -> OneStepFigures | None:
    """How right ``one_step`` is on the states and actions of ``rows``; None where there is no environment to ask."""
    if judge.simulator is None:
        return None
    rows = judge.drawn(rows)
    truth = judge.simulator.step(rows.observations, rows.actions)
    following, disagreement = one_step(rows.observations, rows.actions)
    predicted = _leading_to(rows, following)
    within = disagreement <= limit
    errors = metrics.step_errors(predicted, truth, judge.scales)
    return OneStepFigures(
        relative_error=metrics.relative_dynamics_error(predicted, truth, judge.scales),
        rank_correlation=metrics.rank_correlation(disagreement[truth.valid], errors[truth.valid]),
        share_beyond=float(np.mean(~within)),
        error_within=metrics.relative_dynamics_error(predicted, truth.only(within), judge.scales),
        error_beyond=metrics.relative_dynamics_error(predicted, truth.only(~within), judge.scales),
    )


def _leading_to(rows: Transitions, following: FloatArray) -> Transitions:
    return Transitions(**(dict(rows.items()) | {"next_observations": following}))


def _judged(model: FidelityModel, name: str, length: int, states: FloatArray, judge: Judge) -> StageVariant:
    imagined, account = imagine_variant(model, name, states, seed=judge.seed, length=length)
    return StageVariant(
        rows=judge.figures(imagined.to_transitions(), None),
        mean_length=mean_length(imagined),
        share_cut=account.cut,
        share_disagreed=account.disagreement,
        share_left_data=account.left_data,
    )
