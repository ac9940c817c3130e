"""S4RL (Sinha et al. 2021, "Surprisingly Simple Self-Supervision for Offline RL") as a baseline: perturbed states.

Rewards, actions and ends stay those of the row; state and next state are perturbed independently of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atradiff.config import require, require_one_of, require_states
from atradiff.types import FloatArray, IntArray, Spaces, SyntheticTrajectories, Transitions

KINDS = ("gaussian", "uniform", "amplitude", "dropout", "switch", "mixup", "adversarial")


@dataclass(frozen=True)
class S4RLConfig:
    """Which augmentation, and how strong; the defaults are from the paper's lists, in the units of the states.

    ``switch_pairs`` are columns of like meaning that may change places, counted from 0; empty means any two.
    """

    kind: Literal["gaussian", "uniform", "amplitude", "dropout", "switch", "mixup", "adversarial"] = "gaussian"
    noise: float = 3e-4
    """Standard deviation of ``gaussian``, half width of ``uniform``."""
    amplitude: tuple[float, float] = (0.8, 1.2)
    mixup: float = 0.4
    """Both parameters of the Beta distribution that the share of s against s' is drawn from."""
    adversarial_step: float = 1e-4
    switch_pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, KINDS)
        for name in ("noise", "mixup", "adversarial_step"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        require(0 < self.amplitude[0] <= self.amplitude[1], "amplitude", self.amplitude, "must be (low, high), low > 0")

    def require_width(self, columns: int) -> None:
        """Raise ``ValueError`` where states of so many columns cannot be switched as asked."""
        if self.kind != "switch":
            return
        require(columns > 1, "the width of states", columns, "must be at least 2 for kind 'switch': take another kind")
        wrong = [pair for pair in self.switch_pairs if not (0 <= min(pair) < max(pair) < columns)]
        require(not wrong, "switch_pairs", wrong[:3], f"must be two different columns of 0..{columns - 1} each")

    def require_without_critic(self) -> None:
        """Raise ``ValueError`` for a kind that needs the learner's critic, where there is none to ask."""
        others = ", ".join(kind for kind in KINDS if kind != "adversarial")
        remedy = f"must be one of {others} here: adversarial climbs the critic, which the learner alone has"
        require(self.kind != "adversarial", "kind", self.kind, remedy)


class StateAugmentation:
    """One draw of the augmentation per call; ``adversarial`` needs ``gradient``: states (N, S) to dQ(s, pi(s))/ds."""

    def __init__(self, config: S4RLConfig, gradient: Callable[[FloatArray], FloatArray] | None = None) -> None:
        needs = config.kind == "adversarial" and gradient is None
        require(not needs, "gradient", None, "must be given for kind 'adversarial': it climbs the critic")
        self.config, self._gradient = config, gradient

    def transitions(self, rows: Transitions, rng: np.random.Generator) -> Transitions:
        """``rows`` with perturbed states and next states.

        ``mixup`` mixes s with s'; the state after s' is not in a row, so that s' stays as it is.
        """
        following = rows.next_observations
        return replace(
            rows,
            observations=self.states(rows.observations, following, rng),
            next_observations=self.states(following, following, rng),
        )

    def states(self, states: FloatArray, following: FloatArray, rng: np.random.Generator) -> FloatArray:
        """(N, S) perturbed ``states``; ``following`` (N, S) are the states one step later.

        Raises ``ValueError`` where states of this width cannot be switched as asked.
        """
        config, shape = self.config, states.shape
        config.require_width(shape[1])
        changed: NDArray[Any]
        match config.kind:
            case "gaussian":
                changed = states + rng.normal(scale=config.noise, size=shape)
            case "uniform":
                changed = states + rng.uniform(-config.noise, config.noise, size=shape)
            case "amplitude":
                changed = states * rng.uniform(*config.amplitude, size=(len(states), 1))
            case "dropout":
                changed = np.where(np.arange(shape[1]) == rng.integers(shape[1], size=(len(states), 1)), 0, states)
            case "switch":
                changed = _switched(states, self._pairs(states, rng))
            case "mixup":
                share = rng.beta(config.mixup, config.mixup, size=(len(states), 1))
                changed = share * states + (1 - share) * following
            case "adversarial":
                changed = states + config.adversarial_step * self._climb(states)
        return changed.astype(np.float32)

    def _pairs(self, states: FloatArray, rng: np.random.Generator) -> IntArray:
        """(N, 2) columns to change places."""
        if self.config.switch_pairs:
            pairs = np.array(self.config.switch_pairs)
            return pairs[rng.integers(len(pairs), size=len(states))]
        return rng.random(states.shape).argsort(axis=1)[:, :2]

    def _climb(self, states: FloatArray) -> FloatArray:
        if self._gradient is None:
            raise ValueError("adversarial augmentation needs a gradient.")
        return self._gradient(states)


def _switched(states: FloatArray, pairs: IntArray) -> FloatArray:
    changed, row = states.copy(), np.arange(len(states))
    changed[row, pairs[:, 0]], changed[row, pairs[:, 1]] = states[row, pairs[:, 1]], states[row, pairs[:, 0]]
    return changed


class S4RLGenerator:
    """Perturbed rows of a data set behind the interface of generators; see :class:`atradiff.ports.TrajectoryGenerator`.

    Unconditional like SynthER: its trajectories are one row long and start at states of the data.
    """

    starts_at_states = False
    version = 0

    def __init__(
        self, spaces: Spaces, data: Transitions, augmentation: StateAugmentation, *, data_hash: str = ""
    ) -> None:
        """``data`` (N rows) are indexed, not copied; ``data_hash`` names them in the manifest of a run.

        Raises ``ValueError`` for data that are not finite, and for a switch that states of this width cannot have.
        """
        augmentation.config.require_width(spaces.observation_size)
        for name, column in data.items():
            finite = bool(np.isfinite(column).all())
            require(finite, f"{name} of the data", "NaN or infinity", "must be finite: repair or drop those episodes")
        self._spaces, self._data, self._augmentation, self.data_hash = spaces, data, augmentation, data_hash

    @property
    def spaces(self) -> Spaces:
        """Of the environment that the data are from."""
        return self._spaces

    @property
    def config(self) -> S4RLConfig:
        """Which augmentation, and how strong."""
        return self._augmentation.config

    def generate(
        self, states: FloatArray, task: FloatArray | None = None, *, generator_seed: int
    ) -> SyntheticTrajectories:
        """As many trajectories of one row as there are ``states`` (B, S), which are not looked at otherwise.

        Raises ``ValueError`` for a task vector and for states of a wrong width or with NaN or infinity.
        """
        if task is not None:
            raise ValueError("S4RL takes no task: its transitions are unconditional.")
        states = require_states(states, self._spaces.observation_size)
        rng = np.random.default_rng(generator_seed)
        chosen = self._data[rng.integers(len(self._data), size=len(states))]
        rows = self._augmentation.transitions(chosen, rng)
        return SyntheticTrajectories(
            observations=np.stack([rows.observations, rows.next_observations], axis=1),
            actions=rows.actions[:, None],
            rewards=rows.rewards[:, None],
            terminated=rows.terminated[:, None],
            lengths=np.ones(len(states), np.int64),
            generator_version=self.version,
        )
