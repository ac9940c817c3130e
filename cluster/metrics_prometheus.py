"""A run's metrics at Ray's Prometheus endpoints, beside Ray's own: ``ray_atradiff_*`` with the label ``run``."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

from cluster.metrics_list import METRICS


class PrometheusMetrics:
    """One gauge for each metric of the list.

    Counters, too, are gauges here: a resumed run sets them to where its checkpoint was, which a counter of Prometheus
    cannot. A metric that has no value keeps the last one that it had.
    """

    def __init__(self, run: str) -> None:
        self._gauges = {
            metric.name: Gauge(metric.prometheus, description=f"{metric.help} Unit: {metric.unit}", tag_keys=("run",))
            for metric in METRICS
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    def set(self, values: Mapping[str, float | None]) -> None:
        """``values`` by the names of the list; None: no value at this moment."""
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(value)
