"""One list of metrics: what is logged, documented, exported and drawn is the same."""

from __future__ import annotations

import csv
import http.client
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atradiff.adaptation.report import AdaptationReport
from cluster.logging import RunLog
from cluster.metrics_grafana import dashboard
from cluster.metrics_list import METRICS, markdown_table
from cluster.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
RESULT = {"learner": {"q_mean": 2.5, "td_error": float("nan")}, "pool": {"size": 3}, "unknown": {"x": 1}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "hopper" / "atradiff" / "seed_7"
    path.mkdir(parents=True)
    return RunFolder(path)


def board(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's own reader: tag -> [(step, value)]."""
    events = EventAccumulator(str(folder.tensorboard)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_names_are_said_once() -> None:
    for names in ([m.name for m in METRICS], [m.tag for m in METRICS], [m.prometheus for m in METRICS]):
        assert len(set(names)) == len(names)


def test_an_evaluation_is_a_row_of_the_curve_and_a_point_in_tensorboard(folder: RunFolder) -> None:
    with RunLog(folder, 0) as log:
        log.evaluation(100, 2.0, np.array([1.0, 3.0]), RESULT)
    with folder.metrics.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == [metric.name for metric in METRICS]
    assert {k: row[k] for k in ("env_steps", "eval_return", "eval_return_std", "wall_seconds")} == {
        "env_steps": "100",
        "eval_return": "2.0",
        "eval_return_std": "1.0",
        "wall_seconds": "2.0",
    }
    assert (row["learner/q_mean"], row["learner/td_error"], row["pool/size"]) == ("2.5", "", "3.0")
    points = board(folder)
    assert points["evaluation/return"] == [(100, 2.0)]
    assert points["learner/q_mean"] == [(100, 2.5)]
    assert "learner/td_error" not in points


def test_between_evaluations_tensorboard_gets_a_point_only_now_and_then(folder: RunFolder) -> None:
    with RunLog(folder, 0, seconds=3600.0) as log:
        log.iteration(50, 1.0, RESULT)
    assert board(folder) == {}
    with RunLog(folder, 0, seconds=0.0) as log:
        log.iteration(50, 1.0, RESULT)
        log.iteration(100, 2.0, RESULT)
    assert [step for step, _ in board(folder)["pool/size"]] == [50, 100]
    assert not folder.metrics.exists()


def test_a_resumed_run_forgets_what_it_will_live_anew(folder: RunFolder) -> None:
    with RunLog(folder, 0) as log:
        for steps in (100, 200):
            log.evaluation(steps, 1.0, np.array([1.0]), RESULT)
    with RunLog(folder, 100) as log:
        log.evaluation(150, 1.0, np.array([1.0]), RESULT)
    with folder.metrics.open(newline="") as file:
        assert [row["env_steps"] for row in csv.DictReader(file)] == ["100", "150"]


def test_the_documentation_has_the_table_of_the_list() -> None:
    assert markdown_table() in (ROOT / "docs" / "metrics.md").read_text(), (
        "put what `python -m cluster.metrics_list` prints into docs/metrics.md"
    )


def test_the_dashboard_shows_every_metric_and_nothing_else() -> None:
    stored = json.loads((ROOT / "cluster" / "manifests" / "grafana_dashboard.json").read_text())
    assert stored == dashboard(), "python -m cluster.metrics_grafana > cluster/manifests/grafana_dashboard.json"
    panels = [panel for panel in stored["panels"] if panel["type"] == "timeseries"]
    shown = [target["expr"].split("(ray_")[1].split("{")[0] for panel in panels for target in panel["targets"]]
    assert sorted(shown) == sorted(metric.prometheus for metric in METRICS)
    assert len({panel["id"] for panel in stored["panels"]}) == len(stored["panels"])
    cells = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(cells)) == len(cells)


@pytest.fixture
def ray_with_endpoint() -> Iterator[str]:
    """A Ray of its own whose node serves metrics; yields the address of its endpoint."""
    ray.shutdown()  # the session's Ray, where another file began one: it is started again when asked for
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 1024**2,
        _system_config={"metrics_report_interval_ms": 200},
    )
    try:
        (node,) = ray.nodes()
        yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    finally:
        ray.shutdown()


def test_prometheus_finds_a_runs_metrics_at_rays_endpoint(folder: RunFolder, ray_with_endpoint: str) -> None:
    deadline = time.monotonic() + 300
    line = ""
    with RunLog(folder, 0, seconds=0.0) as log:
        while not line and time.monotonic() < deadline:
            log.iteration(50, 1.0, RESULT)
            time.sleep(0.5)
            page = _page(ray_with_endpoint)
            line = next((row for row in page.splitlines() if row.startswith("ray_atradiff_pool_size{")), "")
    assert 'run="hopper/atradiff/seed_7"' in line
    assert line.split()[-1] == "3.0"


def _page(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.read().decode()
    except (OSError, http.client.HTTPException):  # the endpoint comes up a little after the node
        return ""


def test_an_update_of_the_diffuser_is_seen_with_what_was_picked(folder: RunFolder) -> None:
    ages, importance = np.array([0, 10, 10, 990]), np.array([1, 2, np.nan, 3], np.float32)
    with RunLog(folder, 0) as log:
        log.adaptation(
            AdaptationReport("accepted", 1, 500, 1, new_before=2.0, new_after=0.5, ages=ages, importance=importance)
        )
        log.adaptation(AdaptationReport("no_drift", 2, 1000, 1, drift=0.9))
    points = board(folder)
    assert points["adapter/new_loss_before"] == [(500, 2.0)]
    assert points["adapter/new_loss_after"] == [(500, 0.5)]
    assert points["adapter/accepted"] == [(500, 1.0), (1000, 0.0)]
    assert points["adapter/drift"] == [(1000, pytest.approx(0.9))]
    events = EventAccumulator(str(folder.tensorboard)).Reload()
    (shown,) = events.Histograms("adapter/picked_age")
    assert (shown.step, shown.histogram_value.num, shown.histogram_value.max) == (500, 4, 990)
    (shown,) = events.Histograms("adapter/picked_importance")
    assert (shown.histogram_value.num, shown.histogram_value.max) == (3, 3)
