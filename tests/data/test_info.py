from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_data import SWITCH, make_trajectories

from atradiff.data import commands
from atradiff.data.collect import collect
from atradiff.data.info import describe, summarize
from atradiff.data.store import open_trajectories, write_trajectories
from atradiff.data.trajectories import Trajectories


def store(path: Path, data: Trajectories, **options) -> Path:
    write_trajectories(path, data, source="a test", licence="CC0-1.0", **options)
    return path


def test_figures_equal_numpy(tmp_path: Path) -> None:
    data = make_trajectories((5, 1, 4, 8, 2))
    summary = summarize(store(tmp_path / "store", data))
    returns = [float(data.episode(i).rewards.astype(float).sum()) for i in range(5)]
    quartiles = np.percentile(returns, [25, 50, 75])
    assert (summary.info.n_terminated, summary.info.n_truncated) == (2, 3)
    found = (summary.returns.lower_quartile, summary.returns.median, summary.returns.upper_quartile)
    np.testing.assert_allclose(found, quartiles, rtol=1e-5)
    assert summary.returns.mean == pytest.approx(np.mean(returns), rel=1e-5)
    assert (summary.lengths.minimum, summary.lengths.maximum) == (1, 8)
    assert sum(n for _, _, n in summary.histogram) == 5
    assert summary.score is None
    assert summary.successes is None


def test_the_score_is_named_and_on_the_scale_of_100(tmp_path: Path) -> None:
    data = make_trajectories((4,))
    rewards = np.full(4, 3234.3 / 4, np.float32)
    data = replace(data, env_id="Hopper-v5", columns=replace(data.columns, rewards=rewards))
    path = store(tmp_path / "store", data)
    score = summarize(path).score
    assert score is not None
    assert score.mean == pytest.approx(100, abs=1e-3)
    text = describe(path)
    assert "D4RL score" in text
    assert "normalised, 0 = random, 100 = expert" in text
    assert "not D4RL's own data" in text


def test_d4rls_own_data_carry_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "store"
    write_trajectories(
        path, make_trajectories(), source="D4RL hopper-medium-v2 (x)", licence="", dataset_name="hopper-medium-v2"
    )
    text = describe(path)
    assert "D4RL score" in text
    assert "not D4RL's own data" not in text


def test_equal_returns_are_one_bin(tmp_path: Path) -> None:
    data = make_trajectories((4, 4))
    data = replace(data, columns=replace(data.columns, rewards=np.ones(8, np.float32)))
    assert [n for _, _, n in summarize(store(tmp_path / "store", data)).histogram] == [2]


def test_text_says_it_all(tmp_path: Path) -> None:
    path = store(
        tmp_path / "store",
        make_trajectories(spaces=SWITCH),
        notes=("something happened",),
        episode_columns={"success": np.array([True, False, True])},
    )
    text = describe(path)
    for part in ("10 in 3 episodes", "1 terminated, 2 truncated", "4 discrete actions", "2 of 3 episodes",
                 "something happened", "CC0-1.0", "Somewhere-v0", "quartiles", "#"):  # fmt: skip
        assert part in text


def test_the_commands_work_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect("MountainCarContinuous-v0", "scripted", 3, tmp_path / "car", noise=0.2, progress=False)
    commands.info(str(tmp_path / "car"))
    assert "3 of 3 episodes" in capsys.readouterr().out
    commands.export(str(tmp_path / "car"), str(tmp_path / "car.hdf5"))
    assert "car.hdf5" in capsys.readouterr().out
    commands.import_(str(tmp_path / "car.hdf5"), str(tmp_path / "back"))
    assert "MountainCarContinuous-v0" in capsys.readouterr().out
    commands.export(str(tmp_path / "back"), str(tmp_path / "minari"), format="minari")
    commands.import_(str(tmp_path / "minari"), str(tmp_path / "again"))
    commands.info(str(tmp_path / "again"))
    hashes = {open_trajectories(tmp_path / name).content_hash for name in ("car", "back", "again")}
    assert len(hashes) == 1
