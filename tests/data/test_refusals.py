"""Whatever is wrong with a file, it is refused with file, field, row and remedy, before anything is written."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_data import d4rl_arrays, write_hdf5

from atradiff.data.errors import DataError
from atradiff.data.importer import import_data, read_source


def changed(name: str, row: Any, value: Any) -> dict[str, Any]:
    column = d4rl_arrays()[name]
    column[row] = value
    return {name: column}


def refusal(tmp_path: Path, arrays: dict[str, Any], **options: Any) -> DataError:
    file = write_hdf5(tmp_path / "bad.hdf5", arrays)
    with pytest.raises(DataError) as caught:
        import_data(str(file), tmp_path / "out", **options)
    assert str(file) in str(caught.value)
    assert caught.value.remedy in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.hdf5"]
    return caught.value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("field", "place", "row"),
    [("observations", (7, 1), 7), ("actions", (3, 0), 3), ("rewards", 2, 2), ("next_observations", (0, 2), 0)],
)
def test_nan_and_infinity(tmp_path: Path, field: str, place: Any, row: int, value: float) -> None:
    error = refusal(tmp_path, d4rl_arrays(**changed(field, place, value)))
    assert (error.field, error.row) == (field, str(row))
    assert str(np.float32(value)) in str(error)


def test_a_value_too_large_for_float32(tmp_path: Path) -> None:
    rewards = d4rl_arrays()["rewards"].astype(np.float64)
    rewards[4] = 1e39
    error = refusal(tmp_path, d4rl_arrays(rewards=rewards))
    assert (error.field, error.row) == ("rewards", "4")


@pytest.mark.parametrize("field", ["actions", "rewards", "next_observations", "terminals", "timeouts"])
def test_unequal_lengths(tmp_path: Path, field: str) -> None:
    error = refusal(tmp_path, d4rl_arrays(**{field: d4rl_arrays()[field][:-2]}))
    assert (error.field, error.row) == (field, "10")
    assert "has 10 rows, but observations have 12" in str(error)


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("observations", np.zeros((12, 3), np.int32)),
        ("observations", np.full((12, 3), b"text", dtype="S4")),
        ("actions", np.full((12, 2), b"left", dtype="S4")),
        ("actions", np.zeros((12, 2), complex)),
        ("rewards", np.zeros(12, complex)),
        ("terminals", np.full(12, b"no", dtype="S2")),
    ],
)
def test_wrong_dtypes(tmp_path: Path, field: str, column: Any) -> None:
    error = refusal(tmp_path, d4rl_arrays(**{field: column}))
    assert error.field == field
    assert "dtype" in str(error)


def test_flags_that_are_neither_0_nor_1(tmp_path: Path) -> None:
    terminals = np.zeros(12)
    terminals[5] = 0.5
    error = refusal(tmp_path, d4rl_arrays(terminals=terminals))
    assert (error.field, error.row) == ("terminals", "5")


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("observations", np.zeros(12, np.float32)),
        ("observations", np.zeros((12, 2, 2), np.float32)),
        ("rewards", np.zeros((12, 2), np.float32)),
        ("next_observations", np.zeros((12, 4), np.float32)),
    ],
)
def test_wrong_shapes(tmp_path: Path, field: str, column: Any) -> None:
    error = refusal(tmp_path, d4rl_arrays(**{field: column}))
    assert error.field == field
    assert "shape" in str(error)


def test_actions_outside_the_space(tmp_path: Path) -> None:
    error = refusal(tmp_path, d4rl_arrays(**changed("actions", (8, 1), 1.5)))
    assert (error.field, error.row) == ("actions", "8")
    assert "1.5 in column 1, outside the space [-1, 1] (1 such rows)" in str(error)
    assert "--clip-actions" in error.remedy


def test_actions_outside_the_named_environments_space(tmp_path: Path) -> None:
    """Pendulum's torque goes to 2."""
    arrays = d4rl_arrays(actions=np.linspace(-2.2, 2, 12, dtype=np.float32)[:, None])
    error = refusal(tmp_path, arrays, env="Pendulum-v1")
    assert (error.field, error.row) == ("actions", "0")


def test_a_discrete_action_outside_the_space(tmp_path: Path) -> None:
    arrays = d4rl_arrays(observations=np.zeros((12, 4), np.float32), next_observations=None)
    arrays["actions"] = np.arange(12) % 3
    error = refusal(tmp_path, arrays, env="CartPole-v1")
    assert (error.field, error.row) == ("actions", "2")
    assert "outside the space 0..1" in str(error)


def test_continuous_actions_for_a_discrete_environment(tmp_path: Path) -> None:
    arrays = d4rl_arrays(observations=np.zeros((12, 4), np.float32), next_observations=None)
    error = refusal(tmp_path, arrays, env="CartPole-v1")
    assert error.field == "actions"
    assert "Discrete(2)" in str(error)


