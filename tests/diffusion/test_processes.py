# ruff: noqa: ARG002 (stand-ins keep the signature of what they stand for)
"""Both processes against closed forms: networks that are exact for Gaussian or for point-like data."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from atradiff.config import DiffuserConfig
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.edm import SIGMA_DATA, _churned, denoise, edm_loss, karras_sigmas, sample_edm
from atradiff.diffusion.sample import sample_rows
from atradiff.diffusion.shortcut import draws, passes, sample_shortcut, shortcut_loss

SPREAD = 0.5


def condition(batch):
    return Condition(torch.zeros(batch, 2), torch.full((batch,), 4))


def wide(x):
    return x[:, None, None]


class PointFlow(torch.nn.Module):
    """The exact velocity towards one point: v = (point - x) / (1 - t), whatever the step."""

    head = SimpleNamespace(out_features=3)

    def __init__(self, point: float) -> None:
        super().__init__()
        self.point = point

    def forward(self, rows, time, step, condition):
        return (self.point - rows) / (1 - wide(time)).clamp_min(1e-4)


class GaussianDenoiser(torch.nn.Module):
    """F of equation 7 such that D(x; sigma) = x spread^2 / (spread^2 + sigma^2), exact for N(0, spread^2)."""

    def forward(self, scaled, noise, step, condition):
        sigma = wide((4 * noise).exp())
        x = scaled * (sigma**2 + SIGMA_DATA**2).sqrt()
        c_skip = SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2)
        c_out = sigma * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt()
        return (x * SPREAD**2 / (SPREAD**2 + sigma**2) - c_skip * x) / c_out


class GaussianFlow(torch.nn.Module):
    """The exact mean velocity over a step for data of N(0, SPREAD^2): rows at level t have the spread s(t)."""

    @staticmethod
    def spread(time):
        return ((1 - time) ** 2 + (SPREAD * time) ** 2).sqrt()

    def forward(self, rows, time, step, condition):
        step = wide(step.clamp_min(1e-3))
        return rows * (self.spread(wide(time) + step) / self.spread(wide(time)) - 1) / step


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_straight_flow_arrives_in_any_number_of_calls(calls):
    noise = torch.randn(3, 16, 4, 3, generator=torch.Generator().manual_seed(0))
    rows = sample_shortcut(PointFlow(0.7), noise, condition(16), calls)
    torch.testing.assert_close(rows, torch.full_like(rows, 0.7), atol=1e-4, rtol=0)


def test_shortcut_loss_of_the_exact_flow_is_zero():
    rows = torch.full((64, 4, 3), 0.7)
    flow = PointFlow(0.7)
    loss = shortcut_loss(flow, flow, rows, condition(64), torch.Generator().manual_seed(0))
    assert loss.item() < 1e-3


def test_shortcut_loss_of_a_silent_network_is_the_variance_of_the_velocity():
    class Silent(torch.nn.Module):
        def forward(self, rows, time, step, condition):
            return torch.zeros_like(rows)

    rows = torch.zeros(4000, 4, 3)
    loss = shortcut_loss(Silent(), Silent(), rows, condition(4000), torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(
        0.75, abs=0.02
    )  # a quarter of the batch asks for the silent network's own steps


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_rows_are_learned_from_the_data_and_not_from_the_network_itself(count):
    """Closed form: the exact velocity is what a network of all data at 0.7 has; its own guesses are other ones here."""
    rows, wrong = torch.full((count, 4, 3), 0.7), PointFlow(-50.0)
    loss = shortcut_loss(PointFlow(0.7), wrong, rows, condition(count), torch.Generator().manual_seed(0))
    assert loss.item() < 1e-3


@pytest.mark.parametrize("solver", ["dpm++", "heun"])
def test_edm_samples_approach_the_spread_of_the_data(solver):
    noise = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0))
    coarse, fine = (sample_edm(GaussianDenoiser(), noise, condition(4000), calls, solver) for calls in (32, 96))
    assert fine.std().item() == pytest.approx(SPREAD, rel=0.015)
    assert abs(fine.std() - SPREAD) <= abs(coarse.std() - SPREAD) + 0.002
    assert torch.corrcoef(torch.stack([fine.flatten(), noise.flatten()]))[0, 1] > 0.999  # a deterministic map


def test_the_stochastic_sampler_reaches_the_spread_of_the_data_by_another_way_each_time():
    noise = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0))

    def sampled(seed, calls=127):
        generator = torch.Generator().manual_seed(seed)
        return sample_edm(GaussianDenoiser(), noise, condition(4000), calls, "stochastic", generator)

    first, again, other = sampled(1), sampled(1), sampled(2)
    assert first.std().item() == pytest.approx(SPREAD, rel=0.03)  # S_noise 1.003 widens a little
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1] < 0.1  # the churn forgets the start


@pytest.mark.parametrize("solver", ["dpm++", "heun", "stochastic"])
@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_the_spread_falls_as_the_temperature_does(solver, temperature):
    """The exact denoiser of a Gaussian is linear, so that rows are linear in all the noise there was."""
    config = DiffuserConfig(process="edm", solver=solver, calls=127)
    network = GaussianDenoiser()
    network.row_size = 3

    def sampled(temperature):
        generator = torch.Generator().manual_seed(3)
        return sample_rows(network, config, condition(2000), generator, temperature=temperature)

    warm, cold = sampled(1.0), sampled(temperature)
    assert warm.std().item() == pytest.approx(SPREAD, rel=0.05)
    torch.testing.assert_close(cold, temperature * warm, atol=1e-5, rtol=1e-4)


def test_churn_raises_the_noise_level_as_algorithm_2_says():
    """At one level: rows keep their mean, and their variance becomes that of the raised level (S_noise aside)."""
    rows = 2.0 * torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0))
    churned, raised = _churned(rows, torch.tensor(2.0), 128, torch.Generator().manual_seed(1))
    assert raised.item() == pytest.approx(2 * 2**0.5, rel=1e-5)  # 80 / 128 is more than sqrt(2) - 1, the most allowed
    assert churned.std().item() == pytest.approx(raised.item(), rel=0.01)
    fresh = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(churned, rows + 1.003 * (raised.square() - 4).sqrt() * fresh)  # at temperature 1 to the bit
    for outside in (60.0, 0.01):
        same, level = _churned(rows, torch.tensor(outside), 128, torch.Generator().manual_seed(1))
        assert same is rows
        assert level.item() == pytest.approx(outside)


def test_edm_loss_of_the_exact_denoiser_is_its_closed_form():
    """Given x, clean rows scatter by spread^2 sigma^2 / (spread^2 + sigma^2); the loss divides that by c_out^2."""
    generator = torch.Generator().manual_seed(0)
    rows = SPREAD * torch.randn(20_000, 4, 3, generator=generator)
    loss = edm_loss(GaussianDenoiser(), rows, condition(20_000), generator)
    sigma = (-1.2 + 1.2 * torch.randn(200_000, generator=generator)).exp()
    c_out = sigma * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt()
    expected = (SPREAD**2 * sigma**2 / (SPREAD**2 + sigma**2) / c_out**2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)


def test_denoiser_scalings_restore_the_exact_mean():
    x, sigma = torch.randn(8, 4, 3), torch.full((8,), 0.8)
    mean = denoise(GaussianDenoiser(), x, sigma, condition(8))
    torch.testing.assert_close(mean, x * SPREAD**2 / (SPREAD**2 + 0.64))


def test_karras_noise_levels_fall_from_high_to_zero():
    sigmas = karras_sigmas(5, torch.device("cpu"))
    assert sigmas[0].item() == pytest.approx(80, rel=1e-5)
    assert sigmas[-2].item() == pytest.approx(0.002, rel=1e-3)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def spread_after(calls):
    """In closed form. A step of 1/8 and less is told as none: it goes to E[x | x_t], which has less spread than x."""
    spread = SPREAD
    for time in (1 - 0.5**i for i in range(3, calls)):
        noisy = ((1 - time) ** 2 + (time * spread) ** 2) ** 0.5
        spread = noisy * time * SPREAD**2 / ((1 - time) ** 2 + (time * SPREAD) ** 2)
    return spread


@pytest.mark.parametrize("calls", range(1, 7))
def test_rows_have_the_spread_of_the_data_however_often_they_are_noised_again(calls):
    noise = torch.randn(draws(calls), 8000, 4, 3, generator=torch.Generator().manual_seed(0))
    rows = sample_shortcut(GaussianFlow(), noise, condition(8000), calls)
    assert rows.std().item() == pytest.approx(spread_after(calls), rel=0.01)
    correlations = [torch.corrcoef(torch.stack([rows.flatten(), part.flatten()]))[0, 1] for part in noise]
    assert all(found > 0.02 for found in correlations)  # each draw is used
    assert sum(found**2 for found in correlations) == pytest.approx(1, abs=0.01)  # and nothing else


def test_quiet_noise_stays_quiet_in_all_passes():
    quiet = torch.zeros(draws(4), 2000, 4, 3)
    torch.testing.assert_close(sample_shortcut(GaussianFlow(), quiet, condition(2000), 4), quiet[0])


@pytest.mark.parametrize("calls", range(1, 8))
def test_passes_end_at_the_rows_and_begin_ever_later(calls):
    made = passes(calls)
    assert len(made) == calls
    assert made[0][0] == 0
    assert made[-1][0] + made[-1][1] == 1
    for (here, step), (there, _) in pairwise(made):
        assert here < there
        assert here + step in (there, 1)
    assert all(step in (1, 0.5) or step == 1 - time for time, step in made)
