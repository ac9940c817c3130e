"""A ring against the plainest model of one: a Python list that forgets its head."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atradiff.replay.ring import Column, ColumnRing, transition_columns
from atradiff.types import Spaces

COLUMNS = {"x": Column("float32", (2,)), "n": Column("int64"), "flag": Column("bool")}


def _rows(first: int, n: int) -> dict[str, np.ndarray]:
    ids = np.arange(first, first + n)
    return {"x": np.stack([ids, -ids], axis=1).astype(np.float32), "n": ids.astype(np.int64), "flag": ids % 3 == 0}


def _held(ring: ColumnRing) -> dict[int, tuple[list[float], int, bool]]:
    ids = np.arange(ring.total_added - len(ring), ring.total_added)
    out = {name: np.empty((len(ring), *c.shape), c.dtype) for name, c in ring.columns.items()}
    ring.take(ids % ring.capacity, out)
    values = zip(out["x"].tolist(), out["n"].tolist(), out["flag"].tolist(), strict=True)
    return dict(zip(ids.tolist(), values, strict=True))


@settings(max_examples=100)
@given(capacity=st.integers(1, 12), adds=st.lists(st.integers(0, 30), max_size=12))
def test_behaves_as_a_list_that_forgets_its_head(capacity: int, adds: list[int]) -> None:
    ring = ColumnRing(COLUMNS, capacity)
    model: list[int] = []
    total = 0
    for n in adds:
        ids = ring.add(_rows(total, n))
        assert ids.tolist() == list(range(total, total + n))
        total += n
        model = (model + ids.tolist())[-capacity:]
        assert len(ring) == len(model)
        assert _held(ring) == {i: ([float(i), float(-i)], i, i % 3 == 0) for i in model}
    asked = np.arange(-3, total + 3)
    assert ring.holds(asked).tolist() == [i in model for i in asked]
    assert [ring.count_since("n", least) for least in asked] == [sum(i >= least for i in model) for least in asked]


@settings(max_examples=30)
@given(capacity=st.integers(1, 10), before=st.integers(0, 25), after=st.integers(0, 25))
def test_save_and_load_change_nothing_that_follows(capacity: int, before: int, after: int) -> None:
    ring, again = ColumnRing(COLUMNS, capacity), ColumnRing(COLUMNS, capacity)
    ring.add(_rows(0, before))
    again.add(_rows(500, 3))
    with tempfile.TemporaryDirectory() as folder:
        ring.save(Path(folder) / "ring")
        again.become(again.read(Path(folder) / "ring"))
    for one in (ring, again):
        one.add(_rows(before, after))
    assert _held(ring) == _held(again)
    assert ring.total_added == again.total_added


def test_memory_is_the_columns_bytes_allocated_once() -> None:
    ring = ColumnRing(transition_columns(Spaces(11, "continuous", (-1.0,) * 3, (1.0,) * 3)), 1000)
    assert ring.nbytes == 1000 * (2 * 11 * 4 + 3 * 4 + 4 + 2)
    assert ring.nbytes == sum(c.row_bytes for c in ring.columns.values()) * 1000
    address = ring["observations"].ctypes.data
    for start in range(0, 5000, 700):
        n = 700
        ring.add({k: np.full((n, *c.shape), start % 2, c.dtype) for k, c in ring.columns.items()})
    assert ring["observations"].ctypes.data == address


def test_discrete_actions_are_whole_numbers() -> None:
    assert transition_columns(Spaces(4, "discrete", n_actions=3))["actions"] == Column("int64")


def test_rows_of_other_columns_lengths_or_shapes_are_refused() -> None:
    ring = ColumnRing(COLUMNS, 4)
    rows = _rows(0, 2)
    with pytest.raises(ValueError, match=r"rows have columns \['n', 'x'\]"):
        ring.add({"x": rows["x"], "n": rows["n"]})
    with pytest.raises(ValueError, match="same number of rows"):
        ring.add({**rows, "n": np.zeros(3, np.int64)})
    with pytest.raises(ValueError, match=r"column x has values of shape \(3,\), expected \(2,\)"):
        ring.add({**rows, "x": np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match="capacity of at least one row, got 0"):
        ColumnRing(COLUMNS, 0)
    assert len(ring) == 0


def test_loading_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    ring = ColumnRing(COLUMNS, 4)
    ring.add(_rows(0, 3))
    ring.save(tmp_path)
    larger = ColumnRing(COLUMNS, 5)
    with pytest.raises(ValueError, match="ring of 4 rows, this one has 5"):
        larger.read(tmp_path)

    other = ColumnRing({**COLUMNS, "x": Column("float32", (3,))}, 4)
    other.add({**_rows(7, 2), "x": np.ones((2, 3), np.float32)})
    with pytest.raises(ValueError, match="another task, or damaged"):
        other.read(tmp_path)
    assert other["n"][:2].tolist() == [7, 8]
    assert other.total_added == 2


def test_a_pickle_in_the_place_of_a_column_is_not_opened(tmp_path: Path) -> None:
    ring = ColumnRing(COLUMNS, 4)
    ring.add(_rows(0, 3))
    ring.save(tmp_path)
    np.save(tmp_path / "n.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        ring.read(tmp_path)