def test_observations_of_another_environment(tmp_path: Path) -> None:
    error = refusal(tmp_path, d4rl_arrays(), env="Hopper-v5")
    assert error.field == "observations"
    assert "3 wide" in str(error)
    assert "11 entries" in str(error)


@pytest.mark.parametrize("timeouts", [None, np.zeros(12, bool)])
def test_no_finished_episode(tmp_path: Path, timeouts: Any) -> None:
    error = refusal(tmp_path, d4rl_arrays(terminals=np.zeros(12, bool), timeouts=timeouts))
    assert (error.field, error.row) == ("terminals", "11")
    assert "no episode is finished" in str(error)
    assert "--horizon" in error.remedy


def test_no_rows(tmp_path: Path) -> None:
    error = refusal(tmp_path, {name: column[:0] for name, column in d4rl_arrays().items()})
    assert "no rows" in str(error)


@pytest.mark.parametrize("field", ["observations", "actions", "rewards", "terminals"])
def test_a_missing_column(tmp_path: Path, field: str) -> None:
    error = refusal(tmp_path, d4rl_arrays(**{field: None}))
    assert "is missing" in str(error)
    assert field in error.remedy


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_a_truncated_hdf5_file(tmp_path: Path, keep: float) -> None:
    file = write_hdf5(tmp_path / "cut.hdf5", d4rl_arrays((500, 500)))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DataError, match="truncated or no HDF5 file") as caught:
        import_data(str(file), tmp_path / "out")
    assert caught.value.file == file
    assert "again" in caught.value.remedy


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_a_truncated_npz_file(tmp_path: Path, keep: float) -> None:
    file = tmp_path / "cut.npz"
    np.savez(file, **d4rl_arrays((500, 500)))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DataError, match="truncated"):
        import_data(str(file), tmp_path / "out")


def test_pickled_objects_in_an_npz_file(tmp_path: Path) -> None:
    file = tmp_path / "objects.npz"
    np.savez(file, **d4rl_arrays(rewards=np.array([{}] * 12, dtype=object)))
    with pytest.raises(DataError, match="objects are refused") as caught:
        import_data(str(file), tmp_path / "out")
    assert caught.value.field == "rewards"


def test_files_that_are_no_npz_file(tmp_path: Path) -> None:
    file = tmp_path / "renamed.npz"
    np.save(tmp_path / "array.npy", np.zeros(3))
    for content in ((tmp_path / "array.npy").read_bytes(), b"observations,actions", b""):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"no \.npz file\. Write it with numpy\.savez") as caught:
            import_data(str(file), tmp_path / "out")
        assert caught.value.file == file
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("observations", "text")
    with pytest.raises(DataError, match="field 'observations': is no array"):
        import_data(str(file), tmp_path / "out")


@pytest.mark.parametrize("layout", ["npz", "hdf5"])
def test_observations_without_rows(tmp_path: Path, layout: str) -> None:
    arrays, file = d4rl_arrays(observations=np.float32(1)), tmp_path / f"bad.{layout}"
    if layout == "npz":
        np.savez(file, **arrays)
    else:
        write_hdf5(file, arrays)
    with pytest.raises(DataError, match="single value") as caught:
        import_data(str(file), tmp_path / "out")
    assert (caught.value.file, caught.value.field) == (file, "observations")


def test_damage_anywhere_in_an_npz_file_is_told_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "bad.npz"
    np.savez_compressed(file, **d4rl_arrays())
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    files, causes = set(), set()
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            read_source(str(file))
        except DataError as error:  # any other fails the test
            files.add(error.file)
            causes.add(type(error.__cause__))
    assert files == {file}
    assert {zlib.error, zipfile.BadZipFile, NotImplementedError} <= causes


@pytest.mark.parametrize("damage", [KeyError, ValueError, TypeError, RuntimeError, OSError])
def test_damage_in_an_hdf5_file_is_told_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: type[Exception]
) -> None:
    """All of these h5py raised for files with three bytes changed at random."""

    def fail(_: object) -> None:
        raise damage("what h5py says")

    file = write_hdf5(tmp_path / "bad.hdf5", d4rl_arrays())
    monkeypatch.setattr("atradiff.data.d4rl._arrays", fail)
    with pytest.raises(DataError, match=r"truncated or no HDF5 file .*what h5py says") as caught:
        import_data(str(file), tmp_path / "out")
    assert caught.value.file == file


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        import_data(str(tmp_path / "nothing.hdf5"), tmp_path / "out")


def test_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no kind of data.*minari:ID"):
        import_data(str(tmp_path / "data.csv"), tmp_path / "out")


def test_an_existing_folder_is_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="already exists"):
        import_data("nothing.hdf5", tmp_path / "out")
