"""Windows are judged by way, and the model is left as it was."""

from __future__ import annotations

from atradiff.config import DiffuserConfig, FitConfig
from atradiff.data.trajectories import Trajectories
from atradiff.fit import fit
from benchmarks.inner_refinement import Way, measure

SMALL = DiffuserConfig(lengths=(5,), width=16, depth=1, dynamics_models=1, dynamics_width=16)
WAYS_HERE = (Way(2, 0, "none"), Way(2, 1, "project"), Way(2, 0, "dynamics", 0.8))


def test_each_way_is_judged_and_the_model_is_left_as_it_was(hopper_data: Trajectories) -> None:
    model = fit(hopper_data, config=SMALL, settings=FitConfig(steps=20), device="cpu", quiet=True)
    before = model.sampling
    figures = measure(model, hopper_data, [5], 8, ways=WAYS_HERE)
    names = [
        "2 calls, 0 steps in each",
        "2 calls, 1 steps in each, then project",
        "2 calls, rolled by 0.8, then dynamics",
    ]
    assert list(figures) == names
    assert all(found["5"]["relative_dynamics_error"] > 0 for found in figures.values())
    assert model.sampling == before
