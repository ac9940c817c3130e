"""Muon in float32 against torch's own, and against a singular value decomposition."""

import pytest
import torch

from atradiff.muon import Float32Muon, muon, orthogonal

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("shape", [(3, 16, 48), (3, 48, 16), (1, 16, 16)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    made = orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)), COEFFICIENTS, 5, 1e-7)
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for before, after in zip(given, made, strict=True):
        values = torch.linalg.svdvals(after)
        assert values.min() > 0.3  # the iteration is tuned to be fast, not to end at one
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        turned = u.T @ after @ v.T
        torch.testing.assert_close(turned, torch.diag(torch.diag(turned)), atol=1e-4, rtol=0)


def test_steps_are_those_of_torch_up_to_its_rounding():
    ours, theirs = matrices(), matrices()
    settings = {"weight_decay": 0.1}
    mine = Float32Muon([{"params": ours, "lr": 0.01}], **settings)
    reference = torch.optim.Muon([{"params": theirs, "lr": 0.01}], adjust_lr_fn="match_rms_adamw", **settings)
    for step in range(5):
        gradients = matrices(seed=step + 1)
        for one, other, gradient in zip(ours, theirs, gradients, strict=True):
            one.grad, other.grad = gradient.detach().clone(), gradient.detach().clone()
        mine.step()
        reference.step()
    for one, other, start in zip(ours, theirs, matrices(), strict=True):
        moved = (other - start).norm()
        assert (one - other).norm() < 0.02 * moved  # bfloat16 keeps eight bits


def test_its_state_goes_on_from_torchs():
    ours, theirs = matrices(), matrices()
    reference = torch.optim.Muon([{"params": theirs, "lr": 0.01}], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for parameter in theirs:
        parameter.grad = torch.ones_like(parameter)
    reference.step()
    mine = Float32Muon([{"params": ours, "lr": 0.01}], weight_decay=0.1)
    mine.load_state_dict(reference.state_dict())
    assert all(torch.equal(mine.state[p]["momentum_buffer"], torch.full_like(p, 0.05)) for p in ours)


def test_a_matrix_without_a_gradient_stays():
    ours = matrices()
    ours[0].grad = torch.ones_like(ours[0])
    Float32Muon([{"params": ours, "lr": 0.01}], weight_decay=0.1).step()
    assert not torch.equal(ours[0], matrices()[0])
    assert all(torch.equal(a, b) for a, b in zip(ours[1:], matrices()[1:], strict=True))


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_left_to_devices_that_multiply_it(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    made = muon([{"params": matrices(), "lr": 0.01}], weight_decay=0.1, device=torch.device("cpu"))
    assert isinstance(made, Float32Muon) is not native


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="no closure"):
        Float32Muon([{"params": matrices()}], weight_decay=0.1).step(lambda: 0.0)
