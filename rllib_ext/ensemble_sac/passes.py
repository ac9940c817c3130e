"""The two forward passes of an update as plain functions of tensors, so that they can be compiled and captured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atradiff.diffusion.captured import captured
from rllib_ext.ensemble_sac.losses import actor_loss, critic_loss, soft_target
from rllib_ext.ensemble_sac.networks import CriticEnsemble, GaussianActor, squash
from rllib_ext.ensemble_sac.settings import SACSettings


class Passes:
    """Losses from batches, noise and weights; draws nothing and changes nothing.

    With ``settings.compile`` each is one graph: on a GPU a CUDA graph, forward and backward, so that an update costs a
    few launches rather than hundreds. Results are overwritten by the next update: what is kept is to be copied.
    """

    def __init__(
        self, actor: GaussianActor, critics: CriticEnsemble, targets: CriticEnsemble, settings: SACSettings
    ) -> None:
        self._actor, self._critics, self._targets, self._settings = actor, critics, targets, settings
        self._captured = settings.compile
        self.critics: Callable[..., tuple[Tensor, Tensor, Tensor]] = self._critic_pass
        self.actor: Callable[..., tuple[Tensor, Tensor]] = self._actor_pass
        if settings.compile:
            device = next(critics.parameters()).device
            self.critics, self.actor = captured(self._critic_pass, device), captured(self._actor_pass, device)

    def begin(self) -> None:
        """To be called before each update: the results of the last one may be overwritten from now on."""
        if self._captured:
            torch.compiler.cudagraph_mark_step_begin()

    def _critic_pass(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        next_observations: Tensor,
        terminated: Tensor,
        noise: Tensor,
        members: Tensor | None,
        log_alpha: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Columns of a batch, noise (B, A) of a' and the target critics (M,) in use -> Q (N, B), y (B,), loss ()."""
        with torch.no_grad():
            mean, log_std = self._actor(next_observations)
            next_actions, next_log_prob = squash(mean, log_std, noise)
            next_q = self._targets(next_observations, next_actions, members)
            s = self._settings
            shifted = rewards + s.reward_shift if s.reward_shift else rewards
            alpha = log_alpha.exp()
            target = soft_target(shifted, terminated, next_q, next_log_prob, alpha, s.gamma, s.backup_entropy)
        q = self._critics(observations, actions)
        return q, target, critic_loss(q, target)

    def _actor_pass(self, observations: Tensor, noise: Tensor, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (B, S) and noise (B, A) -> loss (), log probabilities (B,)."""
        mean, log_std = self._actor(observations)
        actions, log_prob = squash(mean, log_std, noise)
        q = self._critics(observations, actions)
        return actor_loss(q, log_prob, log_alpha.exp().detach(), self._settings.actor_reduce), log_prob
