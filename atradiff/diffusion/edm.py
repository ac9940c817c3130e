"""The EDM process (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models")."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from atradiff.config import Solver
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork

SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 1.0, 0.002, 80.0
P_MEAN, P_STD = -1.2, 1.2

S_CHURN, S_TMIN, S_TMAX, S_NOISE = 80.0, 0.05, 50.0, 1.003
"""The stochastic sampler's settings: those of SynthER (Lu et al. 2023), in the names of Karras' algorithm 2."""


def edm_loss(network: RowNetwork, rows: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
    """Denoising error of rows (B, K, R), weighted so that the network's own target has unit variance (equation 8)."""
    normal = torch.randn(len(rows), generator=generator, device=rows.device)
    sigma = (P_MEAN + P_STD * normal).exp()
    noise = torch.randn(rows.shape, generator=generator, device=rows.device)
    wide = sigma[:, None, None]
    noisy = rows + wide * noise
    c_skip, c_out = _skip_and_out(wide)
    return (raw_output(network, noisy, sigma, condition) - (rows - c_skip * noisy) / c_out).square().mean()


def raw_output(network: RowNetwork, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """F(c_in x; c_noise), the network between the skip and the output scaling (equation 7); ``sigma`` (B,)."""
    scaled = noisy / (sigma.square() + SIGMA_DATA**2).sqrt()[:, None, None]
    return network(scaled, sigma.log() / 4, torch.zeros_like(sigma), condition)


def clean_estimate(noise: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b), both (B,): c_in x and F(c_in x; c_noise) speak of the clean rows a c_in x + b F; ``noise`` is c_noise."""
    sigma = (4 * noise).exp()
    c_skip, c_out = _skip_and_out(sigma)
    return c_skip * (sigma.square() + SIGMA_DATA**2).sqrt(), c_out


def is_last(noise: Tensor, levels: int) -> bool:
    """Whether a call at ``noise`` (B,), which is c_noise, is at the finest of ``levels``, where Heun has two calls."""
    finest = SIGMA_MIN if levels > 1 else SIGMA_MAX
    return bool((noise < math.log(1.01 * finest) / 4).all())


def levels_of(solver: Solver, calls: int) -> int:
    """Noise levels above 0 that ``calls`` lead through."""
    return calls if solver == "dpm++" else (calls + 1) // 2


def denoise(network: RowNetwork, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """D(x; sigma), the expected clean rows (equation 7)."""
    c_skip, c_out = _skip_and_out(sigma[:, None, None])
    return c_skip * noisy + c_out * raw_output(network, noisy, sigma, condition)


def _skip_and_out(sigma: Tensor) -> tuple[Tensor, Tensor]:
    total = sigma.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, sigma * SIGMA_DATA / total.sqrt()


def sample_edm(
    network: RowNetwork,
    noise: Tensor,
    condition: Condition,
    calls: int,
    solver: Solver,
    generator: torch.Generator | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Walk from ``noise`` (B, K, R) to rows in at most ``calls`` network calls along Karras' noise levels.

    ``noise`` is unit noise times ``temperature``. ``generator`` draws what the ``stochastic`` solver puts back on its
    way, which is scaled like it: the churn forgets its start. The other solvers need neither.
    """
    if solver == "dpm++":
        return _dpm(network, noise, condition, calls)
    return _heun(network, noise, condition, calls, generator if solver == "stochastic" else None, temperature)


def _dpm(network: RowNetwork, noise: Tensor, condition: Condition, calls: int) -> Tensor:
    """DPM-Solver++ 2M of ``diffusers``; a scheduler holds state, so each request makes its own."""
    from diffusers import EDMDPMSolverMultistepScheduler  # seconds of import that only this path needs

    scheduler = EDMDPMSolverMultistepScheduler(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=SIGMA_DATA)
    scheduler.set_timesteps(calls, device=noise.device)
    rows = noise * scheduler.init_noise_sigma
    for i, time in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i].to(rows).expand(len(rows))
        rows = scheduler.step(raw_output(network, rows, sigma, condition), time, rows).prev_sample
    return rows


def _heun(
    network: RowNetwork,
    noise: Tensor,
    condition: Condition,
    calls: int,
    generator: torch.Generator | None,
    temperature: float | Tensor,
) -> Tensor:
    """Heun's method (algorithm 1 there), two calls per step but the last; with ``generator`` algorithm 2.

    ``diffusers`` ties its Heun scheduler to the noise levels of a beta schedule; twelve lines keep Karras' own.
    """
    sigmas = karras_sigmas(levels_of("heun", calls), noise.device)
    rows = noise * sigmas[0]
    for here, there in pairwise(sigmas):
        if generator is not None:
            rows, here = _churned(rows, here, len(sigmas) - 1, generator, temperature)
        slope = (rows - denoise(network, rows, here.expand(len(rows)), condition)) / here
        euler = rows + (there - here) * slope
        if there == 0:
            return euler
        end_slope = (euler - denoise(network, euler, there.expand(len(rows)), condition)) / there
        rows = rows + (there - here) * (slope + end_slope) / 2
    return rows


def _churned(
    rows: Tensor, sigma: Tensor, steps: int, generator: torch.Generator, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Rows at a noise level raised by up to 41 %, and that level (algorithm 2 there, lines 4-6)."""
    if not S_TMIN <= sigma <= S_TMAX:
        return rows, sigma
    raised = sigma * (1 + min(S_CHURN / steps, math.sqrt(2) - 1))
    fresh = temperature * torch.randn(rows.shape, generator=generator).to(rows)
    return rows + S_NOISE * (raised.square() - sigma.square()).sqrt() * fresh, raised


def karras_sigmas(steps: int, device: torch.device, rho: float = 7.0) -> Tensor:
    """(steps + 1,) noise levels from SIGMA_MAX down to 0 (equation 5)."""
    ramp = torch.linspace(0, 1, steps, device=device)
    high, low = SIGMA_MAX ** (1 / rho), SIGMA_MIN ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, ramp.new_zeros(1)])
