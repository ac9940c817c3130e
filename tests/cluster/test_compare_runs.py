"""Both arms on the same seeds, as Ray tasks; what is done is not done again."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

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


def test_what_is_neither_plain_nor_atradiff_is_refused_before_anything_runs(tiny_run: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"none against atradiff .*got augmentation: synther.*docs/comparing.md"):
        compare(replace(tiny_run, augmentation="synther"), seeds=[0])
    assert not Path(tiny_run.output).exists()


def test_a_diffuser_of_another_robot_is_refused_before_the_plain_arm_runs(tiny_run: RunConfig, tmp_path: Path) -> None:
    hopper = {"observation_size": 11, "action_kind": "continuous", "action_low": [-1.0] * 3, "action_high": [1.0] * 3}
    model = tmp_path / "hopper"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"format": "atradiff-model-1", "spaces": hopper}))
    run = replace(tiny_run, generator=replace(tiny_run.generator, path=str(model)))
    with pytest.raises(ValueError, match=r"observation_size is 11 in .*hopper and 2 in environment"):
        compare(run, seeds=[0])
    assert not Path(run.output).exists()
