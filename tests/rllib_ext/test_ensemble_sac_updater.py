"""The batched update against the same algorithm written naively, one critic at a time."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rllib_ext.ensemble_sac.losses import alpha_loss
from rllib_ext.ensemble_sac.networks import CriticEnsemble, GaussianActor, squash
from rllib_ext.ensemble_sac.settings import SACSettings
from rllib_ext.ensemble_sac.updater import SACOptimizers, SACUpdater, TensorBatch

S, A, B = 3, 2, 16
SAC = SACSettings(batch_size=B, hidden_sizes=(8, 8), initial_alpha=0.3, actor_lr=1e-2, critic_lr=1e-2, alpha_lr=1e-2)
REDQ = replace(SAC, n_critics=5, actor_reduce="mean", actor_every=2, layer_norm=True, backup_entropy=False)


def networks_for(settings: SACSettings) -> SimpleNamespace:
    torch.manual_seed(0)
    critics = CriticEnsemble(S, A, settings.n_critics, settings.hidden_sizes, settings.layer_norm)
    return SimpleNamespace(
        actor=GaussianActor(S, A, settings.hidden_sizes),
        critics=critics,
        target_critics=copy.deepcopy(critics).requires_grad_(False),
        log_alpha=nn.Parameter(torch.tensor(settings.initial_alpha).log()),
    )


def batches(n: int) -> list[TensorBatch]:
    g = torch.Generator().manual_seed(1)
    return [
        TensorBatch(
            observations=torch.randn(B, S, generator=g),
            actions=torch.rand(B, A, generator=g) * 2 - 1,
            rewards=torch.randn(B, generator=g),
            next_observations=torch.randn(B, S, generator=g),
            terminated=(torch.rand(B, generator=g) < 0.3).float(),
        )
        for _ in range(n)
    ]


def member(critics: CriticEnsemble, i: int) -> nn.Sequential:
    """Critic i of an ensemble as ordinary torch layers."""
    layers: list[nn.Module] = []
    for j, (w, b) in enumerate(zip(critics.weights, critics.biases, strict=True)):
        linear = nn.Linear(w.shape[1], w.shape[2])
        linear.weight.data, linear.bias.data = w.data[i].T.clone(), b.data[i, 0].clone()
        layers.append(linear)
        if j < len(critics.weights) - 1:
            if critics.layer_norm:
                layers.append(nn.LayerNorm(w.shape[2]))
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class NaiveSAC:
    """Algorithm 1 of Chen 2021 as printed, with torch.distributions and unfused optimisers."""

    def __init__(self, nets: SimpleNamespace, settings: SACSettings, seed: int) -> None:
        self.s = settings
        self.actor = copy.deepcopy(nets.actor)
        self.critics = [member(nets.critics, i) for i in range(settings.n_critics)]
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = nn.Parameter(nets.log_alpha.detach().clone())
        parameters = [p for c in self.critics for p in c.parameters()]
        self.critic_adam = torch.optim.Adam(parameters, lr=settings.critic_lr)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=settings.actor_lr)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=settings.alpha_lr)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = 0

    def policy(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.actor(states)
        u = mean + log_std.exp() * torch.randn(mean.shape, generator=self.generator)
        return torch.tanh(u), log_density(mean, log_std, torch.tanh(u))

    def q(self, critics: list[nn.Sequential], s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.stack([critic(torch.cat((s, a), -1)).squeeze(-1) for critic in critics])

    def step(self, batch: TensorBatch) -> None:
        with torch.no_grad():
            a2, log_prob2 = self.policy(batch.next_observations)
            chosen = self.targets
            if self.s.target_subset < self.s.n_critics:
                order = torch.randperm(self.s.n_critics, generator=self.generator)[: self.s.target_subset]
                chosen = [self.targets[int(i)] for i in order]
            value = self.q(chosen, batch.next_observations, a2).min(0).values
            if self.s.backup_entropy:
                value = value - self.log_alpha.exp() * log_prob2
            y = batch.rewards + self.s.gamma * (1 - batch.terminated) * value
        loss = sum(((q - y) ** 2).mean() for q in self.q(self.critics, batch.observations, batch.actions))
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        self.updates += 1
        if self.updates % self.s.actor_every == 0:
            self.step_actor(batch.observations)
        with torch.no_grad():
            for target, critic in zip(self.targets, self.critics, strict=True):
                for t, p in zip(target.parameters(), critic.parameters(), strict=True):
                    t.copy_((1 - self.s.tau) * t + self.s.tau * p)

    def step_actor(self, states: torch.Tensor) -> None:
        a, log_prob = self.policy(states)
        q = self.q(self.critics, states, a)
        joined = q.min(0).values if self.s.actor_reduce == "min" else q.mean(0)
        self.actor_adam.zero_grad()
        (self.log_alpha.exp().detach() * log_prob - joined).mean().backward()
        self.actor_adam.step()
        self.alpha_adam.zero_grad()
        (-self.log_alpha * (log_prob.detach() - A)).mean().backward()
        self.alpha_adam.step()


def log_density(mean: torch.Tensor, log_std: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    return Independent(squashed, 1).log_prob(actions)


@pytest.mark.parametrize("settings", [SAC, REDQ], ids=["sac", "redq"])
def test_ten_updates_are_those_of_the_naive_algorithm(settings: SACSettings) -> None:
    nets = networks_for(settings)
    naive = NaiveSAC(nets, settings, seed=5)
    generator = torch.Generator().manual_seed(5)
    updater = SACUpdater(nets, SACOptimizers.of(nets, settings), settings, A, generator)
    for batch in batches(10):
        updater.step(batch)
        naive.step(batch)
    states, actions = batches(1)[0].observations, batches(1)[0].actions
    torch.testing.assert_close(
        nets.critics(states, actions), naive.q(naive.critics, states, actions), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(
        nets.target_critics(states, actions), naive.q(naive.targets, states, actions), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(nets.actor(states)[0], naive.actor(states)[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(nets.log_alpha, naive.log_alpha, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(nets.log_alpha, torch.tensor(0.3).log())


def test_a_temperature_that_is_too_high_falls_at_the_learning_rate() -> None:
    """Adam takes steps of its rate where the gradient stays the same, and smaller ones where it shrinks with alpha."""
    log_alpha = nn.Parameter(torch.zeros((), dtype=torch.float64))
    adam = torch.optim.Adam([log_alpha], lr=3e-4)
    for _ in range(3_000):
        adam.zero_grad()
        alpha_loss(log_alpha, torch.full((8,), -4.0, dtype=torch.float64), -3.0).backward()  # an entropy of 4, 3 asked
        adam.step()
    assert log_alpha.exp().item() == pytest.approx(math.exp(-0.9), rel=1e-6)


@pytest.mark.parametrize("settings", [SAC, REDQ], ids=["sac", "redq"])
def test_compiled_updates_are_the_same_bit_for_bit(settings: SACSettings) -> None:
    """By the backend that traces and runs what it traced: what a GPU captures has the same graph."""
    plain, compiled = networks_for(settings), networks_for(settings)
    for nets, s in ((plain, settings), (compiled, replace(settings, compile=True))):
        updater = SACUpdater(nets, SACOptimizers.of(nets, s), s, A, torch.Generator().manual_seed(5))
        results = [updater.step(batch) for batch in batches(4)]
        assert len({float(result.critic_loss) for result in results}) == 4
    for mine, theirs in zip(plain.critics.parameters(), compiled.critics.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(plain.actor(batches(1)[0].observations)[0], compiled.actor(batches(1)[0].observations)[0])


def test_a_reward_shift_is_learned_from_as_if_the_rewards_were_so() -> None:
    settings = replace(SAC, reward_shift=-1.0)
    shifted, plain = networks_for(SAC), networks_for(SAC)
    for nets, s, offset in ((shifted, settings, 0.0), (plain, SAC, -1.0)):
        updater = SACUpdater(nets, SACOptimizers.of(nets, s), s, A, torch.Generator().manual_seed(5))
        for batch in batches(3):
            updater.step(replace(batch, rewards=batch.rewards + offset))
    for mine, theirs in zip(shifted.critics.parameters(), plain.critics.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_redq_takes_the_smaller_of_two_random_critics_and_its_actor_waits() -> None:
    """Chen 2021, algorithm 1: over many targets every pair of critics occurs, and never more than two."""
    settings = replace(SAC, n_critics=4, target_subset=2, actor_reduce="mean", actor_every=5, gamma=0.5)
    settings = replace(settings, backup_entropy=False)
    nets = networks_for(settings)
    for i in range(4):  # critic i says 2^i everywhere: y tells which two were asked
        nets.target_critics.weights[-1].data[i] = 0
        nets.target_critics.biases[-1].data[i] = 2.0**i
    frozen = replace(settings, critic_lr=1e-12, actor_lr=1e-2, tau=1e-9)
    updater = SACUpdater(nets, SACOptimizers.of(nets, frozen), frozen, A, torch.Generator().manual_seed(0))
    before = nets.actor.layers[0].weight.detach().clone()
    (batch,) = batches(1)
    zeros = torch.zeros(B)
    batch = replace(batch, rewards=zeros, terminated=zeros)
    q = nets.critics(batch.observations, batch.actions).detach()
    seen = set()
    for update in range(1, 61):
        error = updater.step(batch).td_error
        seen.add(min((1, 2, 4), key=lambda low: float(((q - low / 2).abs().mean(0) - error).abs().max())))
        moved = not torch.equal(before, nets.actor.layers[0].weight)
        assert moved == (update >= 5)
    assert seen == {1, 2, 4}  # the smaller of two; 8 would need both to be the largest


def test_td_errors_are_those_of_the_rows_before_the_update() -> None:
    settings = replace(SAC, gamma=0.0)  # the target is the reward alone
    nets = networks_for(settings)
    batch = batches(1)[0]
    expected = (nets.critics(batch.observations, batch.actions).detach() - batch.rewards).abs().mean(0)
    updater = SACUpdater(nets, SACOptimizers.of(nets, settings), settings, A, torch.Generator())
    torch.testing.assert_close(updater.step(batch).td_error, expected)


def test_critics_without_a_subset_are_all_used_and_a_subset_picks_whole_critics() -> None:
    critics = networks_for(REDQ).critics
    s, a = batches(1)[0].observations, batches(1)[0].actions
    every = critics(s, a)
    assert every.shape == (5, B)
    torch.testing.assert_close(critics(s, a, torch.tensor([3, 1])), every[[3, 1]])


def test_log_probability_of_a_squashed_gaussian_agrees_with_torch() -> None:
    g = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(100, A, generator=g, dtype=torch.float64) for _ in range(3))
    actions, log_prob = squash(mean, log_std * 0.3, noise)
    torch.testing.assert_close(log_prob, log_density(mean, log_std * 0.3, actions), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("utd", "steps", "done", "due"), [(1.0, 1_000, 0, 0), (1.0, 1_050, 0, 50), (0.5, 1_051, 20, 5), (20, 1_001, 0, 20)]
)
def test_updates_owed_follow_utd_after_learning_starts(utd: float, steps: int, done: int, due: int) -> None:
    assert SACSettings(utd=utd, learning_starts=1_000).updates_due(steps, done) == due


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"n_critics": 2, "target_subset": 3}, "target_subset=3"),
        ({"utd": 0}, "utd must be above 0"),
        ({"tau": 0}, "tau must lie"),
        ({"actor_reduce": "max"}, "actor_reduce"),
        ({"hidden_sizes": ()}, "hidden_sizes"),
        ({"learning_starts": -1}, "learning_starts"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SACSettings(**wrong)
