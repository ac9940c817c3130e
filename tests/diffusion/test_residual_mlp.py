from __future__ import annotations

import pytest
import torch

from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.residual_mlp import NARROWEST, ResidualMLP


def network(longest=8, task_size=2):
    torch.manual_seed(0)
    return ResidualMLP(6, 3, longest, width=32, depth=2, task_size=task_size)


def request(lengths, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    batch = len(lengths)
    condition = Condition(
        torch.randn(batch, 3, generator=generator), torch.tensor(lengths), torch.randn(batch, 2, generator=generator)
    )
    return torch.randn(batch, length, 6, generator=generator), torch.rand(batch, generator=generator), condition


def test_rows_past_a_windows_length_change_nothing():
    net, step = network(), torch.zeros(3)
    rows, noise, condition = request([3, 5, 8], 8)
    together = net(rows, noise, step, condition)
    for i, length in enumerate([3, 5, 8]):
        alone = net(rows[i : i + 1, :length], noise[i : i + 1], step[:1], condition[slice(i, i + 1)])
        assert alone.shape == (1, length, 6)
        torch.testing.assert_close(together[i : i + 1, :length], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("what", ["rows", "state", "task", "noise", "step", "length"])
def test_everything_that_it_is_told_reaches_the_prediction(what):
    net, step = network(), torch.zeros(1)
    with torch.no_grad():
        net.length.weight.normal_()
    rows, noise, told = request([7], 8)
    before = net(rows, noise, step, told)[:, :7]
    changed = Condition(
        told.states + (what == "state"), told.lengths - int(what == "length"), told.task + (what == "task")
    )
    after = net(rows + (what == "rows"), noise + 0.3 * (what == "noise"), step + 0.5 * (what == "step"), changed)
    assert (before - after[:, :7]).abs().max() > 1e-4


def test_the_input_projection_is_never_narrower_than_what_it_projects():
    assert network(longest=1, task_size=0).project.out_features == NARROWEST
    wide = ResidualMLP(row_size=16, state_size=11, longest=25, width=64, depth=1)
    assert wide.project.in_features == wide.project.out_features == 25 * 16 + 11
