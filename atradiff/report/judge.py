"""One judge for all variants: the same scales, the same training rows, the same simulator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import nan
from typing import Any

import numpy as np

from atradiff.data.normalize import Normalizer
from atradiff.data.trajectories import Trajectories
from atradiff.report import metrics
from atradiff.report.simulator import Simulator, UnsettableEnvironment, simulator_for
from atradiff.types import FloatArray, Spaces, Transitions

REFERENCE_ROWS = 50_000
"""Training rows among which nearest neighbours are looked for, drawn at random where there are more."""

QUERY_ROWS = 1_000
"""Rows whose nearest neighbour is looked for, on either side."""

SIMULATED = ("relative_dynamics_error", "relative_reward_error", "terminal_accuracy")
COMPARED = ("ks", "correlation", "step_size_ratio", "novelty")


@dataclass(frozen=True)
class RowFigures:
    """How alike imagined and real rows are. A figure is None where ``reasons`` says why it could not be had."""

    relative_dynamics_error: float | None = None  # one step against the environment; 1 is "the next state is the state"
    relative_reward_error: float | None = None  # against the environment; 1 is predicting the mean
    terminal_accuracy: float | None = None  # share of rows whose terminated flag is the environment's
    terminal_precision: float | None = None  # of the rows said to be terminal; None where none was
    terminal_recall: float | None = None  # of the rows that are terminal; None where none is
    terminal_share: float | None = None  # of the rows stepped in the environment: said to be terminal
    true_terminal_share: float | None = None  # and terminal by the environment; calibrated: the same
    crisp_rewards: float | None = None  # share among the data's reward values; None where those are a scale
    ks: float | None = None  # marginal similarity, mean over columns; 1 is alike
    ks_by_column: tuple[float, ...] = ()  # next state, action, reward
    correlation: float | None = None  # mean absolute difference of correlations; 0 is alike
    step_size_ratio: float | None = None  # mean imagined over mean real step
    novelty: float | None = None  # median distance to the training rows over that of held-out rows
    rows: int = 0  # judged
    simulated_rows: int = 0  # stepped in the environment
    undetermined_rows: int = 0  # of those drawn for it: clipped observations, diverged physics
    reasons: dict[str, str] = field(default_factory=dict)  # figure -> why it is None


@dataclass(frozen=True)
class Judge:
    """Holds imagined rows against real ones. Build with :meth:`over`."""

    spaces: Spaces
    scales: Normalizer
    simulator: Simulator | None
    no_simulator: str  # why there is none
    references: FloatArray | None  # (M, C) training rows in units of ``feature_scale``
    feature_scale: FloatArray  # (C,)
    usual_state_distance: float  # median, of held-out states to the nearest training row's; NaN without training rows
    simulated_rows: int
    seed: int

    @classmethod
    def over(
        cls, held_out: Trajectories, train: Trajectories | None, env_id: str | None, *, simulated_rows: int, seed: int
    ) -> Judge:
        """A judge with the scales of ``train`` (of ``held_out`` where that is None) and the environment ``env_id``.

        Raises ``ValueError`` where that environment's spaces are not the data's.
        """
        data = held_out if train is None else train
        rows = data.columns[_draw(data.n_transitions, REFERENCE_ROWS, seed)]
        features = metrics.row_features(rows, data.spaces)
        spread = features.std(axis=0)
        scale = np.where(spread > 1e-6, spread, 1).astype(np.float32)
        simulator, reason = _simulator(env_id)
        if simulator is not None:
            data.spaces.require_equal(simulator.spaces, "the data", str(env_id))
        references = None if train is None else features / scale
        # The only success of a sparse task may be among the held-out episodes: its reward is a level of the data, too.
        rewards = np.concatenate([part.columns.rewards for part in (train, held_out) if part is not None])
        scales = Normalizer.fit(data).with_levels(rewards)
        judge = cls(data.spaces, scales, simulator, reason, references, scale, nan, simulated_rows, seed)
        return replace(judge, usual_state_distance=judge._distance_of_states(held_out.columns.next_observations))

    def figures(self, imagined: Transitions, real: Transitions | None) -> RowFigures:
        """All figures of the rows ``imagined`` (N) against the rows ``real`` (M); None: those that need no such."""
        reasons: dict[str, str] = {}
        if real is None:
            reasons.update(dict.fromkeys(COMPARED, "no real rows were given to compare with"))
        return RowFigures(
            **self.simulated(imagined, reasons),
            **({} if real is None else self._compared(imagined, real, reasons)),
            crisp_rewards=metrics.share_among(imagined.rewards, self.scales.reward_levels),
            rows=len(imagined),
            reasons=reasons,
        )

    def drawn(self, rows: Transitions, limit: int | None = None) -> Transitions:
        """At most ``limit`` of ``rows`` (:attr:`simulated_rows` where None), drawn without replacement."""
        return rows[_draw(len(rows), limit or self.simulated_rows, self.seed)]

    def state_distance(self, states: FloatArray) -> float | None:
        """Median distance of ``states`` (N, S) to the training rows' states, over that of held-out states."""
        usual = self.usual_state_distance
        return self._distance_of_states(states) / usual if usual > 0 else None

    def _compared(self, imagined: Transitions, real: Transitions, reasons: dict[str, str]) -> dict[str, Any]:
        ours, theirs = metrics.row_features(imagined, self.spaces), metrics.row_features(real, self.spaces)
        by_column = metrics.marginal_similarity(ours, theirs)
        real_step = float(metrics.step_sizes(real, self.scales).mean())
        step = float(metrics.step_sizes(imagined, self.scales).mean())
        return {
            "ks": float(by_column.mean()),
            "ks_by_column": tuple(float(x) for x in by_column),
            "correlation": metrics.correlation_distance(ours, theirs),
            "step_size_ratio": step / real_step if real_step > 0 else None,
            "novelty": self._novelty(ours, theirs, reasons),
        }

    def simulated(self, imagined: Transitions, reasons: dict[str, str], limit: int | None = None) -> dict[str, Any]:
        """The figures of :class:`RowFigures` that the environment gives, from at most ``limit`` rows drawn at random.

        Why one could not be had is added to ``reasons``.
        """
        if self.simulator is None:
            reasons.update(dict.fromkeys(SIMULATED, self.no_simulator))
            return {}
        rows = self.drawn(imagined, limit)
        truth = self.simulator.step(rows.observations, rows.actions)
        accuracy, precision, recall = (_or_none(x) for x in metrics.terminal_agreement(rows, truth))
        dynamics = metrics.relative_dynamics_error(rows, truth, self.scales)
        if dynamics is None:
            reasons["relative_dynamics_error"] = "no drawn row moves from a state that its observation determines"
        return {
            "relative_dynamics_error": dynamics,
            "relative_reward_error": self._reward_error(rows, truth, reasons),
            "terminal_accuracy": accuracy,
            "terminal_precision": precision,
            "terminal_recall": recall,
            "terminal_share": metrics.share(rows.terminated, truth.valid),
            "true_terminal_share": metrics.share(truth.terminated, truth.valid),
            "simulated_rows": int(truth.valid.sum()),
            "undetermined_rows": int((~truth.valid).sum()),
        }

    def _reward_error(self, rows: Transitions, truth: metrics.SimulatedSteps, reasons: dict[str, str]) -> float | None:
        hidden = self.simulator.hidden_reward if self.simulator is not None else ""
        error = None if hidden else metrics.relative_reward_error(rows, truth)
        if error is None:
            reasons["relative_reward_error"] = hidden or "the environment's rewards do not vary on these rows"
        return error

    def _novelty(self, imagined: FloatArray, real: FloatArray, reasons: dict[str, str]) -> float | None:
        if self.references is None:
            reasons["novelty"] = "no training data was given"
            return None
        ours, theirs = self._distance(imagined, self.references), self._distance(real, self.references)
        if theirs == 0:
            reasons["novelty"] = "most held-out rows are exact copies of training rows"
            return None
        return ours / theirs

    def _distance(self, features: FloatArray, references: FloatArray) -> float:
        """Median distance to the nearest training row, in units of the training rows' spread per column."""
        queries = features[_draw(len(features), QUERY_ROWS, self.seed)] / self.feature_scale
        return float(np.median(metrics.nearest_distances(queries, references)))

    def _distance_of_states(self, states: FloatArray) -> float:
        """The same for states and the training rows' next states; NaN without training rows."""
        if self.references is None:
            return nan
        size = self.spaces.observation_size
        queries = states[_draw(len(states), QUERY_ROWS, self.seed)] / self.feature_scale[:size]
        return float(np.median(metrics.nearest_distances(queries, np.ascontiguousarray(self.references[:, :size]))))


def _simulator(env_id: str | None) -> tuple[Simulator | None, str]:
    if env_id is None:
        return None, "no environment is known for this data; name one with --env"
    try:
        return simulator_for(env_id), ""
    except UnsettableEnvironment as error:
        return None, str(error)


def _draw(n: int, limit: int, seed: int) -> np.ndarray:
    """Row numbers, rising: all n of them, or ``limit`` drawn without replacement."""
    if n <= limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, limit, replace=False))


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
