"""The probes of the levers do what they say, and leave the library as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import atradiff.fit
from atradiff.config import DiffuserConfig, FitConfig
from atradiff.data.normalize import Normalizer
from atradiff.data.row_codecs import DifferenceRows
from atradiff.data.trajectories import Trajectories
from atradiff.data.windows import WindowSampler
from atradiff.diffusion.conditioning import Condition
from atradiff.dynamics import DynamicsEnsemble
from atradiff.trainer import Trainer
from benchmarks import levers_probes
from benchmarks.levers_probes import PROBES, Gap, InformedNetwork, probing
from benchmarks.levers_rows import blue_noise
from tests.toys import chain_data

SMALL = DiffuserConfig(lengths=(2, 5), width=16, depth=1, dynamics_models=1, dynamics_width=16)


@pytest.fixture(scope="module")
def data() -> Trajectories:
    return chain_data(episodes=12)


@pytest.fixture
def model(data: Trajectories) -> DynamicsEnsemble:
    torch.manual_seed(0)
    return DynamicsEnsemble(DifferenceRows(data.spaces, Normalizer.fit(data)), models=1, width=16)


def test_the_gap_is_the_one_step_models_residual(data: Trajectories, model: DynamicsEnsemble) -> None:
    codec = DifferenceRows(data.spaces, Normalizer.fit(data))
    windows = WindowSampler(data, (5,)).at(np.array([0, 3, 7]), 5)
    rows = torch.from_numpy(codec.encode(windows)).requires_grad_()
    gap = Gap(model, codec)(rows, torch.from_numpy(codec.normalizer.states(windows.states[:, 0])), 0)
    steps = windows.states[:, :-1], windows.actions, windows.states[:, 1:]
    flat = (torch.from_numpy(part.reshape(15, part.shape[-1])) for part in steps)
    torch.testing.assert_close(gap.square().mean(-1).sqrt().ravel(), model.residual(*flat), rtol=1e-4, atol=1e-5)
    gap.square().sum().backward()
    assert rows.grad is not None
    assert rows.grad[..., codec.state_columns].abs().min() > 0
    assert all(p.grad is None for p in model.parameters())


class Still(torch.nn.Module):
    """Says that nothing moves: rows are as they should be."""

    row_size = 5

    def forward(self, rows: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.zeros_like(rows)


def test_an_informed_network_learns_how_far_to_follow_the_one_step_model(
    data: Trajectories, model: DynamicsEnsemble
) -> None:
    codec = DifferenceRows(data.spaces, Normalizer.fit(data))
    gap = Gap(model, codec)
    network = InformedNetwork(Still(), gap, codec.state_columns)  # type: ignore[arg-type]
    rows, states, time = torch.randn(4, 1, 5), torch.randn(4, 2), torch.full((4,), 0.75)
    condition = Condition(states, torch.ones(4, dtype=torch.int64))
    assert not network(rows, time, torch.zeros(4), condition).any()  # at first not at all
    torch.nn.init.ones_(network.share[2].bias)
    denoised = rows + 0.25 * network(rows, time, torch.zeros(4), condition)  # wholly: nothing is left of the gap
    torch.testing.assert_close(gap(denoised, states, 0), torch.zeros(4, 1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(denoised[..., :2], rows[..., :2])


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_a_straight_walk_arrives_without_fresh_noise(calls: int) -> None:
    noise = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    condition = Condition(torch.zeros(4, 2), torch.full((4,), 3))
    network = lambda rows, time, *_: (0.7 - rows) / (1 - time[:, None, None])  # noqa: E731
    rows = levers_probes.straight(network, noise, condition, calls)  # type: ignore[arg-type]
    torch.testing.assert_close(rows, torch.full((4, 3, 5), 0.7))


def test_blue_noise_of_differences_does_not_add_up() -> None:
    white = torch.randn(20_000, 6, 5, generator=torch.Generator().manual_seed(0))
    blue = blue_noise(white, 2, 1.0)
    torch.testing.assert_close(blue[:, 1:, 2:4].var(0), torch.ones(5, 2), atol=0.05, rtol=0)
    torch.testing.assert_close(blue[..., 2:4].cumsum(1).var(0), torch.full((6, 2), 0.5), atol=0.03, rtol=0)
    torch.testing.assert_close(blue[..., [0, 1, 4]], white[..., [0, 1, 4]])


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_is_fitted_and_sampled(name: str, data: Trajectories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levers_probes, "_TRUSTED_AFTER", 0)
    with probing(name):
        fitted = atradiff.fit.fit(data, config=SMALL, settings=FitConfig(steps=2), device="cpu", quiet=True)
        imagined = fitted.generate(data.columns.observations[:3], generator_seed=0, length=5)
    assert np.isfinite(imagined.observations).all()
    assert atradiff.fit.Trainer is Trainer
