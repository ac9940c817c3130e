"""What a run tells: one list of metrics for TensorBoard and ``metrics.csv`` (docs/metrics.md explains each)."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from cluster.run_folder import MetricsFile, RunFolder

METRICS: dict[str, tuple[str, ...]] = {
    "train/episode_return": ("env_runners", "episode_return_mean"),
    "train/episode_length": ("env_runners", "episode_len_mean"),
    "learner/critic_loss": ("learner", "critic_loss"),
    "learner/actor_loss": ("learner", "actor_loss"),
    "learner/q_mean": ("learner", "q_mean"),
    "learner/td_error": ("learner", "td_error"),
    "learner/alpha": ("learner", "alpha"),
    "learner/entropy": ("learner", "entropy"),
    "learner/updates": ("learner", "updates"),
    "replay/real_rows": ("replay", "real_rows"),
    "replay/synthetic_rows": ("replay", "synthetic_rows"),
    "replay/expected_length": ("replay", "expected_length"),
    "replay/requests_pending": ("replay", "requests_pending"),
    "replay/requests_dropped": ("replay", "requests_dropped"),
    "replay/synthetic_age_steps": ("replay", "synthetic_age_steps"),
    "replay/synthetic_age_versions": ("replay", "synthetic_age_versions"),
    "time/sample": ("time", "sample"),
    "time/generate": ("time", "generate"),
    "time/learn": ("time", "learn"),
}
"""Name in TensorBoard and ``metrics.csv``: where the algorithm's result holds it."""


class RunLog:
    """Writes an evaluation and the algorithm's metrics of that moment to TensorBoard and to the CSV file.

    What was logged after ``env_steps``, where the run goes on, is forgotten: the run will live it anew.
    """

    def __init__(self, folder: RunFolder, env_steps: int) -> None:
        self._csv = MetricsFile(folder.metrics)
        self._csv.keep_until(env_steps)
        self._board = SummaryWriter(str(folder.tensorboard), purge_step=env_steps + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()

    def evaluation(
        self, env_steps: int, wall_seconds: float, returns: NDArray[np.float64], result: Mapping[str, Any]
    ) -> None:
        """Log the returns (episodes,) of an evaluation and the metrics of the iteration before it."""
        row: dict[str, float | int | None] = {
            "env_steps": env_steps,
            "eval_return": float(returns.mean()),
            "eval_return_std": float(returns.std()),
            "wall_seconds": round(wall_seconds, 3),
            **{name: _look_up(result, path) for name, path in METRICS.items()},
        }
        self._csv.append(row)
        self._board.add_scalar("evaluation/return", row["eval_return"], env_steps)
        self._board.add_scalar("time/env_steps_per_second", env_steps / max(wall_seconds, 1e-9), env_steps)
        for name in METRICS:
            if row[name] is not None:
                self._board.add_scalar(name, row[name], env_steps)
        self._board.flush()


def _look_up(result: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    """The number at ``path``, None where this iteration has none (no episode ended, nothing learned yet)."""
    value: Any = result
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    number = float(value)
    return number if np.isfinite(number) else None
