"""The paper's bank: one model folder, one interface, a network per length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atradiff.bank import NetworkBank
from atradiff.data.trajectories import Trajectories
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.network import RowNetwork
from atradiff.generator import TrajectoryDiffuser
from tests.toys import CHAIN, TINY, chain_data, lay_out, tiny_diffuser
from tests.toys import chain_episode as episode

BANK = replace(TINY, generator="bank")


class Sizes(RowNetwork):
    """Answers with its own length, and refuses windows of another."""

    row_size = 2

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, rows, noise, step, condition):  # noqa: ARG002
        assert rows.shape[1] == self.length
        assert (condition.lengths == self.length).all()
        return torch.full_like(rows, self.length) + noise[:, None, None]

    def matrices(self):
        return []


def test_each_window_goes_to_the_network_of_its_length():
    bank = NetworkBank({3: Sizes(3), 6: Sizes(6)})
    lengths = torch.tensor([3, 6, 3, 6])
    noise = torch.tensor([0.0, 0.1, 0.2, 0.3])
    out = bank(torch.randn(4, 6, 2), noise, torch.zeros(4), Condition(torch.zeros(4, 1), lengths))
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(out[i, :length], torch.full((length, 2), length + noise[i].item()))
        assert (out[i, length:] == 0).all()


def test_a_step_on_windows_of_one_length_moves_that_network_only():
    bank = tiny_diffuser(config=BANK).networks.diffuser.requires_grad_(True)
    condition = Condition(torch.randn(4, 2), torch.full((4,), 3))
    bank(torch.randn(4, 3, bank.row_size), torch.rand(4), torch.zeros(4), condition).square().mean().backward()
    assert all(p.grad is None for p in bank.members["6"].parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in bank.members["3"].parameters())


@pytest.mark.parametrize("network", ["transformer", "residual_mlp"])
def test_one_model_folder_holds_the_whole_bank(network, tmp_path):
    diffuser = tiny_diffuser(config=replace(BANK, network=network, rows="absolute", prune="paper", refine="none"))
    diffuser.save_pretrained(tmp_path / "model")
    again = TrajectoryDiffuser.from_pretrained(tmp_path / "model", device="cpu")
    states = chain_data(3).columns.observations[:20]
    first, second = (d.generate(states, generator_seed=1) for d in (diffuser, again))
    assert again.config.generator == "bank"
    assert sorted(again.networks.diffuser.members) == ["3", "6"]
    for name in ("observations", "actions", "rewards", "terminated", "lengths"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_the_length_estimator_chooses_the_member(monkeypatch):
    diffuser = tiny_diffuser(config=replace(BANK, prune="none", refine="none"))
    asked: list[int] = []
    for length, member in diffuser.networks.diffuser.members.items():
        member.register_forward_hook(lambda *_, length=length: asked.append(int(length)))
    estimate = torch.tensor([1, 3, 4, 6])
    monkeypatch.setattr(diffuser.networks.lengths, "quantile", lambda *_: estimate)
    imagined = diffuser.generate(np.zeros((4, 2), np.float32), generator_seed=0)
    assert set(asked) == {3, 6}
    assert (imagined.lengths <= [3, 3, 6, 6]).all()


def test_lengths_that_no_episode_serves_have_no_member():
    short = [episode(np.random.default_rng(i), limit=4) for i in range(6)]
    data: Trajectories = lay_out(CHAIN, short)
    data = replace(data, columns=replace(data.columns, truncated=data.columns.truncated | data.columns.terminated))
    data = replace(data, columns=replace(data.columns, terminated=np.zeros_like(data.columns.terminated)))
    diffuser = tiny_diffuser(data, config=BANK)
    assert diffuser.config.lengths == (3,)
    assert list(diffuser.networks.diffuser.members) == ["3"]
