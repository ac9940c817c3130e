from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.transformer import Block, RowTransformer


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = RowTransformer(6, slice(2, 5), torch.tensor([0.1, 0.5, 0.0]), 8, width=32, depth=2, heads=4, task_size=2)
    for parameter in network.parameters():  # the zero-initialised gates would hide what the test looks for
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def two_headed():
    torch.manual_seed(0)
    scale = torch.tensor([0.1, 0.5, 0.0])
    network = RowTransformer(9, slice(2, 8), scale, 8, width=32, depth=2, heads=4, task_size=2, rows="both")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def inputs(batch=3, length=8, lengths=None, row_size=6):
    generator = torch.Generator().manual_seed(1)
    condition = Condition(
        torch.randn(batch, 3, generator=generator),
        torch.full((batch,), length) if lengths is None else lengths,
        torch.randn(batch, 2, generator=generator),
    )
    return torch.randn(batch, length, row_size, generator=generator), torch.rand(batch, generator=generator), condition


@pytest.mark.parametrize("kind", ["differences", "both"])
def test_rows_past_a_windows_length_change_nothing(network, kind):
    if kind == "both":
        network = two_headed()
    lengths = torch.tensor([3, 5, 8])
    rows, noise, condition = inputs(lengths=lengths, row_size=network.row_size)
    step = torch.zeros(3)
    together = network(rows, noise, step, condition)
    for i, length in enumerate(lengths.tolist()):
        alone = network(rows[i : i + 1, :length], noise[i : i + 1], step[:1], condition[slice(i, i + 1)])
        torch.testing.assert_close(together[i : i + 1, :length], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("what", ["state", "task", "noise", "step", "length"])
def test_every_condition_reaches_every_row(network, what):
    rows, noise, condition = inputs()
    step = torch.zeros(3)
    before = network(rows, noise, step, condition)
    if what == "state":
        condition = Condition(condition.states + 1, condition.lengths, condition.task)
    elif what == "task":
        condition = Condition(condition.states, condition.lengths, condition.task + 1)
    elif what == "length":  # the embedding alone: 9 - 1 rows are all there are, so nothing is masked
        network.encode.length.weight.data += 1
    after = network(rows, noise + 0.3 * (what == "noise"), step + 0.5 * (what == "step"), condition)
    assert ((before - after).abs().amax(-1) > 1e-4).all()


def test_a_new_network_predicts_zero():
    network = RowTransformer(6, slice(2, 5), torch.ones(3), 8, width=32, depth=2, heads=4)
    rows, noise, condition = inputs()
    condition = Condition(condition.states, condition.lengths)
    torch.testing.assert_close(network(rows, noise, noise, condition), torch.zeros_like(rows))


def test_bfloat16_agrees_with_float32(network):
    rows, noise, condition = inputs()
    exact = network(rows, noise, torch.zeros(3), condition)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(rows, noise, torch.zeros(3), condition)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("kind", ["differences", "absolute"])
def test_each_token_sees_the_state_that_its_row_starts_in(kind):
    scale = torch.tensor([0.1, 0.5, 0.0])
    network = RowTransformer(6, slice(2, 5), scale, 8, width=32, depth=1, heads=4, rows=kind)
    seen = []
    network.embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    rows, noise, condition = inputs()
    network(rows, noise, torch.zeros(3), Condition(condition.states, condition.lengths))
    state = condition.states
    for j in range(8):
        torch.testing.assert_close(seen[0][:, j], torch.cat([rows[:, j], state], dim=-1))
        state = rows[:, j, 2:5] if kind == "absolute" else state + rows[:, j, 2:5] * scale


def test_where_both_heads_agree_each_token_sees_the_state_that_its_row_starts_in():
    network, seen = two_headed(), []
    network.embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    rows, noise, condition = inputs(row_size=9)
    path = (rows[..., 2:5] * torch.tensor([0.1, 0.5, 0.0])).cumsum(1)
    rows[..., 5:8] = path
    network(rows, noise, torch.zeros(3), condition)
    starts = torch.cat([condition.states[:, None], condition.states[:, None] + path[:, :-1]], dim=1)
    torch.testing.assert_close(seen[0], torch.cat([rows, starts], dim=-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_attention_is_torchs_own_also_where_all_scores_are_far_below_zero(offset):
    torch.manual_seed(0)
    block, x = Block(16, heads=2), torch.randn(3, 5, 16)
    block.qkv.bias.data[:32] = torch.tensor([offset] * 16 + [-offset] * 16)  # of all queries and all keys
    block.qkv.weight.data[:32] *= offset == 0
    mask = torch.zeros(3, 1, 5).masked_fill(torch.arange(5) >= torch.tensor([5, 3, 1])[:, None, None], -torch.inf)
    modulation = torch.zeros(3, 1, 96)
    modulation[..., 32:48] = 1  # the attention's gate alone
    q, k, v = block.qkv(F.layer_norm(x, (16,))).view(3, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, mask[:, None]).transpose(1, 2).reshape(3, 5, 16)
    torch.testing.assert_close(block(x, modulation, mask), x + block.out(mixed))
