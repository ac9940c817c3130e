"""A projection that moves nothing leaves sampling as it is; a real one brings windows nearer to the one-step model."""

from __future__ import annotations

import pytest
import torch

from atradiff.config import DiffuserConfig, FitConfig
from atradiff.data.trajectories import Trajectories
from atradiff.diffusion.conditioning import Condition
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.refine import step_residuals
from benchmarks import projected_sampling
from benchmarks.projected_sampling import ProjectedNetwork, Way, measure

SMALL = DiffuserConfig(lengths=(5,), width=16, depth=1, dynamics_models=1, dynamics_width=16)


@pytest.fixture(scope="module")
def model(hopper_data: Trajectories) -> TrajectoryDiffuser:
    return fit(hopper_data, config=SMALL, settings=FitConfig(steps=20), device="cpu", quiet=True)


def test_without_a_move_the_velocity_is_the_networks_own(
    model: TrajectoryDiffuser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projected_sampling, "project", lambda _, states, actions, *__: (states, actions))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((6, 5, model.codec.row_size), generator=generator)
    condition = Condition(torch.randn((6, 11), generator=generator), torch.full((6,), 5))
    time = torch.full((6,), 0.5)
    with torch.inference_mode():
        own = model.networks.diffuser(rows, time, time, condition)
        wrapped = ProjectedNetwork(model, 2)(rows, time, time, condition)
    torch.testing.assert_close(wrapped, own, atol=1e-4, rtol=1e-4)


def test_windows_come_nearer_to_the_one_step_model(hopper_data: Trajectories, model: TrajectoryDiffuser) -> None:
    states = hopper_data.columns.observations[:40]

    def gap() -> float:
        rows = model.diffused(states, 5, generator_seed=0)
        return float(step_residuals(model.dynamics, rows).mean())

    plain, own = gap(), model.denoiser
    model.denoiser = ProjectedNetwork(model, 4)
    try:
        assert gap() < 0.7 * plain
    finally:
        model.denoiser = own


def test_the_model_is_left_as_it_was(hopper_data: Trajectories, model: TrajectoryDiffuser) -> None:
    before = model.denoiser, model.sampling
    figures = measure(model, hopper_data, [5], 8, ways=(Way(2, 0, "none"), Way(2, 1, "project")))
    assert list(figures) == ["2 calls, 0 steps in each", "2 calls, 1 steps in each, then project"]
    assert all(found["5"]["relative_dynamics_error"] > 0 for found in figures.values())
    assert (model.denoiser, model.sampling) == before


def test_other_rows_are_refused(hopper_data: Trajectories) -> None:
    other = DiffuserConfig(**(SMALL.to_json() | {"lengths": (5,), "rows": "absolute"}))
    absolute = fit(hopper_data, config=other, settings=FitConfig(steps=1), device="cpu", quiet=True)
    with pytest.raises(ValueError, match="rows must be differences, got 'absolute'"):
        measure(absolute, hopper_data, [5], 4)
