"""The benchmark of following, on a chain whose agent turned round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atradiff.adaptation.adapt import Adapter
from benchmarks.following import CONFIG, follow
from tests.adaptation.adapting import QUICK, moved_data, offline_data
from tests.toys import tiny_diffuser


def test_losses_are_those_of_unseen_windows_before_and_after_each_update() -> None:
    config = replace(QUICK, pick_up=replace(CONFIG.pick_up, picked=300), steps=40, learning_rate=1e-2)
    adapter = Adapter(tiny_diffuser(offline_data()), offline_data(), config, 0)
    found = follow(adapter, moved_data(18), updates=2, seed=0)
    assert len(found["new"]) == len(found["held_out"]) == 3
    assert found["rows"] == 12 * 30  # two thirds of the episodes
    assert found["new"][2] < found["new"][0]
    assert found["new_change"] == pytest.approx(found["new"][2] / found["new"][0] - 1)
    assert adapter.updates == 2
