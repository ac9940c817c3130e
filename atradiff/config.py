"""Settings of a trajectory diffuser and of its fit, which check themselves and say what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, TypedDict

import numpy as np

from atradiff.types import FloatArray

Prune = Literal["none", "paper", "gated"]
Refine = Literal["none", "cut", "project", "dynamics"]
Process = Literal["shortcut", "edm"]
Solver = Literal["dpm++", "heun", "stochastic"]
Precision = Literal["auto", "float32", "bfloat16"]
Rows = Literal["differences", "absolute", "both", "residuals"]
Guide = Literal["none", "return", "relevance"]
Ends = Literal["bounds", "networks"]
Trained = Literal["all", "dynamics"]

PROJECTION_STEPS = 8
"""Of ``refine: project``, where nobody asks for another number."""


def require(holds: bool, what: str, value: object, remedy: str) -> None:
    """Raise ``ValueError`` with the offending value unless ``holds``."""
    if not holds:
        raise ValueError(f"{what} {remedy}, got {value!r}.")


def require_states(states: object, width: int) -> FloatArray:
    """``states`` as float32; raises ``ValueError`` unless they are (B, ``width``), B >= 1, and finite."""
    array = np.asarray(states, np.float32)
    fits = array.ndim == 2 and len(array) > 0 and array.shape[1] == width
    require(fits, "states", array.shape, f"must have the shape (B, {width}), B >= 1, as wide as in the data")
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    require(len(bad) == 0, "states", f"NaN or infinity in row {bad[:1]}", "must be finite")
    return array


def require_one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` with the offending value unless it is one of ``choices``."""
    require(value in choices, what, value, f"must be one of {', '.join(choices)}")


