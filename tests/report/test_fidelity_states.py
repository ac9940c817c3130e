"""States of saved replays: oldest first, the newest checkpoint, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atradiff.replay.ring import ColumnRing, transition_columns
from atradiff.report.fidelity_states import states_of_file, states_of_run
from atradiff.types import Spaces

SPACES = Spaces(2, "continuous", (-1.0,), (1.0,))


def saved_ring(folder: Path, rows: int, capacity: int = 10) -> None:
    """A ring into which ``rows`` rows were put; row i has the observation (i, i)."""
    ring = ColumnRing(transition_columns(SPACES), capacity)
    for i in range(rows):
        ring.add({name: np.full((1, *c.shape), i, c.dtype) for name, c in ring.columns.items()})
    ring.save(folder / "real")


@pytest.mark.parametrize("rows", [7, 10, 23])
def test_rows_come_oldest_first_also_from_a_full_ring(tmp_path: Path, rows: int) -> None:
    saved_ring(tmp_path, rows)
    found = states_of_run(tmp_path)
    assert found.states[:, 0].tolist() == list(range(max(rows - 10, 0), rows))
    assert found.first == max(rows - 10, 0)


def test_the_newest_checkpoint_of_a_run_counts(tmp_path: Path) -> None:
    saved_ring(tmp_path / "checkpoints" / "step_000000000004" / "algorithm" / "replay", 4)
    saved_ring(tmp_path / "checkpoints" / "step_000000000008" / "replay", 8)
    saved_ring(tmp_path / "checkpoints" / ".step_000000000009.ab.partial" / "replay", 9)
    assert len(states_of_run(tmp_path).states) == 8
    assert len(states_of_run(tmp_path / "checkpoints" / "step_000000000004").states) == 4


def test_thirds_keep_the_order_and_name_their_steps(tmp_path: Path) -> None:
    saved_ring(tmp_path, 25)
    thirds = states_of_run(tmp_path).thirds()
    assert {name: part.states[:, 0].tolist() for name, part in thirds.items()} == {
        "early": [15, 16, 17, 18],
        "middle": [19, 20, 21],
        "late": [22, 23, 24],
    }
    assert [part.first for part in thirds.values()] == [15, 19, 22]


def test_folders_without_a_replay_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no saved replay"):
        states_of_run(tmp_path)
    saved_ring(tmp_path, 8)
    np.save(tmp_path / "real" / "observations.npy", np.zeros((5, 2), np.float32))
    with pytest.raises(ValueError, match=r"has 5 rows, ring\.json says 8"):
        states_of_run(tmp_path)


def test_files_must_hold_finite_states(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.arange(8.0).reshape(4, 2))
    assert states_of_file(tmp_path / "good.npy").states.dtype == np.float32
    for bad in (np.array([[0.0, np.nan]] * 4), np.array([["0", "1"]] * 4), np.zeros((2, 2)), np.zeros(4)):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(ValueError, match="finite states"):
            states_of_file(tmp_path / "bad.npy")
