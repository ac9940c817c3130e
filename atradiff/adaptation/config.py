"""Settings of online adaptation; each rule of ATraDiff (section 4.3, appendix A.1) is a switch of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atradiff.config import Trained, require, require_one_of

Indicator = Literal["td", "reward", "uniform", "newest"]


@dataclass(frozen=True)
class PickUpConfig:
    """Which real rows a diffuser learns from.

    ``td`` and ``reward`` are the paper's indicators, ``uniform`` and ``newest`` controls that need none. ``entries`` is
    the size of the index (None: the paper's 50,000 for td and 5,000 for reward), ``picked`` the paper's 5,000 rows per
    update. What the paper leaves open: a full TD index gives up its lowest entry with probability ``evict_lowest``,
    else any; after a pick the reward index drops its oldest ``drop_oldest`` and a random ``drop_random`` of its
    entries (0: the ablation without random drop), and all that served ``max_uses`` picks, whatever became of their
    updates.
    """

    indicator: Indicator = "td"
    entries: int | None = None
    picked: int = 5_000
    evict_lowest: float = 0.8
    drop_oldest: float = 0.2
    drop_random: float = 0.1
    max_uses: int = 3
    rescore: bool = True
    """td: before a pick, all entries are scored by the learner's current networks in one pass, as the paper has it."""
    draws: int = 1
    """td: actions of the policy tried in s' when scoring, where no maximum over actions can be taken; 1: its mean."""

    def __post_init__(self) -> None:
        require_one_of("indicator", self.indicator, ("td", "reward", "uniform", "newest"))
        require(self.entries is None or self.entries >= 1, "entries", self.entries, "must be at least 1")
        require(self.picked >= 1, "picked", self.picked, "must be at least 1 row")
        for name in ("evict_lowest", "drop_oldest", "drop_random"):
            share = getattr(self, name)
            require(0 <= share <= 1, name, share, "must lie in 0..1")
        require(self.max_uses >= 1, "max_uses", self.max_uses, "must be at least 1 update")
        require(self.draws >= 1, "draws", self.draws, "must be at least 1 action")

    @property
    def index_entries(self) -> int:
        """The size of the index, of the paper where none is set."""
        return self.entries or (5_000 if self.indicator == "reward" else 50_000)


def passed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of ``every`` env steps was passed: all who ask agree on when, without being told."""
    return now // every > before // every


@dataclass(frozen=True)
class AdaptationConfig:
    """When a diffuser is updated, on what, for how long, and when an update is taken back.

    ``trigger: period`` updates at each multiple of ``every`` env steps (the paper gives no number), ``drift`` looks
    that often and updates only where the loss on the newest windows exceeds ``drift_ratio`` times its reference: the
    larger of the fitted model's held-out loss and the loss on the newest windows after the last update.
    """

    pick_up: PickUpConfig = PickUpConfig()
    networks: Trained = "all"
    """``dynamics``: the one-step model alone, which costs less; its loss is then what forgetting and drift are
    measured by. For a task that did not change, where plans stay good but the agent meets states the data lack."""
    trigger: Literal["period", "drift"] = "period"
    every: int = 10_000
    drift_ratio: float = 1.5
    steps: int | None = 50
    cpu_seconds: float | None = None
    """Budget of one update in CPU time, instead of ``steps``; then runs are not bit-reproducible."""
    tokens_per_step: int = 1280
    """Rows per diffuser batch."""
    learning_rate: float = 1.5e-3
    dynamics_rate: float = 1e-3
    dynamics_updates: int = 3
    ema_decay: float = 0.95
    rehearsal: float = 0.75
    """Share of offline windows in each batch, against forgetting."""
    original_share: float = 0.2
    """Share of request batches that the frozen original serves (the paper keeps it and says no more)."""
    max_forgetting: float | None = 0.1
    """An update that leaves the held-out offline loss more than this share above the fitted model's is taken back."""
    held_out: float = 0.05
    """Share of picked windows that losses are measured on, and from whose rows the diffuser does not learn; of the
    offline episodes those that the fit held out, or this share where the model was fitted on other data."""
    min_windows: int = 256
    """With fewer whole windows among the picked rows there is no update."""
    threads: int = 1
    """Of an adapter in a process of its own; in a run's process an update has the run's."""

    def __post_init__(self) -> None:
        require_one_of("networks", self.networks, ("all", "dynamics"))
        require_one_of("trigger", self.trigger, ("period", "drift"))
        given = (self.steps is not None) + (self.cpu_seconds is not None)
        require(given == 1, "steps and cpu_seconds", (self.steps, self.cpu_seconds), "must be given one at a time")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "must be at least 1")
        for name in ("every", "tokens_per_step", "dynamics_updates", "threads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.min_windows >= 2, "min_windows", self.min_windows, "must be at least 2: one to measure on")
        for name in ("drift_ratio", "learning_rate", "dynamics_rate", "cpu_seconds", "max_forgetting"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "must be positive")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must lie in [0, 1)")
        require(0 < self.held_out < 1, "held_out", self.held_out, "must lie between 0 and 1")
        require(0 <= self.rehearsal < 1, "rehearsal", self.rehearsal, "must lie in [0, 1)")
        require(0 <= self.original_share < 1, "original_share", self.original_share, "must lie in [0, 1)")
