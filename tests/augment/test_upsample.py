from __future__ import annotations

import numpy as np
import pytest

from atradiff.augment.s4rl import S4RLConfig, S4RLGenerator, StateAugmentation
from atradiff.augment.upsample import upsample
from atradiff.data.errors import DataError
from atradiff.data.store import open_trajectories
from atradiff.types import Spaces
from tests.toys import CHAIN, chain_data, random_data, tiny_diffuser


def test_a_store_of_single_transitions_has_exactly_the_rows_asked_for(tmp_path):
    data = chain_data(5)
    generator = S4RLGenerator(CHAIN, data.columns, StateAugmentation(S4RLConfig()))
    info = upsample(generator, data.columns.observations, tmp_path / "out", rows=1000, batch=64, quiet=True)
    made = open_trajectories(tmp_path / "out", verify=True)
    assert info.n_transitions == len(made) == made.n_transitions == 1000
    assert (made.columns.terminated ^ made.columns.truncated).all()
    assert len(np.unique(made.columns.observations, axis=0)) > 990  # pieces differ
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing is left beside it


def test_whole_trajectories_until_there_are_enough_rows(tmp_path):
    diffuser = tiny_diffuser()
    starts = chain_data(5).columns.observations
    upsample(diffuser, starts, tmp_path / "a", rows=101, batch=16, seed=3, quiet=True)
    upsample(diffuser, starts, tmp_path / "b", rows=101, batch=16, seed=3, quiet=True)
    made, again = open_trajectories(tmp_path / "a"), open_trajectories(tmp_path / "b")
    assert made.content_hash == again.content_hash
    assert made.n_transitions >= 101
    assert made.n_transitions - made.lengths[-1] < 101
    known = {tuple(state) for state in starts.tolist()}
    assert {tuple(state) for state in made.columns.observations[made.offsets[:-1]].tolist()} <= known


def test_discrete_actions(tmp_path):
    data = random_data([9, 9], [True, False], spaces=Spaces(3, "discrete", n_actions=4))
    generator = S4RLGenerator(data.spaces, data.columns, StateAugmentation(S4RLConfig()))
    upsample(generator, data.columns.observations, tmp_path / "out", rows=20, batch=6, quiet=True)
    assert open_trajectories(tmp_path / "out").columns.actions.dtype == np.int64


def test_what_is_there_is_not_overwritten_and_nonsense_is_refused(tmp_path):
    generator = S4RLGenerator(CHAIN, chain_data(2).columns, StateAugmentation(S4RLConfig()))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError):
        upsample(generator, np.zeros((1, 2), np.float32), tmp_path / "out", rows=1, quiet=True)
    with pytest.raises(ValueError, match="rows must be at least 1"):
        upsample(generator, np.zeros((1, 2), np.float32), tmp_path / "new", rows=0, quiet=True)
