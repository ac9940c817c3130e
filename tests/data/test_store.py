from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_data import BOX, SWITCH, assert_same, make_trajectories

from atradiff.data.errors import DataError
from atradiff.data.schema import EPISODES, INFO, STATISTICS
from atradiff.data.store import open_trajectories, read_episode_table, read_extras, read_info, write_trajectories
from atradiff.types import Spaces


def write(path: Path, data=None, **options):
    return write_trajectories(path, data or make_trajectories(), source="a test", licence="CC0-1.0", **options)


@pytest.mark.parametrize("spaces", [BOX, SWITCH])
def test_what_is_written_is_read(tmp_path: Path, spaces: Spaces) -> None:
    data = make_trajectories(spaces=spaces)
    write(tmp_path / "store", data)
    assert_same(open_trajectories(tmp_path / "store", verify=True), data)


def test_columns_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    write(tmp_path / "store")
    for name, column in open_trajectories(tmp_path / "store").columns.items():
        assert not column.flags.owndata, name
        assert not column.flags.writeable, name
        assert column.flags.c_contiguous, name


def test_several_shards_are_one_data_set(tmp_path: Path) -> None:
    data = make_trajectories((7, 6, 9))
    extras = {"policy": np.arange(22, dtype=np.int16)}
    info = write(tmp_path / "store", data, shard_rows=8, extras=extras)
    assert info.shard_rows == (8, 8, 6)
    assert_same(open_trajectories(tmp_path / "store", verify=True), data)
    np.testing.assert_array_equal(read_extras(tmp_path / "store")["policy"], extras["policy"])


def test_info_says_what_is_inside(tmp_path: Path) -> None:
    info = write(tmp_path / "store", notes=("seen",), dataset_name="d", source_dtypes={"rewards": "float64"})
    assert read_info(tmp_path / "store") == info
    assert (info.n_transitions, info.n_episodes, info.n_terminated, info.n_truncated) == (10, 3, 1, 2)
    assert (info.source, info.licence, info.notes, info.dataset_name) == ("a test", "CC0-1.0", ("seen",), "d")
    assert info.content_hash.startswith("sha256:")


def test_hash_depends_on_the_data_only(tmp_path: Path) -> None:
    one = write(tmp_path / "one", shard_rows=3).content_hash
    two = write(tmp_path / "two", notes=("other",)).content_hash
    three = write(tmp_path / "three", make_trajectories(seed=1)).content_hash
    four = write(tmp_path / "four", make_trajectories((5, 2, 3))).content_hash
    assert one == two
    assert len({one, three, four}) == 3


def test_statistics_equal_numpy_in_float64(tmp_path: Path) -> None:
    data = make_trajectories((300, 200))
    write(tmp_path / "store", data)
    statistics = json.loads((tmp_path / "store" / STATISTICS).read_text())
    c = data.columns
    columns = {
        "observations": c.observations.astype(float),
        "differences": c.next_observations.astype(float) - c.observations,
        "actions": c.actions.astype(float),
        "rewards": c.rewards.astype(float)[:, None],
    }
    for name, column in columns.items():
        for statistic in ("mean", "std", "min", "max"):
            expected = getattr(np, statistic)(column, axis=0)
            np.testing.assert_allclose(statistics[name][statistic], expected, rtol=1e-12, atol=1e-12)


def test_episode_table_keeps_what_the_source_knew(tmp_path: Path) -> None:
    known = {"seed": np.array([1, 2**63 + 1, 3], np.uint64), "reset/goal": np.arange(6.0).reshape(3, 2)}
    write(tmp_path / "store", episode_columns=known)
    table = read_episode_table(tmp_path / "store")
    np.testing.assert_array_equal(table["length"], [5, 1, 4])
    np.testing.assert_array_equal(table["terminated"], [False, True, False])
    np.testing.assert_array_equal(table["seed"], known["seed"])
    np.testing.assert_array_equal(table["reset/goal"], known["reset/goal"])


def test_extras_keep_dtype_and_shape(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    extras = {
        "infos/goal": rng.normal(size=(10, 2)),
        "infos/image": rng.integers(0, 255, (10, 2, 3, 3), dtype=np.uint8),
        "infos/success": rng.random((10, 1)) < 0.5,
    }
    write(tmp_path / "store", extras=extras)
    for name, column in read_extras(tmp_path / "store").items():
        assert column.dtype == extras[name].dtype
        np.testing.assert_array_equal(column, extras[name])


def test_existing_folder_is_not_overwritten_unasked(tmp_path: Path) -> None:
    write(tmp_path / "store")
    with pytest.raises(DataError, match="already exists"):
        write(tmp_path / "store", make_trajectories(seed=1))
    assert_same(open_trajectories(tmp_path / "store"), make_trajectories())


def test_overwriting_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "store")
    write(tmp_path / "store", make_trajectories(seed=1), overwrite=True)
    assert_same(open_trajectories(tmp_path / "store"), make_trajectories(seed=1))
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_folder_of_somebody_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="was not written by this command"):
        write(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_a_failed_write_keeps_the_old_store_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "store")

    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("atradiff.data.store._write_episode_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "store", make_trajectories(seed=1), overwrite=True)
    assert_same(open_trajectories(tmp_path / "store"), make_trajectories())
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_failed_rename_puts_the_old_store_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "store")
    rename = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="busy"):
        write(tmp_path / "store", make_trajectories(seed=1), overwrite=True)
    assert_same(open_trajectories(tmp_path / "store"), make_trajectories())
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_no_store_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="atradiff data import"):
        open_trajectories(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "store")
    file = tmp_path / "store" / INFO
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 7'))
    with pytest.raises(DataError, match="schema version 7"):
        open_trajectories(tmp_path / "store")


def test_damaged_info_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "store")
    file = tmp_path / "store" / INFO
    file.write_text(file.read_text()[:-40])
    with pytest.raises(DataError, match="damaged"):
        open_trajectories(tmp_path / "store")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_shard_is_refused(tmp_path: Path, keep: float) -> None:
    write(tmp_path / "store", make_trajectories((500,)))
    file = tmp_path / "store" / "data" / "transitions-00000.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DataError, match="truncated"):
        open_trajectories(tmp_path / "store")


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"PAR1 no more")])
def test_a_missing_or_damaged_episode_index_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write(tmp_path / "store")
    damage(tmp_path / "store" / EPISODES)
    with pytest.raises(DataError, match="missing or damaged"):
        open_trajectories(tmp_path / "store")


def test_an_episode_index_of_other_data_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "store")
    write(tmp_path / "other", make_trajectories((5, 2)))
    (tmp_path / "other" / EPISODES).replace(tmp_path / "store" / EPISODES)
    with pytest.raises(DataError, match="lists 2 episodes"):
        open_trajectories(tmp_path / "store")


def test_changed_columns_are_found_by_verify(tmp_path: Path) -> None:
    write(tmp_path / "store")
    write(tmp_path / "other", make_trajectories(seed=1))
    shard = "data/transitions-00000.arrow"
    (tmp_path / "other" / shard).replace(tmp_path / "store" / shard)
    open_trajectories(tmp_path / "store")
    with pytest.raises(DataError, match="content hash"):
        open_trajectories(tmp_path / "store", verify=True)


def test_columns_of_wrong_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"extras must have 10 entries each, got \{'goal': 9\}"):
        write(tmp_path / "store", extras={"goal": np.zeros(9)})
    assert not (tmp_path / "store").exists()
