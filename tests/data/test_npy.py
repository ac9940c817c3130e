"""Arrays of numbers from files: whatever else a file holds is refused with its name and the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_data import make_trajectories

from atradiff.commands import fit_command
from atradiff.data.errors import DataError
from atradiff.data.join import join_stores
from atradiff.data.npy import read_npy
from atradiff.data.store import write_trajectories
from atradiff.report.fidelity_states import states_of_file


def test_numbers_come_back(tmp_path: Path) -> None:
    numbers = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "a.npy", np.asfortranarray(numbers))
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), numbers)


def not_numbers(folder: Path) -> dict[str, bytes]:
    np.savez(folder / "archive.npz", np.zeros(3))
    np.save(folder / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.save(folder / "whole.npy", np.zeros(100))
    whole = (folder / "whole.npy").read_bytes()
    return {
        "archive": (folder / "archive.npz").read_bytes(),
        "objects": (folder / "objects.npy").read_bytes(),
        "cut": whole[:200],
        "header": whole[:20] + bytes(100),
        "huge": whole.replace(b"(100,)", b"(1" + b"0" * 15 + b",)").replace(b" " * 15, b"", 1),
        "text": b"1,2,3",
        "empty": b"",
    }


def test_anything_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "numbers.npy"
    for kind, content in not_numbers(tmp_path).items():
        file.write_bytes(content)
        with pytest.raises(DataError, match="holds no array of numbers") as caught:
            read_npy(file)
        assert (caught.value.file, caught.value.remedy) == (file, "Write it with numpy.save."), kind
    with pytest.raises(DataError, match="no such file"):
        read_npy(tmp_path)


def test_every_command_that_reads_numbers_refuses_alike(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "numbers.npy"
    write_trajectories(store, make_trajectories(), source="a test", licence="none")
    file.write_bytes(b"")
    for command in (
        lambda: join_stores([store], tmp_path / "out", str(file)),
        lambda: fit_command(store, tmp_path / "out", steps=1, relevance=file),
        lambda: states_of_file(file),
    ):
        with pytest.raises(DataError, match=r"numbers\.npy: holds no array of numbers"):
            command()