class _JsonConfig:
    """Round trip through the plain types of JSON; unknown keys are refused by name."""

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        require(set(values) <= known, cls.__name__, sorted(set(values) - known), "does not know these settings")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True)
class DiffuserConfig(_JsonConfig):
    """What a diffuser is: rows, network, process, and how its trajectories are sampled by default.

    ``width``, ``depth`` and ``dynamics_width`` of ``None`` are filled in at fit time: 96, 3 and 128 on a CPU, 384, 8
    and 256 on a GPU; for ``network: residual_mlp`` width and depth are 1024 and 6 on either, as SynthER's network that
    the paper takes over (appendix A.2).
    """

    generator: Literal["one", "bank"] = "one"
    """One network for all lengths, or the paper's bank: one for each of ``lengths`` (section 4.1)."""
    lengths: tuple[int, ...] = (5, 10, 15, 20, 25)
    rows: Rows = "differences"
    """What a row tells of the next state: how far it is from the last one, where it is, or how far it is from the last
    one and from s_1, merged by least squares (:mod:`atradiff.data.row_codecs`)."""
    network: Literal["transformer", "residual_mlp"] = "transformer"
    condition: Literal["state", "none"] = "state"
    """``none``: trajectories start at states of the data, not at the agent's (the paper's ablation, table 5)."""
    guide: Guide = "none"
    """A score of each window that sampling can ask for (:mod:`atradiff.guidance`): the ``return`` to go of its first
    row, or its ``relevance``, which is the one-step model's error, and in adaptation the pick-up's own indicator."""
    guide_discount: float = 0.99
    """Of the return to go."""
    guide_drop: float = 0.15
    """Share of training windows whose score is left out, so that sampling can do without it, too."""
    history: int = 0
    """Rows before a window that it is told of, so that chained windows keep up what the ones before began."""
    width: int | None = None
    depth: int | None = None
    heads: int = 4
    task_size: int = 0
    process: Process = "shortcut"
    calls: int | None = None
    """Network calls per window; ``None`` takes the process's own default."""
    solver: Solver = "dpm++"
    length_quantile: float = 0.8
    prune: Prune = "gated"
    refine: Refine = "dynamics"
    ends: Ends = "bounds"
    """What tells a terminal row: bounds on states where the data have such (:mod:`atradiff.data.alive_box`), else the
    networks; or always these, as in the paper."""
    dynamics_models: int = 3
    dynamics_width: int | None = None
    """Of the one-step model; ``None`` goes by the device: on a CPU a narrow one leaves the diffuser more steps."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.lengths, self.lengths[1:], strict=False))
        require(bool(self.lengths) and rising and self.lengths[0] >= 1, "lengths", self.lengths, "must rise from >= 1")
        require_one_of("generator", self.generator, ("one", "bank"))
        require_one_of("rows", self.rows, ("differences", "absolute", "both", "residuals"))
        require_one_of("network", self.network, ("transformer", "residual_mlp"))
        require_one_of("condition", self.condition, ("state", "none"))
        require_one_of("guide", self.guide, ("none", "return", "relevance"))
        require(0 < self.guide_discount <= 1, "guide_discount", self.guide_discount, "must lie in (0, 1]")
        require(0 < self.guide_drop < 1, "guide_drop", self.guide_drop, "must lie between 0 and 1")
        require_one_of("process", self.process, ("shortcut", "edm"))
        require_one_of("solver", self.solver, ("dpm++", "heun", "stochastic"))
        require_one_of("prune", self.prune, ("none", "paper", "gated"))
        require_one_of("refine", self.refine, ("none", "cut", "project", "dynamics"))
        for name in ("width", "depth", "calls"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1, or null for the default")
        require(self.heads >= 1, "heads", self.heads, "must be at least 1")
        require(self.width is None or self.width % self.heads == 0, "width", self.width, "must be a multiple of heads")
        require(
            self.width is None or self.width % 2 == 0, "width", self.width, "must be even: half sines, half cosines"
        )
        for name in ("task_size", "history"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        require_one_of("ends", self.ends, ("bounds", "networks"))
        require(0 < self.length_quantile < 1, "length_quantile", self.length_quantile, "must lie between 0 and 1")
        require(self.dynamics_models >= 1, "dynamics_models", self.dynamics_models, "must be at least 1")
        narrow = self.dynamics_width is not None and self.dynamics_width < 8
        require(not narrow, "dynamics_width", self.dynamics_width, "must be at least 8")

    @property
    def longest(self) -> int:
        """K_max, the longest window in rows."""
        return self.lengths[-1]


@dataclass(frozen=True)
class SamplingConfig(_JsonConfig):
    """How trajectories are drawn from a fitted diffuser; ``None`` leaves the choice to the model's own configuration.

    ``horizon`` is the most rows a trajectory may have: beyond the longest window, windows are chained. ``length`` fixes
    the rows of each window, instead of the length estimator; short windows with a horizon plan anew every few steps.
    ``temperature`` scales all the noise that sampling draws: below 1, likelier and more alike trajectories (low
    temperature sampling, Ajay et al. 2023). ``state_temperature`` is that of the noise in what rows tell of states and
    rewards, which leaves the plan's actions free; ``None`` is 0 for ``rows: residuals``, else ``temperature``.

    ``guidance_scale`` is how far sampling leans on the score that the model was fitted with (``guide``): 0 not at all,
    1 as the data go together with it, more exaggerates; all but 0 and 1 take two predictions at each step. ``target``
    is the score that is asked for, as a quantile of the data: 1 the best. ``projection_steps`` are those of ``refine:
    project``: each brings windows nearer to the one-step model, and takes its time. ``inner_projection_steps`` are such
    steps on each call's estimate of the windows, before sampling goes on from it, whatever ``refine`` does afterwards.
    ``inner_roll`` has each call's estimate but the last one's follow the one-step model instead, from row to row, by
    that share (1: a roll, as in ``refine: dynamics``), so that later calls plan for states within reach.
    ``disagreement``: projected and re-rolled trajectories end before members of the one-step model are so many times
    as far apart as one row in a thousand of the data makes them (a window's first row stays); less: shorter ones. A
    model in bfloat16 counts its rounding, too: far below 1, ask for ``precision: float32`` in its fit.
    """

    horizon: int | None = None
    length: int | None = None
    refine: Refine | None = None
    prune: Prune | None = None
    calls: int | None = None
    temperature: float = 1.0
    state_temperature: float | None = None
    guidance_scale: float = 0.0
    target: float = 0.95
    projection_steps: int = PROJECTION_STEPS
    inner_projection_steps: int = 0
    inner_roll: float = 0.0
    disagreement: float = 3.0

    def __post_init__(self) -> None:
        for name in ("horizon", "length", "calls"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1")
        if self.refine is not None:
            require_one_of("refine", self.refine, ("none", "cut", "project", "dynamics"))
        if self.prune is not None:
            require_one_of("prune", self.prune, ("none", "paper", "gated"))
        require(0 < self.temperature <= 1, "temperature", self.temperature, "must lie in (0, 1]")
        of_states = self.state_temperature
        require(of_states is None or 0 <= of_states <= 1, "state_temperature", of_states, "must lie in [0, 1]")
        require(0 <= self.guidance_scale < float("inf"), "guidance_scale", self.guidance_scale, "must be at least 0")
        require(0 <= self.target <= 1, "target", self.target, "must lie in 0..1: it is a quantile of the data's scores")
        require(self.projection_steps >= 1, "projection_steps", self.projection_steps, "must be at least 1")
        inner = self.inner_projection_steps
        require(inner >= 0, "inner_projection_steps", inner, "must not be negative")
        require(0 <= self.inner_roll <= 1, "inner_roll", self.inner_roll, "must lie in 0..1: it is a share")
        require(self.disagreement > 0, "disagreement", self.disagreement, "must be positive")
        either = inner == 0 or self.inner_roll == 0
        require(either, "inner_roll", self.inner_roll, "must be 0 beside inner_projection_steps: choose one of them")

    def require_fits(self, model: DiffuserConfig) -> None:
        """Raise ``ValueError`` where ``model`` has no guide to sample by, or no window of ``length`` rows."""
        remedy = "must be 0: this model was fitted without a guide (fit one with guide: return, or relevance)"
        guided = model.guide != "none"
        require(guided or self.guidance_scale == 0, "guidance_scale", self.guidance_scale, remedy)
        within = self.length is None or self.length <= model.longest
        remedy = f"must lie in 1..{model.longest}, the model's longest window; see horizon"
        require(within, "length", self.length, remedy)


class SamplingOptions(TypedDict, total=False):
    """The fields of :class:`SamplingConfig` as keyword arguments of ``generate``."""

    horizon: int | None
    length: int | None
    refine: Refine | None
    prune: Prune | None
    calls: int | None
    temperature: float | None
    state_temperature: float | None
    guidance_scale: float | None
    target: float | None
    projection_steps: int | None
    inner_projection_steps: int | None
    inner_roll: float | None
    disagreement: float | None


@dataclass(frozen=True)
class FitConfig(_JsonConfig):
    """How a diffuser is fitted. Give ``steps`` (bit-reproducible) or ``cpu_minutes`` (a budget), not both."""

    steps: int | None = None
    cpu_minutes: float | None = None
    tokens_per_step: int = 2560
    """Rows per diffuser batch: windows of one length K per step, ``tokens_per_step // K`` of them."""
    learning_rate: float = 1e-2
    """Peak for the diffuser, of Muon on its matrices and of AdamW on the rest."""
    mlp_rate: float = 1e-3
    """Peak for the diffuser with ``network: residual_mlp``, of AdamW on all its weights."""
    dynamics_rate: float = 8e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    ema_decay: float = 0.999
    dynamics_updates: int = 3
    """Updates of the one-step model per diffuser step."""
    expectation_updates: int | None = None
    """Of what is expected of a step, before the diffuser's first step (``rows: residuals`` alone); ``None``: about a
    tenth of the budget, that is five for each step or 1,200 for each CPU minute, at most 20,000."""
    dynamics_batch: int = 256
    held_out: float = 0.05
    """Share of the episodes kept for the held-out loss and the calibration."""
    checkpoint_every: int = 500
    seed: int = 0
    threads: int = 1
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        given = (self.steps is not None) + (self.cpu_minutes is not None)
        require(given == 1, "steps and cpu_minutes", (self.steps, self.cpu_minutes), "must be given one at a time")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "must be at least 1")
        require(self.cpu_minutes is None or self.cpu_minutes > 0, "cpu_minutes", self.cpu_minutes, "must be positive")
        for name in ("tokens_per_step", "dynamics_updates", "dynamics_batch", "checkpoint_every", "threads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        updates = self.expectation_updates
        require(updates is None or updates >= 1, "expectation_updates", updates, "must be at least 1, or null")
        for name in ("learning_rate", "mlp_rate", "dynamics_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "must not be negative")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must lie in [0, 1)")
        require(0 < self.held_out < 1, "held_out", self.held_out, "must lie between 0 and 1")
        require_one_of("precision", self.precision, ("auto", "float32", "bfloat16"))

    @property
    def updates_of_expectation(self) -> int:
        """``expectation_updates``, or as many as the budget asks for."""
        if self.expectation_updates is not None:
            return self.expectation_updates
        by_budget = 5 * self.steps if self.steps is not None else round(1200 * (self.cpu_minutes or 0))
        return min(max(by_budget, 1), 20_000)


@dataclass(frozen=True)
class SyntherConfig(_JsonConfig):
    """SynthER (Lu et al. 2023) as its authors run it online: width 1024, 6 layers, 128 stochastic Heun steps.

    Offline they train width 2048 on some data sets. ``calls`` of None is 255 (128 steps, two calls each but the last),
    or 20 with ``solver: dpm++``.
    """

    width: int = 1024
    depth: int = 6
    solver: Solver = "stochastic"
    calls: int | None = None
    retrain_every: int | None = 10_000
    """Online: env steps between two fits from scratch on all real rows; None: it stays as it was fitted offline."""

    def __post_init__(self) -> None:
        require_one_of("solver", self.solver, ("dpm++", "heun", "stochastic"))
        for name in ("width", "depth"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("calls", "retrain_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1, or null")

    @property
    def network_calls(self) -> int:
        """Network calls per transition."""
        return self.calls or (20 if self.solver == "dpm++" else 255)


@dataclass(frozen=True)
class SyntherFit(_JsonConfig):
    """How SynthER is fitted; the defaults are its authors'. Give ``steps`` (theirs: 100,000) or ``cpu_minutes``."""

    steps: int | None = None
    cpu_minutes: float | None = None
    batch: int = 256
    """They take 1024 for data of 800,000 rows and more."""
    learning_rate: float = 3e-4
    """Peak; falls to zero along a cosine."""
    ema_decay: float = 0.995
    ema_every: int = 10
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        given = (self.steps is not None) + (self.cpu_minutes is not None)
        require(given == 1, "steps and cpu_minutes", (self.steps, self.cpu_minutes), "must be given one at a time")
        require(self.cpu_minutes is None or self.cpu_minutes > 0, "cpu_minutes", self.cpu_minutes, "must be positive")
        for name in ("batch", "ema_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "must be at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be positive")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must lie in [0, 1)")
        require_one_of("precision", self.precision, ("auto", "float32", "bfloat16"))


@dataclass(frozen=True)
class ServingConfig:
    """Requests are generated ``requests_per_batch`` at a time, or when the oldest has waited ``max_wait`` env steps.

    Imagined trajectories are cut into pieces of ``own_length`` rows; in ``own_share`` of them (1: in all) the agent's
    own policy takes the place of the diffused actions, through the one-step model (:mod:`atradiff.branches`).
    """

    requests_per_batch: int = 64
    max_wait: int = 200
    own_share: float = 0.0
    own_length: int = 5

    def __post_init__(self) -> None:
        require(0 <= self.own_share <= 1, "own_share", self.own_share, "must lie in 0..1: it is a share of the pieces")
        require(self.own_length >= 1, "own_length", self.own_length, "must be at least 1 row")
        if self.requests_per_batch < 1 or self.max_wait < 0:
            raise ValueError(
                f"requests_per_batch must be at least 1 and max_wait at least 0, got {self.requests_per_batch} and "
                f"{self.max_wait}."
            )
