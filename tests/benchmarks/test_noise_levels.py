"""A network that knows the way back makes no error, from any level of noise."""

from __future__ import annotations

import pytest
import torch

from atradiff.config import DiffuserConfig, FitConfig
from atradiff.data.trajectories import Trajectories
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from benchmarks.noise_levels import measure

SMALL = DiffuserConfig(lengths=(5,), width=16, depth=1, dynamics_models=1, dynamics_width=16)


@pytest.fixture(scope="module")
def model(hopper_data: Trajectories) -> TrajectoryDiffuser:
    return fit(hopper_data, config=SMALL, settings=FitConfig(steps=2), device="cpu", quiet=True)


def test_noise_that_is_taken_back_leaves_no_error(
    hopper_data: Trajectories, model: TrajectoryDiffuser, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained = measure(model, hopper_data, 5, 20, levels=(0.0, 0.875))
    assert untrained["0"]["walked"] > 0.5
    assert untrained["0.875"]["walked"] < untrained["0"]["walked"]  # most of the window is still there

    noised: list[torch.Tensor] = []
    lerp = torch.lerp
    monkeypatch.setattr(torch, "lerp", lambda noise, rows, t: noised.append(rows - noise) or lerp(noise, rows, t))
    monkeypatch.setattr(model, "denoiser", lambda *_: noised[-1])
    for figures in measure(model, hopper_data, 5, 20, levels=(0.0, 0.5)).values():
        assert figures["one_call"] < 0.1  # what decoding clips: few episodes show a narrow range
        assert figures["walked"] < 0.1


def test_other_models_are_refused(hopper_data: Trajectories) -> None:
    other = fit(
        hopper_data,
        config=DiffuserConfig(**(SMALL.to_json() | {"lengths": (5,), "process": "edm"})),
        settings=FitConfig(steps=1),
        device="cpu",
        quiet=True,
    )
    with pytest.raises(ValueError, match="process must be shortcut, got 'edm'"):
        measure(other, hopper_data, 5, 4)
