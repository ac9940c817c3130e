"""One gradient step of the ensemble SAC in plain torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rllib_ext.ensemble_sac.losses import alpha_loss
from rllib_ext.ensemble_sac.networks import CriticEnsemble, GaussianActor
from rllib_ext.ensemble_sac.passes import Passes
from rllib_ext.ensemble_sac.settings import SACSettings
from rllib_ext.ensemble_sac.share import WHOLE, Share


class SACNetworks(Protocol):
    """What is trained; RLlib's module holds exactly this."""

    actor: GaussianActor
    critics: CriticEnsemble
    target_critics: CriticEnsemble
    log_alpha: nn.Parameter


@dataclass(frozen=True)
class SACOptimizers:
    """One Adam each for actor, critics and alpha."""

    actor: torch.optim.Optimizer
    critics: torch.optim.Optimizer
    alpha: torch.optim.Optimizer

    @classmethod
    def of(cls, networks: SACNetworks, settings: SACSettings) -> SACOptimizers:
        """New ones, with the learning rates of ``settings``; target critics have none."""
        return cls(
            actor=_adam(networks.actor.parameters(), settings.actor_lr),
            critics=_adam(networks.critics.parameters(), settings.critic_lr),
            alpha=_adam([networks.log_alpha], settings.alpha_lr),
        )


@dataclass(frozen=True)
class TensorBatch:
    """B transitions on the learner's device; actions in [-1, 1], ``terminated`` is 0.0 or 1.0."""

    observations: Tensor  # (B, S)
    actions: Tensor  # (B, A)
    rewards: Tensor  # (B,)
    next_observations: Tensor  # (B, S)
    terminated: Tensor  # (B,)


@dataclass(frozen=True)
class StepResult:
    """Detached results; ``actor_loss`` and ``log_prob`` are None where the actor did not learn."""

    critic_loss: Tensor
    q_mean: Tensor
    td_error: Tensor  # (B,): |Q - y|, mean over the critics
    actor_loss: Tensor | None
    log_prob: Tensor | None


class SACUpdater:
    """Critics, then actor and alpha, then target critics: the order of Haarnoja 2018, algorithm 1.

    All noise comes from ``generator``, so that the generator's state and the weights determine what follows. With a
    ``share`` of less than the whole, batches are that part of each batch, and the other learners have the other parts.
    """

    def __init__(
        self,
        networks: SACNetworks,
        optimizers: SACOptimizers,
        settings: SACSettings,
        action_size: int,
        generator: torch.Generator,
        share: Share = WHOLE,
    ) -> None:
        self._share = share
        self._nets = networks
        self._optimizers = optimizers
        self._settings = settings
        self.generator = generator
        self.updates = 0
        self._action_size = action_size
        self._target_entropy = -float(action_size) if settings.target_entropy is None else settings.target_entropy
        self._passes = Passes(networks.actor, networks.critics, networks.target_critics, settings)
        self._actor_parameters = list(networks.actor.parameters())
        self._critic_parameters: list[Tensor] = list(networks.critics.parameters())
        self._target_parameters: list[Tensor] = list(networks.target_critics.parameters())

    def step(self, batch: TensorBatch) -> StepResult:
        """Learn from one batch."""
        self._passes.begin()
        q, target, loss = self._step_critics(batch)
        self.updates += 1
        actor_value, log_prob = None, None
        if self.updates % self._settings.actor_every == 0:
            actor_value, log_prob = self._step_actor(batch.observations)
        with torch.no_grad():
            torch._foreach_lerp_(self._target_parameters, self._critic_parameters, self._settings.tau)
            q = q.detach()
            return StepResult(loss.detach().clone(), q.mean(), (q - target).abs_().mean(0), actor_value, log_prob)

    def _step_critics(self, batch: TensorBatch) -> tuple[Tensor, Tensor, Tensor]:
        noise = self._noise(batch.next_observations)
        q, target, loss = self._passes.critics(
            batch.observations,
            batch.actions,
            batch.rewards,
            batch.next_observations,
            batch.terminated,
            noise,
            self._draw_subset(),
            self._nets.log_alpha,
        )
        self._optimizers.critics.zero_grad()
        loss.backward()
        self._share.average(parameter.grad for parameter in self._critic_parameters)
        self._optimizers.critics.step()
        return q, target, loss

    def _noise(self, observations: Tensor) -> Tensor:
        """(B, A), of the policy's actions in ``observations`` (B, S)."""
        return self._share.normal(torch.Size((len(observations), self._action_size)), self.generator)

    def _draw_subset(self) -> Tensor | None:
        n, m = self._settings.n_critics, self._settings.target_subset
        if m == n:
            return None
        return torch.randperm(n, generator=self.generator, device=self.generator.device)[:m]

    def _step_actor(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        loss, log_prob = self._passes.actor(observations, self._noise(observations), self._nets.log_alpha)
        # Asking for the actor's gradients alone spares those of the critics' weights.
        gradients = torch.autograd.grad(loss, self._actor_parameters)
        for parameter, gradient in zip(self._actor_parameters, gradients, strict=True):
            parameter.grad = gradient
        self._share.average(gradients)
        self._optimizers.actor.step()

        self._optimizers.alpha.zero_grad()
        alpha_loss(self._nets.log_alpha, log_prob, self._target_entropy).backward()
        self._share.average([self._nets.log_alpha.grad])
        self._optimizers.alpha.step()
        return loss.detach().clone(), log_prob.detach().mean()


def _adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)
