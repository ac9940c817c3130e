"""Networks whose calls are captured, against the same networks called plainly. Without a GPU they are only traced."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atradiff.augment.synther import SyntherDiffuser, new_network
from atradiff.augment.transition_rows import TransitionRows
from atradiff.bank import NetworkBank
from atradiff.config import SyntherConfig
from atradiff.diffusion.captured import CapturedNetwork
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.guided import SCORE_FEATURES, Guided, ScoreConditioned
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.residual_mlp import ResidualMLP
from atradiff.diffusion.transformer import RowTransformer
from tests.toys import CHAIN, chain_data

CPU = torch.device("cpu")


def transformer(longest: int = 5, task_size: int = 0) -> RowTransformer:
    scales = torch.tensor([0.1, 0.5, 1.0])
    return RowTransformer(6, slice(2, 5), scales, longest, width=16, depth=2, heads=2, task_size=task_size)


NETWORKS = {
    "transformer": transformer,
    "told of scores": lambda: ScoreConditioned(transformer(task_size=SCORE_FEATURES)),
    "residual MLP": lambda: ResidualMLP(6, 3, 5, width=32, depth=2),
    "bank": lambda: NetworkBank({3: transformer(3), 5: transformer(5)}),
}


def asked(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Condition]:
    random = torch.Generator().manual_seed(batch)
    lengths = torch.tensor([3, 5])[torch.randint(2, (batch,), generator=random)]
    states, scores = torch.randn(batch, 3, generator=random), torch.rand(batch, generator=random)
    rows, noise = torch.randn(batch, 5, 6, generator=random), torch.rand(batch, generator=random)
    return rows, noise, torch.zeros(batch), Condition(states, lengths, scores=scores)


def wild(network: RowNetwork) -> RowNetwork:
    """With no weight left at zero, where all predictions would be alike."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False)


@pytest.mark.parametrize("kind", NETWORKS)
def test_predictions_are_those_of_the_network_itself(kind: str) -> None:
    network = wild(NETWORKS[kind]())
    fast = CapturedNetwork(network, CPU, whole=kind != "bank")
    with torch.inference_mode():
        for batch in (1, 2, 3, 5, 8):
            torch.testing.assert_close(fast(*asked(batch)), network(*asked(batch)), atol=1e-5, rtol=1e-4)


def test_new_weights_are_used_and_earlier_results_stay() -> None:
    network = wild(transformer())
    fast = CapturedNetwork(network, CPU)
    before = fast(*asked(3))
    kept = before.clone()
    network.head.bias.add_(1.0)
    torch.testing.assert_close(fast(*asked(3)), before + 1)
    assert torch.equal(before, kept)


def test_guidance_goes_round_it() -> None:
    network = wild(NETWORKS["told of scores"]())
    plain, fast = Guided(network, 2.0), Guided(CapturedNetwork(network, CPU), 2.0)
    torch.testing.assert_close(fast(*asked(3)), plain(*asked(3)), atol=1e-5, rtol=1e-4)


def test_few_batch_sizes_are_compiled() -> None:
    sizes: set[int] = set()
    network = wild(transformer())
    fast = CapturedNetwork(network, CPU)
    call = fast._captured
    fast._captured = lambda rows, *rest: (sizes.add(len(rows)), call(rows, *rest))[1]
    for batch in range(1, 40):
        assert len(fast(*asked(batch))) == batch
    assert sizes == {1, 2, 4, 8, 16, 32, 64}


def test_synther_makes_the_same_rows_with_it() -> None:
    config = SyntherConfig(width=16, depth=1, calls=5)
    codec = TransitionRows.fit(CHAIN, chain_data(5).columns)
    model = SyntherDiffuser(config, codec, new_network(config, codec, seed=0), device="cpu")
    states = np.zeros((3, CHAIN.observation_size), np.float32)
    plain, fast = (m.generate(states, generator_seed=0) for m in (model, model.on("cpu", compiled=True)))
    np.testing.assert_allclose(fast.observations, plain.observations, atol=1e-4)
