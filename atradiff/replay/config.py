"""Settings of the replay, which check themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class ReplayConfig:
    """rho is the share of synthetic rows in a batch (paper 4.2; it gives no value, SynthER's is 0.5).

    ``rho_end`` and ``rho_decay_steps`` change it linearly over that many env steps. ``expected_length`` is the paper's
    L; None keeps a moving average of the actual lengths. ``max_request_age`` (env steps): older replies are dropped.
    ``max_synthetic_age`` (env steps): synthetic rows that were stored longer ago are drawn no more, for tasks where the
    diffuser is adapted and its first rows were wrong; None keeps all that the ring holds.
    ``offline_share`` of each batch are rows of the offline data, exactly (RLPD's half and half, Ball 2023, section
    4.1); rho divides what is left between real and synthetic rows.
    """

    capacity: int = 1_000_000
    rho: float = 0.5
    rho_end: float | None = None
    rho_decay_steps: int = 0
    expected_length: float | None = None
    split: Literal["binomial", "exact"] = "binomial"
    max_request_age: int = 10_000
    max_synthetic_age: int | None = None
    offline_share: float = 0.0

    def __post_init__(self) -> None:
        for name, rho in (("rho", self.rho), ("rho_end", self.rho_end)):
            if rho is not None and not 0 <= rho < 1:
                raise ValueError(
                    f"{name} must lie in [0, 1), got {rho}: with 1 no real row would ever be learned from."
                )
        if self.rho_end is not None and self.rho_decay_steps < 1:
            raise ValueError(f"rho_end={self.rho_end} needs rho_decay_steps >= 1, got {self.rho_decay_steps}.")
        if self.expected_length is not None and self.expected_length < 1:
            raise ValueError(f"expected_length must be at least 1 transition, got {self.expected_length}.")
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1 transition, got {self.capacity}.")
        if self.split not in ("binomial", "exact"):
            raise ValueError(f"split must be 'binomial' or 'exact', got {self.split!r}.")
        if self.max_request_age < 0:
            raise ValueError(f"max_request_age must be at least 0 env steps, got {self.max_request_age}.")
        if self.max_synthetic_age is not None and self.max_synthetic_age < 1:
            raise ValueError(f"max_synthetic_age must be at least 1 env step, got {self.max_synthetic_age}.")
        if not 0 <= self.offline_share < 1:
            raise ValueError(
                f"offline_share must lie in [0, 1), got {self.offline_share}: with 1 no row of the agent's own would "
                "ever be learned from."
            )

    def plain(self) -> ReplayConfig:
        """The same replay without anybody who imagines: nothing is requested, no row is synthetic."""
        return replace(self, rho=0.0, rho_end=None)

    def rho_at(self, env_step: int) -> float:
        """The synthetic share after ``env_step`` env steps."""
        if self.rho_end is None:
            return self.rho
        return self.rho + (self.rho_end - self.rho) * min(env_step / self.rho_decay_steps, 1.0)

    @property
    def synthetic_capacity(self) -> int:
        """|D_s| such that the size ratio of full rings is rho / (1 - rho), as algorithm 1 keeps it."""
        rho = max(self.rho, self.rho_end or 0.0)
        return max(round(self.capacity * rho / (1 - rho)), 1)
