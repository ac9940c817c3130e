from __future__ import annotations

import numpy as np
import pytest

from atradiff.data.errors import DataError
from atradiff.data.scores import find_task, has_score, normalized_score


@pytest.mark.parametrize("name", ["hopper-medium-v2", "hopper", "Hopper-v5", "Hopper-v4"])
def test_the_ends_of_the_scale(name: str) -> None:
    np.testing.assert_allclose(normalized_score(name, [-20.272305, 3234.3]), [0, 100], atol=1e-9)


def test_scale_is_linear() -> None:
    middle = (-280.178953 + 12135.0) / 2
    assert normalized_score("HalfCheetah-v5", middle) == pytest.approx(50.0)
    assert normalized_score("AntMaze_Large-v5", 0.25) == pytest.approx(25.0)


def test_published_pairs() -> None:
    """Scores printed beside returns: walker2d 4218 is 92, hopper 1520 is 47, halfcheetah 5345 is 45."""
    for name, value, score in (("walker2d", 4218, 92), ("hopper", 1520, 47), ("halfcheetah", 5345, 45)):
        assert round(float(normalized_score(name, value))) == score


@pytest.mark.parametrize(
    "name", ["MountainCarContinuous-v0", "maze2d-eval-umaze-v1", "PointMaze_UMaze-v3?continuing_task=false", "nothing"]
)
def test_no_reference_returns_is_said(name: str) -> None:
    assert not has_score(name)
    with pytest.raises(DataError, match="no D4RL reference returns"):
        normalized_score(name, 1.0)


def test_dense_and_sparse_mazes_are_told_apart() -> None:
    sparse, dense = find_task("PointMaze_UMaze-v3"), find_task("PointMaze_UMazeDense-v3")
    assert sparse is not None
    assert dense is not None
    assert (sparse.name, dense.name) == ("maze2d-umaze", "maze2d-umaze-dense")
