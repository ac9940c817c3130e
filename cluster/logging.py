"""What a run tells, from one list (``cluster.metrics_list``): TensorBoard, ``metrics.csv`` and Prometheus."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from atradiff.adaptation.report import AdaptationReport
from cluster.metrics_list import METRICS
from cluster.metrics_prometheus import PrometheusMetrics
from cluster.run_folder import MetricsFile, RunFolder

SECONDS_BETWEEN_POINTS = 10.0

_INTEGERS = {"env_steps"}


class RunLog:
    """Writes evaluations to the CSV file, and them and the time between them to TensorBoard and Prometheus.

    What was logged after ``env_steps``, where the run goes on, is forgotten: the run will live it anew.
    """

    def __init__(self, folder: RunFolder, env_steps: int, *, seconds: float = SECONDS_BETWEEN_POINTS) -> None:
        self._csv = MetricsFile(folder.metrics)
        self._csv.keep_until(env_steps, [metric.name for metric in METRICS])
        self._board = SummaryWriter(str(folder.tensorboard), purge_step=env_steps + 1)
        self._prometheus = PrometheusMetrics(_label(folder)) if ray.is_initialized() else None
        self._seconds = seconds
        self._last_point = (env_steps, time.perf_counter())

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
        evaluated = {"eval_return": float(returns.mean()), "eval_return_std": float(returns.std())}
        values = self._point(env_steps, wall_seconds, result, evaluated)
        self._csv.append({name: int(v) if name in _INTEGERS and v is not None else v for name, v in values.items()})

    def iteration(self, env_steps: int, wall_seconds: float, result: Mapping[str, Any]) -> None:
        """Log an iteration without an evaluation, unless the last entry was but a few seconds ago."""
        if time.perf_counter() - self._last_point[1] >= self._seconds:
            self._point(env_steps, wall_seconds, result, {})

    def adaptation(self, report: AdaptationReport) -> None:
        """Log what became of an update of the diffuser to TensorBoard, where it began: losses and the picked rows."""
        for name, value in report.metrics().items():
            self._board.add_scalar(f"adapter/{name}", value, report.env_steps)
        for name, values in (("age", report.ages), ("importance", report.importance)):
            known = values[np.isfinite(values)]
            if len(known):
                self._board.add_histogram(f"adapter/picked_{name}", known, report.env_steps)
        self._board.flush()

    def _point(
        self, env_steps: int, wall_seconds: float, result: Mapping[str, Any], evaluated: Mapping[str, float]
    ) -> dict[str, float | None]:
        """The value of each metric of the list at this moment, as TensorBoard and Prometheus now show it."""
        before, since = self._last_point
        self._last_point = (env_steps, time.perf_counter())
        run = {
            "env_steps": env_steps,
            "wall_seconds": round(wall_seconds, 3),
            "env_steps_per_second": (env_steps - before) / max(self._last_point[1] - since, 1e-9),
            **evaluated,
        }
        whole = {"gpu": _gpu(), **result, "run": run}
        values = {metric.name: metric.read(whole) for metric in METRICS}
        for metric in METRICS:
            if values[metric.name] is not None:
                self._board.add_scalar(metric.tag, values[metric.name], env_steps)
        self._board.flush()
        if self._prometheus is not None:
            self._prometheus.set(values)
        return values


def _label(folder: RunFolder) -> str:
    """NAME/ARM/seed_N: what tells a run from the others on the same cluster."""
    return "/".join(folder.path.parts[-3:])


def _gpu() -> dict[str, int]:
    """Bytes in use on this process's GPUs; empty where it uses none (asking would cost a GPU's worth of context)."""
    if not torch.cuda.is_initialized():
        return {}
    spaces = [torch.cuda.mem_get_info(device) for device in range(torch.cuda.device_count())]
    return {"memory_bytes": sum(total - free for free, total in spaces)}
