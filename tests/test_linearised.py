"""Derivatives by hand against those of torch.func."""

from __future__ import annotations

import torch

from atradiff.dynamics import BatchedMLP
from atradiff.linearised import Linearised


def network():
    torch.manual_seed(0)
    return BatchedMLP(2, (5, 16, 16, 3))


def at(net, member, inputs):
    with torch.no_grad():
        return Linearised([w[member] for w in net.weights], [b[member] for b in net.biases], inputs)


def test_outputs_are_those_of_the_member():
    net, inputs = network(), torch.randn(4, 7, 5)
    outputs = net(inputs.reshape(1, 28, 5).expand(2, -1, -1))[1].reshape(4, 7, 3)
    torch.testing.assert_close(at(net, 1, inputs).outputs, outputs)


def test_derivatives_are_those_of_automatic_differentiation():
    net, inputs = network(), torch.randn(6, 5)
    tangent, cotangent = torch.randn(6, 5), torch.randn(6, 3)

    def member(x):
        return net(x.expand(2, -1, -1))[0]

    linear = at(net, 0, inputs)
    torch.testing.assert_close(linear.push(tangent), torch.func.jvp(member, (inputs,), (tangent,))[1])
    torch.testing.assert_close(linear.pull(cotangent), torch.func.vjp(member, inputs)[1](cotangent)[0])


def test_autocast_keeps_float32_where_digits_count():
    net, inputs = network(), torch.randn(6, 5)
    exact = at(net, 0, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = at(net, 0, inputs)
        derivatives = coarse.push(inputs), coarse.pull(exact.outputs)
    assert {x.dtype for x in (coarse.outputs, *derivatives)} == {torch.float32}
    torch.testing.assert_close(coarse.outputs, exact.outputs, atol=0.02, rtol=0)
