"""REDQ as one would write it by hand for speed: the yardstick of ``benchmarks.ensemble``.

The arithmetic is that of EnsembleSAC with REDQ's settings (Chen 2021): ten critics, of which the smaller of two random
ones makes the target, twenty critic updates per env step, then one of the actor against the critics' mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.tight_sac import HIDDEN, TightSAC

CRITICS, SUBSET, UTD = 10, 2, 20


class TightREDQ(TightSAC):
    """:class:`TightSAC` with REDQ's critics and update; an environment step is followed by ``UTD`` updates."""

    def __init__(self, env_id: str, seed: int) -> None:
        super().__init__(env_id, seed)
        width = self.cuts[0] + self.cuts[1]
        self.critics = _stacked(width)
        self.targets = [p.detach().clone() for p in self.critics]
        self.critic_adam = torch.optim.Adam(self.critics, lr=3e-4, fused=True)

    def _update(self) -> None:
        for i in range(1, UTD + 1):
            rows = torch.from_numpy(self.ring[self.rng.integers(self.size, size=self.batch_size)])
            s, a, r, s2, d = rows.split(self.cuts, dim=1)
            self._update_critics(s, a, r, s2, d)
            if i == UTD:
                self._update_actor(s)
            with torch.no_grad():
                torch._foreach_lerp_(self.targets, [p.detach() for p in self.critics], 0.005)

    def _update_critics(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> None:
        with torch.no_grad():
            a2, log_prob2 = self._policy(s2)
            members = torch.randperm(CRITICS)[:SUBSET]
            q2 = _q([p[members] for p in self.targets], s2, a2).amin(0) - self.log_alpha.exp() * log_prob2
            y = r.squeeze(1) + 0.99 * (1 - d.squeeze(1)) * q2
        loss = (_q(self.critics, s, a) - y).square().mean(-1).sum()
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()

    def _update_actor(self, s: Tensor) -> None:
        actions, log_prob = self._policy(s)
        loss = (self.log_alpha.exp().detach() * log_prob - _q(self.critics, s, actions).mean(0)).mean()
        for p, g in zip(self.actor_parameters, torch.autograd.grad(loss, self.actor_parameters), strict=True):
            p.grad = g
        self.actor_adam.step()
        self.alpha_adam.zero_grad()
        (-self.log_alpha * (log_prob.detach() + self.target_entropy).mean()).backward()
        self.alpha_adam.step()


def _stacked(width: int) -> list[Tensor]:
    parameters: list[Tensor] = []
    for n_in, n_out in ((width, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)):
        bound = 1 / math.sqrt(n_in)
        parameters.append(torch.empty(CRITICS, n_in, n_out).uniform_(-bound, bound).requires_grad_())
        parameters.append(torch.empty(CRITICS, 1, n_out).uniform_(-bound, bound).requires_grad_())
    return parameters


def _q(parameters: list[Tensor], s: Tensor, a: Tensor) -> Tensor:
    w0, b0, w1, b1, w2, b2 = parameters
    x = torch.cat((s, a), -1).expand(len(w0), -1, -1)
    x = F.relu(torch.baddbmm(b0, x, w0), inplace=True)
    x = F.relu(torch.baddbmm(b1, x, w1), inplace=True)
    return torch.baddbmm(b2, x, w2).squeeze(-1)
