"""There and back again: nothing is lost, whatever the data."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import BOX, SWITCH, assert_same, make_trajectories

from atradiff.data.collect import collect
from atradiff.data.errors import DataError
from atradiff.data.export import export_d4rl_hdf5, export_minari
from atradiff.data.importer import import_data
from atradiff.data.store import open_trajectories, read_episode_table, read_extras, read_info, write_trajectories

EXTRAS = {"policy": np.int16, "infos/goal": np.float64, "infos/deep/flag": np.bool_, "infos/bytes": np.uint8}


@st.composite
def stores(draw: st.DrawFn) -> dict[str, Any]:
    lengths = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=6)))
    spaces = draw(st.sampled_from([BOX, SWITCH]))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    data = make_trajectories(lengths, spaces=spaces, seed=int(rng.integers(1000)), continuous_rows=draw(st.booleans()))
    task_size = draw(st.sampled_from([0, 1, 3]))
    if task_size > 0:
        data = replace(data, tasks=rng.normal(size=(len(data), task_size)).astype(np.float32))
    widths = {name: draw(st.sampled_from([(), (2,), (2, 3)])) for name in draw(st.sets(st.sampled_from(list(EXTRAS))))}
    extras = {
        name: rng.integers(0, 2, (data.n_transitions, *width)).astype(EXTRAS[name]) for name, width in widths.items()
    }
    episode_columns = {
        "success": rng.random(len(data)) < 0.5,
        "seed": rng.integers(0, 2**64, len(data), dtype=np.uint64),
        "reset/infos/goal": rng.normal(size=(len(data), 2)),
    }
    chosen = draw(st.sets(st.sampled_from(list(episode_columns))))
    return {
        "trajectories": data,
        "extras": extras,
        "episode_columns": {name: episode_columns[name] for name in chosen},
        "dataset_name": draw(st.sampled_from([None, "hopper-medium-v2"])),
        "notes": tuple(draw(st.lists(st.text(max_size=9), max_size=2))),
        "source_dtypes": draw(st.sampled_from([{}, {"observations": "float64"}])),
    }


def assert_same_store(ours: Path, theirs: Path) -> None:
    assert_same(open_trajectories(ours, verify=True), open_trajectories(theirs, verify=True))
    assert read_info(ours) == read_info(theirs)
    for read in (read_extras, read_episode_table):
        mine, yours = read(ours), read(theirs)
        assert mine.keys() == yours.keys()
        for name, column in mine.items():
            assert column.dtype == yours[name].dtype, name
            np.testing.assert_array_equal(column, yours[name], err_msg=name)


@settings(max_examples=25)
@given(store=stores(), layout=st.sampled_from(["d4rl", "minari"]))
def test_a_round_trip_loses_nothing(store: dict[str, Any], layout: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_trajectories(folder / "ours", source="a test", licence="CC0-1.0", **store)
        if layout == "d4rl":
            written = export_d4rl_hdf5(folder / "ours", folder / "theirs.hdf5")
        else:
            written = export_minari(folder / "ours", folder / "theirs")
        import_data(str(written), folder / "back")
        assert_same_store(folder / "ours", folder / "back")


def test_tasks_stay_with_their_episodes_where_those_are_cut_anew(tmp_path: Path) -> None:
    data = make_trajectories((4, 3, 5))
    rewards = np.float32([0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0])
    terminated = data.columns.terminated.copy()
    terminated[4] = True  # the second episode reaches the goal at once, and is marked terminal there, too
    columns = replace(data.columns, rewards=rewards, terminated=terminated)
    data = replace(data, columns=columns, tasks=np.eye(3, dtype=np.float32))
    write_trajectories(tmp_path / "ours", data, source="a test", licence="CC0-1.0")
    import_data(str(export_minari(tmp_path / "ours", tmp_path / "out")), tmp_path / "back", end_at_reward=1)
    back = open_trajectories(tmp_path / "back", verify=True)
    assert back.lengths.tolist() == [4, 1, 1, 5]
    np.testing.assert_array_equal(back.tasks, np.eye(3)[[0, 1, 1, 2]])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    extras = {"infos/goal": np.arange(20.0).reshape(10, 2)}
    write_trajectories(tmp_path / "store", make_trajectories(), source="a test", licence="CC0-1.0", extras=extras)
    return tmp_path / "store"


def test_the_hdf5_file_is_d4rls_layout(store: Path, tmp_path: Path) -> None:
    """What d3rlpy and CORL read: float32 columns of one length, terminals and timeouts as flags."""
    data = open_trajectories(store)
    with h5py.File(str(export_d4rl_hdf5(store, tmp_path / "out.hdf5"))) as file:
        for name in ("observations", "actions", "rewards", "next_observations"):
            assert file[name].dtype == np.float32
            np.testing.assert_array_equal(file[name][()], getattr(data.columns, name))
        assert file["terminals"].dtype == file["timeouts"].dtype == np.bool_
        np.testing.assert_array_equal(np.flatnonzero(file["terminals"][()]), [5])
        np.testing.assert_array_equal(np.flatnonzero(file["timeouts"][()]), [4, 9])
        assert file["infos/goal"].shape == (10, 2)


def test_the_folder_is_a_minari_data_set(store: Path, tmp_path: Path) -> None:
    data = open_trajectories(store)
    dataset = minari.MinariDataset(export_minari(store, tmp_path / "out") / "data")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 10)
    assert dataset.action_space.shape == (2,)
    for index, episode in enumerate(dataset.iterate_episodes()):
        own = data.episode(index)
        np.testing.assert_array_equal(episode.observations[:-1], own.observations)
        np.testing.assert_array_equal(episode.observations[-1], own.next_observations[-1])
        np.testing.assert_array_equal(episode.rewards, own.rewards)
        np.testing.assert_array_equal(episode.terminations, own.terminated)
        np.testing.assert_array_equal(episode.truncations, own.truncated)
        assert episode.infos["goal"].shape == (len(own) + 1, 2)


def test_a_minari_id_goes_to_minaris_folder(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    export_minari(store, "minari:group/mine-v3")
    assert minari.load_dataset("group/mine-v3").total_steps == 10
    back = import_data("minari:group/mine-v3", tmp_path / "back")
    assert back.content_hash == read_info(store).content_hash


def test_minari_recovers_the_environment(tmp_path: Path) -> None:
    env_id = "PointMaze_UMaze-v3?continuing_task=false&max_episode_steps=40"
    collect(env_id, "scripted", 2, tmp_path / "maze", progress=False)
    dataset = minari.MinariDataset(export_minari(tmp_path / "maze", tmp_path / "out") / "data")
    env = dataset.recover_environment()
    observation, _ = env.reset(seed=0)
    assert observation.shape == dataset.observation_space.shape == (8,)
    assert env.unwrapped.continuing_task is False


@pytest.mark.parametrize(("export", "name"), [(export_d4rl_hdf5, "out.hdf5"), (export_minari, "out")])
def test_a_relative_target_lies_in_the_working_folder(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    export(store, name)
    back = import_data(name, "back")
    assert back.content_hash == read_info(store).content_hash


@pytest.mark.parametrize("export", [export_d4rl_hdf5, export_minari])
def test_existing_targets_are_refused(store: Path, tmp_path: Path, export: Any) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="already exists"):
        export(store, tmp_path / "out")


def test_a_failed_export_leaves_nothing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atradiff.data.export._create", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export_minari(store, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_the_real_door_demonstrations(tmp_path: Path, shared_data: Path) -> None:
    import_data(str(shared_data / "minari" / "D4RL" / "door" / "human-v2"), tmp_path / "door")
    for written in (
        export_d4rl_hdf5(tmp_path / "door", tmp_path / "a.hdf5"),
        export_minari(tmp_path / "door", tmp_path / "b"),
    ):
        import_data(str(written), tmp_path / "back", overwrite=True)
        assert_same_store(tmp_path / "door", tmp_path / "back")
