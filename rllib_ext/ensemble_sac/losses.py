"""The three losses of SAC with a critic ensemble, as the papers write them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor


def soft_target(
    rewards: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    next_log_prob: Tensor,
    alpha: Tensor,
    gamma: float,
    entropy: bool,
) -> Tensor:
    """y = r + gamma (1 - d) (min_{i in M} Q_i(s', a') - alpha log pi(a'|s')) (Chen 2021, algorithm 1, line 7).

    ``next_q`` is (M, B), the others (B,). Truncated rows bootstrap: only ``terminated`` is masked. ``entropy=False``
    leaves the entropy term out of the target (Ball 2023, section 4.4).
    """
    value = next_q.amin(0)
    if entropy:
        value = value - alpha * next_log_prob
    return rewards + gamma * (1 - terminated) * value


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Sum over the N critics of the mean squared Bellman error (Haarnoja 2018, eq. 5); (N, B), (B,) -> ()."""
    return (q - target).square().mean(-1).sum()


def actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor, reduce: Literal["min", "mean"]) -> Tensor:
    """E[alpha log pi(a|s) - Q(s, a)] (Haarnoja 2018, eq. 7); Q is the critics' minimum, or their mean as in REDQ."""
    joined = q.amin(0) if reduce == "min" else q.mean(0)
    return (alpha * log_prob - joined).mean()


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-log alpha E[log pi(a|s) + H] in place of E[-alpha (log pi(a|s) + H)] (Haarnoja 2018b, eq. 18).

    Both push alpha the same way. But the gradient of the paper's in log alpha is alpha times this one, and Adam divides
    a gradient by its own past size, so that there a falling alpha slows its own fall.
    """
    return -(log_alpha * (log_prob.detach() + target_entropy).mean())
