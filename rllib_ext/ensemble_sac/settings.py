"""What can be set about the learner, checked in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True)
class SACSettings:
    """SAC with an ensemble of critics. Two critics are SAC, ten with utd=20 and actor_reduce="mean" are REDQ, with
    layer_norm and half of each batch from offline data (replay.offline_share=0.5) RLPD: see docs/algorithms.md.

    gamma: discount. batch_size: rows per update, of all learners together.
    n_critics, target_subset: N and M of REDQ (Chen 2021, algorithm 1).
    hidden_sizes, layer_norm: actor and critics, LayerNorm in the critics only (Ball 2023).
    standardise_states: actor and critics read states with mean 0 and spread 1 in each column, those of the rows of the
    first updates; where learning starts before env step 1,000, those of the newest updates until then. Fixed from then
    on; columns that stood still keep their unit. Falls are told by columns that vary little beside velocities.
    actor_reduce: how the critics are joined for the actor: their minimum (SAC) or their mean (REDQ).
    actor_every: actor and alpha learn at every that many-th critic update.
    tau: share of the critic that enters its target at each update. target_entropy: None is -A.
    backup_entropy: whether the targets hold the entropy bonus; sparse goals that end the episode need it off.
    reward_shift: added to every reward that is learned from, and to none that is reported (RLPD: -1 on AntMaze).
    utd: critic updates per env step, may be below 1. learning_starts: env steps with random actions, not learned from
    before they are all there.
    compile: torch.compile the losses, on a GPU with CUDA graphs; takes a minute at the start. Without a GPU no faster.
    """

    gamma: float = 0.99
    batch_size: int = 256
    n_critics: int = 2
    target_subset: int = 2
    hidden_sizes: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    standardise_states: bool = False
    actor_reduce: Literal["min", "mean"] = "min"
    actor_every: int = 1
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    alpha_lr: float = 3e-4
    tau: float = 0.005
    initial_alpha: float = 1.0
    target_entropy: float | None = None
    backup_entropy: bool = True
    reward_shift: float = 0.0
    utd: float = 1.0
    learning_starts: int = 1_000
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_critics", "target_subset", "actor_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("actor_lr", "critic_lr", "alpha_lr", "initial_alpha", "utd"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.target_subset > self.n_critics:
            raise ValueError(
                f"target_subset={self.target_subset} critics cannot be drawn from n_critics={self.n_critics}: lower "
                "target_subset or raise n_critics."
            )
        if not 0 < self.tau <= 1 or not 0 <= self.gamma <= 1:
            raise ValueError(f"tau must lie in (0, 1] and gamma in [0, 1], got tau={self.tau} and gamma={self.gamma}.")
        if self.actor_reduce not in ("min", "mean"):
            raise ValueError(f'actor_reduce must be "min" or "mean", got {self.actor_reduce!r}.')
        if self.learning_starts < 0:
            raise ValueError(f"learning_starts counts env steps and cannot be {self.learning_starts}.")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes needs at least one layer of at least one unit, got {self.hidden_sizes}.")

    def updates_due(self, env_steps: int, updates_done: int) -> int:
        """Critic updates that are owed after ``env_steps``: utd for each step after ``learning_starts``."""
        return max(int((env_steps - self.learning_starts) * self.utd) - updates_done, 0)


SHARED_WITH_RLLIB = frozenset({"gamma"})
"""Settings that RLlib's own configuration already holds."""

OWN_SETTINGS = {f.name: f.default for f in fields(SACSettings) if f.name not in SHARED_WITH_RLLIB}
