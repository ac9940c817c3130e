"""SAC as one would write it by hand for speed, without any framework: the yardstick of ``benchmarks.learner``.

The arithmetic is that of EnsembleSAC with two critics: the same networks, losses, optimisers and update order. It uses
every trick that the project's own update uses (stacked critics, fused Adam, gradients asked for the actor alone,
foreach target update) and none of its code.
"""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 256


class TightSAC:
    """An environment, a replay ring and SAC, stepped together; seeded."""

    def __init__(self, env_id: str, seed: int, capacity: int = 100_000, batch_size: int = 256) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.env = gym.make(env_id)
        self.observation, _ = self.env.reset(seed=seed)
        space = self.env.action_space
        s, a = self.env.observation_space.shape[0], space.shape[0]
        self.center, self.half = (space.high + space.low) / 2, (space.high - space.low) / 2
        self.batch_size, self.capacity, self.size, self.position = batch_size, capacity, 0, 0
        # One row per transition: s, a, r, s', terminated.
        self.ring = np.empty((capacity, 2 * s + a + 2), np.float32)
        self.cuts = (s, a, 1, s, 1)
        self.actor = nn.Sequential(
            nn.Linear(s, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * a)
        )
        self.critics = _stacked_critics(s + a)
        self.targets = [p.detach().clone() for p in self.critics]
        self.log_alpha = torch.zeros((), requires_grad=True)
        self.target_entropy = -float(a)
        self.actor_parameters = list(self.actor.parameters())
        self.actor_adam = torch.optim.Adam(self.actor_parameters, lr=3e-4, fused=True)
        self.critic_adam = torch.optim.Adam(self.critics, lr=3e-4, fused=True)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=3e-4, fused=True)

    def steps(self, n: int, learn: bool) -> None:
        """n environment steps, each with one update if ``learn``, else with random actions."""
        for _ in range(n):
            self._env_step(random=not learn)
            if learn:
                self._update()

    def _env_step(self, random: bool) -> None:
        if random:
            action = self.rng.uniform(-1, 1, self.half.shape).astype(np.float32)
        else:
            with torch.no_grad():
                action = self._policy(torch.as_tensor(self.observation, dtype=torch.float32))[0].numpy()
        nxt, reward, terminated, truncated, _ = self.env.step(self.center + self.half * action)
        row = self.ring[self.position]
        np.concatenate((self.observation, action, [reward], nxt, [terminated]), out=row, casting="same_kind")
        self.position = (self.position + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)
        self.observation = self.env.reset()[0] if terminated or truncated else nxt

    def _policy(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(observations).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        log_prob = log_prob - 2 * (math.log(2) - u - F.softplus(-2 * u))
        return torch.tanh(u), log_prob.sum(-1)

    def _update(self) -> None:
        rows = torch.from_numpy(self.ring[self.rng.integers(self.size, size=self.batch_size)])
        s, a, r, s2, d = rows.split(self.cuts, dim=1)
        with torch.no_grad():
            a2, log_prob2 = self._policy(s2)
            q2 = _q(self.targets, s2, a2).amin(0) - self.log_alpha.exp() * log_prob2
            y = r.squeeze(1) + 0.99 * (1 - d.squeeze(1)) * q2
        loss = (_q(self.critics, s, a) - y).square().mean(-1).sum()
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()

        actions, log_prob = self._policy(s)
        actor_loss = (self.log_alpha.exp().detach() * log_prob - _q(self.critics, s, actions).amin(0)).mean()
        for p, g in zip(self.actor_parameters, torch.autograd.grad(actor_loss, self.actor_parameters), strict=True):
            p.grad = g
        self.actor_adam.step()

        self.alpha_adam.zero_grad()
        (-self.log_alpha * (log_prob.detach() + self.target_entropy).mean()).backward()
        self.alpha_adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.targets, [p.detach() for p in self.critics], 0.005)


def _stacked_critics(width: int) -> list[Tensor]:
    parameters: list[Tensor] = []
    for n_in, n_out in ((width, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)):
        bound = 1 / math.sqrt(n_in)
        parameters.append(torch.empty(2, n_in, n_out).uniform_(-bound, bound).requires_grad_())
        parameters.append(torch.empty(2, 1, n_out).uniform_(-bound, bound).requires_grad_())
    return parameters


def _q(parameters: list[Tensor], s: Tensor, a: Tensor) -> Tensor:
    w0, b0, w1, b1, w2, b2 = parameters
    x = torch.cat((s, a), -1).expand(2, -1, -1)
    x = torch.baddbmm(b0, x, w0).relu_()
    x = torch.baddbmm(b1, x, w1).relu_()
    return torch.baddbmm(b2, x, w2).squeeze(-1)
