"""Both arms on the same seeds, as Ray tasks; what is done is not done again."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from cluster.cluster_config import ClusterConfig
from cluster.compare import ARMS, compare
from cluster.config import RunConfig


@pytest.mark.usefixtures("local_ray")
def test_both_arms_are_run_once_and_compared(tiny_run: RunConfig) -> None:
    run = replace(tiny_run, env_steps=200)
    comparison = compare(run, seeds=[0])
    assert [arm.name for arm in comparison.table.arms] == list(ARMS.values())
    assert (comparison.folder / "comparison.png").stat().st_size > 10_000
    finals = {}
    for arm in ARMS:
        with (comparison.folder / arm / "seed_0" / "metrics.csv").open(newline="") as file:
            finals[arm] = float(list(csv.DictReader(file))[-1]["eval_return"])
    assert comparison.table.arms[0].final_return.value == pytest.approx(finals["none"])
    assert comparison.table.arms[1].final_return.value == pytest.approx(finals["atradiff"])
    before = {p: p.stat().st_mtime_ns for p in comparison.folder.rglob("summary.json")}
    compare(run, seeds=[0])
    assert {p: p.stat().st_mtime_ns for p in comparison.folder.rglob("summary.json")} == before
    with pytest.raises(ValueError, match="at least one seed"):
        compare(run, seeds=[])
    with pytest.raises(ValueError, match="each only once"):
        compare(run, seeds=[0, 0])
    with pytest.raises(ValueError, match="a compared run is one process"):
        compare(replace(run, cluster=ClusterConfig()), seeds=[0])
    with pytest.raises(ValueError, match=r"holds a run with other settings \(algorithm"):
        compare(replace(run, algorithm=replace(run.algorithm, gamma=0.5)), seeds=[0])
