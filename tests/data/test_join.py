"""Stores of several tasks become one by a command: nothing lost, each episode with its task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_data import SWITCH, make_trajectories

from atradiff.data.store import open_trajectories, read_info, write_trajectories
from cluster.cli import main


@pytest.fixture
def stores(tmp_path: Path) -> list[str]:
    """Two of the same spaces, 3 and 2 episodes."""
    for name, lengths, seed in (("reach", (5, 1, 4), 0), ("push", (3, 6), 1)):
        data = make_trajectories(lengths, seed=seed)
        extras = {"goal": np.zeros(sum(lengths), np.float32)} if name == "push" else None
        write_trajectories(tmp_path / name, data, source=f"made: {name}", licence="MIT", extras=extras)
    return [str(tmp_path / "reach"), str(tmp_path / "push")]


def joined(stores: list[str], out: Path, *flags: str) -> Path:
    main(["data", "join", *stores, "--out", str(out), *flags])
    return out


def test_each_episode_keeps_its_rows_and_gets_its_task(stores: list[str], tmp_path: Path) -> None:
    out = joined(stores, tmp_path / "both", "--task", "one_hot")
    both = open_trajectories(out, verify=True)
    assert both.tasks is not None
    np.testing.assert_array_equal(both.tasks, [[1, 0]] * 3 + [[0, 1]] * 2)
    parts = [open_trajectories(store) for store in stores]
    episodes = [part.episode(i) for part in parts for i in range(len(part))]
    for i, episode in enumerate(episodes):
        for name, column in episode.items():
            np.testing.assert_array_equal(dict(both.episode(i).items())[name], column)
    info = read_info(out)
    assert info.source == "joined: made: reach; made: push"
    assert info.licence == "MIT"
    assert info.env_id == "Somewhere-v0"
    assert info.notes[-1] == "extras of the joined stores were left out: goal"


def test_embeddings_come_from_a_file(stores: list[str], tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).normal(size=(2, 8))
    np.save(tmp_path / "words.npy", embeddings)
    both = open_trajectories(joined(stores, tmp_path / "both", "--task", str(tmp_path / "words.npy")))
    np.testing.assert_allclose(both.tasks, np.repeat(embeddings, [3, 2], axis=0), rtol=1e-6)
    assert open_trajectories(joined(stores, tmp_path / "plain", "--task", "none")).tasks is None


def test_what_cannot_be_joined_is_refused_and_leaves_nothing(
    stores: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "three.npy", np.zeros((3, 2)))
    np.save(tmp_path / "flat.npy", np.zeros(2))
    np.save(tmp_path / "words.npy", np.array([["reach"], ["push"]]))
    write_trajectories(tmp_path / "other", make_trajectories(spaces=SWITCH), source="x", licence="x")
    refused = [
        (stores, "words", "Give one_hot, none or a .npy file"),
        (stores, str(tmp_path / "three.npy"), "2 data sets need 2 task vectors"),
        (stores, str(tmp_path / "flat.npy"), "a row for each store"),
        (stores, str(tmp_path / "words.npy"), "must hold finite numbers"),
        (stores, str(tmp_path / "none_there.npy"), "none_there.npy"),
        ([*stores, str(tmp_path / "other")], "none", "a data set to join"),
        ([str(tmp_path)], "none", "is not a trajectory store"),
    ]
    for given, task, problem in refused:
        with pytest.raises(SystemExit) as end:
            joined(given, tmp_path / "both", "--task", task)
        assert end.value.code == 1
        assert problem in capsys.readouterr().err
        assert not (tmp_path / "both").exists()
