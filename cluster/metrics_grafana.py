"""A Grafana dashboard of the one list of metrics.

``python -m cluster.metrics_grafana > cluster/manifests/grafana_dashboard.json`` writes the file that users import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from cluster.metrics_list import METRICS, Metric

_UNITS = {"s": "s", "ms": "ms", "bytes": "bytes", "1/s": "ops", "share": "percentunit"}
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 7


def dashboard() -> dict[str, Any]:
    """One row of panels for each part of the system; metrics of the same part and unit share a panel."""
    panels: list[dict[str, Any]] = []
    y = 0
    for group, members in groupby(METRICS, key=lambda metric: metric.group):
        panels.append({"type": "row", "title": group, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        shared = [list(same) for _, same in groupby(members, key=lambda metric: metric.unit)]
        for place, metrics in enumerate(shared):
            x, line = place % _COLUMNS * _WIDTH, place // _COLUMNS
            panels.append(_panel(metrics, {"x": x, "y": y + line * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}))
        y += -(-len(shared) // _COLUMNS) * _HEIGHT
    return _frame([{"id": number, **panel} for number, panel in enumerate(panels, 1)])


def _panel(metrics: Sequence[Metric], place: dict[str, int]) -> dict[str, Any]:
    unit = metrics[0].unit
    return {
        "type": "timeseries",
        "title": ", ".join(metric.name.partition("/")[2] or metric.name for metric in metrics),
        "description": "\n\n".join(f"**{metric.name}**: {metric.help}" for metric in metrics),
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": _UNITS.get(unit, "short"), "custom": {"spanNulls": True}}},
        "targets": [_target(metric, letter) for metric, letter in zip(metrics, "ABCDEFGH", strict=False)],
    }


def _target(metric: Metric, letter: str) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": _DATASOURCE,
        "expr": f'max by (run) (ray_{metric.prometheus}{{run=~"$run"}})',
        "legendFormat": f"{metric.name} {{{{run}}}}",
    }


def _frame(panels: list[dict[str, Any]]) -> dict[str, Any]:
    """The dashboard round the panels, with a choice of data source and of runs."""
    runs = {
        "name": "run",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": "label_values(ray_atradiff_env_steps, run)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "title": "ATraDiff",
        "uid": "atradiff",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}, runs]},
        "panels": panels,
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    print()
