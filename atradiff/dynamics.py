"""The learned one-step model: an ensemble that maps (s, a) to s', reward and terminal, trained beside the diffuser.

Reward and terminal are read from (s, a, s'), since a goal or a fall is a property of where the step leads. Rewards of
terminal rows have a head of their own: a single rare +100 needs no compromise with the -0.1 of all other rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.config import DiffuserConfig, require
from atradiff.data.normalize import RowCodec, inverse
from atradiff.data.tasks import TaskRows
from atradiff.linearised import Linearised
from atradiff.seen_range import SeenRange
from atradiff.types import FloatArray, Transitions


class BatchedMLP(nn.Module):
    """M independent MLPs of the given layer sizes as batched matrix products: (M, B, in) to (M, B, out)."""

    def __init__(self, models: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [_uniform((models, i, o), i) for i, o in pairwise(sizes)],
        )
        self.biases = nn.ParameterList([_uniform((models, 1, o), i) for i, o in pairwise(sizes)])

    def forward(self, x: Tensor) -> Tensor:
        """Under autocast only the inner layers run in bfloat16: eight bits are too few for states and differences."""
        first, *inner, last = zip(self.weights, self.biases, strict=True)
        with torch.autocast(x.device.type, enabled=False):
            x = F.silu(torch.baddbmm(first[1], x, first[0]))
        for weight, bias in inner:
            x = F.silu(torch.baddbmm(bias, x, weight))
        with torch.autocast(x.device.type, enabled=False):
            return last[1] + _narrow_product(x.float(), last[0])


def _narrow_product(x: Tensor, weight: Tensor) -> Tensor:
    """(M, B, in) times (M, in, out), padded to sixteen columns: for 3 or 11 of them a CPU takes two or three times as
    long.
    """
    out = weight.shape[-1]
    return torch.bmm(x, F.pad(weight, (0, -out % 16)))[..., :out]


def _uniform(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


@dataclass(frozen=True)
class StepBatch:
    """Rows of the one-step model in its own units; a leading axis of M gives each member its own draw."""

    states: Tensor  # (M, B, S) standardised
    actions: Tensor  # (M, B, A) encoded
    deltas: Tensor  # (M, B, S) in units of the differences' scale
    rewards: Tensor  # (M, B) standardised by the row's kind
    terminated: Tensor  # (M, B) bool
    tasks: Tensor | None = None  # (M, B, T)


@dataclass(frozen=True)
class StepPrediction:
    """What the ensemble expects of B steps, in environment units."""

    deltas: Tensor  # (B, S) s' - s
    rewards: Tensor  # (B,)
    terminated: Tensor  # (B,) bool
    disagreement: (
        Tensor  # (B,) root mean square over columns of the members' spread, in units of the differences' scale
    )


@dataclass(frozen=True)
class Moves:
    """Where the ensemble expects B steps to lead."""

    scaled: Tensor  # (B, S) s' - s in units of the differences' scale
    deltas: Tensor  # (B, S) s' - s
    disagreement: Tensor  # (B,) as in StepPrediction


class DynamicsEnsemble(nn.Module):
    """M members, each a transition net and an outcome net. Holds the scales it was made with as buffers."""

    state_mean: Tensor
    state_inverse: Tensor
    delta_scale: Tensor
    delta_inverse: Tensor
    drift: Tensor
    delta_to_state: Tensor
    action_mean: Tensor
    action_inverse: Tensor
    reward_mean: Tensor
    reward_scale: Tensor

    def __init__(self, codec: RowCodec, models: int, width: int, task_size: int = 0) -> None:
        super().__init__()
        self.spaces, self.models = codec.spaces, models
        self.moving = max(int((codec.normalizer.delta_scale > 0).sum()), 1)
        for name, value in _buffers(codec).items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)
        self.seen = SeenRange(codec.normalizer)
        state, action = codec.spaces.observation_size, codec.spaces.action_size
        self.transition = BatchedMLP(models, (state + action + task_size, width, width, width, state))
        self.outcome = BatchedMLP(models, (3 * state + action + task_size, width, width, 3))

    @classmethod
    def of(cls, config: DiffuserConfig, codec: RowCodec) -> DynamicsEnsemble:
        """As a fit makes it: ``dynamics_width`` must be set by now."""
        require(config.dynamics_width is not None, "dynamics_width", None, "must be set by now")
        return cls(codec, config.dynamics_models, config.dynamics_width or 0, config.task_size)

    def encode_states(self, states: Tensor) -> Tensor:
        """(B, S) standardised as :meth:`Normalizer.states` does it, clipped to 10 scales."""
        return ((states - self.state_mean) * self.state_inverse).clamp(-10, 10)

    def encode_actions(self, actions: Tensor) -> Tensor:
        """(..., A) from environment units, or from integers (...)."""
        if self.spaces.discrete:
            return F.one_hot(actions, self.spaces.n_actions).float() * 2 - 1
        return (actions - self.action_mean) * self.action_inverse

    def loss(self, batch: StepBatch) -> Tensor:
        """Squared error of differences and rewards plus cross-entropy of the terminal, averaged over members."""
        predicted = self.transition(_joined(batch.states, batch.actions, batch.tasks))
        outcome = self.outcome(self._outcome_input(batch.states, batch.actions, batch.deltas, batch.tasks))
        reward = torch.where(batch.terminated, outcome[..., 2], outcome[..., 1])
        return (
            F.mse_loss(predicted, batch.deltas)
            + F.mse_loss(reward, batch.rewards)
            + F.binary_cross_entropy_with_logits(outcome[..., 0], batch.terminated.float())
        )

    def predict(self, states: Tensor, actions: Tensor, tasks: Tensor | None = None) -> StepPrediction:
        """One step of the ensemble's mean from ``states`` (B, S) under ``actions`` (B, A) or (B,).

        ``tasks`` (B, T) where the model was made for tasks.
        """
        moves = self.move(states, actions, tasks)
        rewards, terminated = self.outcomes(states, actions, moves.scaled, tasks)
        return StepPrediction(moves.deltas, rewards, terminated, moves.disagreement)

    @torch.inference_mode()
    def move(self, states: Tensor, actions: Tensor, tasks: Tensor | None = None) -> Moves:
        """The first half of :meth:`predict`: the next states alone."""
        members = self._members(self.encode_states(states), self.encode_actions(actions), tasks)
        mean = members.mean(0)
        spread = (members - mean).square().sum((0, 2)) / (self.models * self.moving)
        return Moves(mean, mean * self.delta_scale + self.drift, spread.sqrt())

    @torch.inference_mode()
    def outcomes(
        self, states: Tensor, actions: Tensor, scaled: Tensor, tasks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The second half: rewards (B,) and terminated (B,), of moves by ``scaled`` (B, S)."""
        inputs = self._outcome_input(self.encode_states(states), self.encode_actions(actions), scaled, tasks)
        outcome = self.outcome(self._for_all(inputs)).mean(0)
        # A net that saw a hundred ends misses most of those that it did not see; bounds on states do not (a fall).
        following = states + scaled * self.delta_scale + self.drift
        terminated = self.seen.ends(following) if self.seen.tells_ends else outcome[:, 0] > 0
        kind = terminated.long()
        rewards = outcome[:, 1:].gather(1, kind[:, None])[:, 0] * self.reward_scale[kind] + self.reward_mean[kind]
        return self.seen.crisp(rewards), terminated

    @torch.inference_mode()
    def residual(self, states: Tensor, actions: Tensor, next_states: Tensor, tasks: Tensor | None = None) -> Tensor:
        """(B,) how far s' lies from the ensemble's mean: root mean square over the moving columns, in their scale."""
        expected = self._members(self.encode_states(states), self.encode_actions(actions), tasks).mean(0)
        gap = (next_states - states) * self.delta_inverse - expected
        return (gap.square().sum(-1) / self.moving).sqrt()

    def linearised(self, member: int, states: Tensor, actions: Tensor, tasks: Tensor | None = None) -> Linearised:
        """What one member expects of moves, in the differences' scale, and its derivative.

        From ``states`` (..., S), encoded ``actions`` (..., A) and ``tasks`` (..., T), with respect to all three as they
        are encoded. Columns that never move are for the caller to leave out.
        """
        net = self.transition
        weights, biases = ([x[member] for x in part] for part in (net.weights, net.biases))
        return Linearised(weights, biases, _joined(self.encode_states(states), actions, tasks))

    def leaves_data(self, states: Tensor) -> Tensor:
        """(B,) true where a state lies beyond the seen range by more than half its width in some column."""
        low, high = self.seen.reach()
        return ((states < low) | (states > high)).any(-1)

    def batch(
        self, transitions: Transitions, size: int, rng: np.random.Generator, tasks: TaskRows | None = None
    ) -> StepBatch:
        """``size`` rows for each member, drawn independently: what differs between members is all disagreement has."""
        drawn = rng.integers(len(transitions), size=(self.models, size))
        rows = transitions[drawn]
        columns = {name: torch.as_tensor(column, device=self.state_mean.device) for name, column in rows.items()}
        kind = columns["terminated"].long()
        return StepBatch(
            states=self.encode_states(columns["observations"]),
            actions=self.encode_actions(columns["actions"]),
            deltas=(columns["next_observations"] - columns["observations"]) * self.delta_inverse,
            rewards=(columns["rewards"] - self.reward_mean[kind]) / self.reward_scale[kind],
            terminated=columns["terminated"],
            tasks=None if tasks is None else torch.as_tensor(tasks[drawn], device=self.state_mean.device),
        )

    def update(
        self,
        transitions: Transitions,
        steps: int,
        *,
        seed: int,
        batch: int = 256,
        rate: float = 3e-4,
        tasks: TaskRows | None = None,
    ) -> float:
        """Train on ``transitions``, say an agent's newest, for ``steps`` updates; returns the mean loss."""
        rng, optimizer = np.random.default_rng(seed), torch.optim.Adam(self.parameters(), lr=rate)
        total = 0.0
        for _ in range(steps):
            loss = self.loss(self.batch(transitions, batch, rng, tasks))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / max(steps, 1)

    def _members(self, states: Tensor, actions: Tensor, tasks: Tensor | None) -> Tensor:
        """(M, B, S) differences in their own scale, from encoded states and actions."""
        return self.transition(self._for_all(_joined(states, actions, tasks))) * (self.delta_scale > 0)

    def _for_all(self, inputs: Tensor) -> Tensor:
        return inputs.expand(self.models, *inputs.shape)

    def _outcome_input(self, states: Tensor, actions: Tensor, deltas: Tensor, tasks: Tensor | None) -> Tensor:
        return _joined(states, actions, deltas, states + deltas * self.delta_to_state, tasks)


def _joined(*parts: Tensor | None) -> Tensor:
    return torch.cat([part for part in parts if part is not None], dim=-1)


def _buffers(codec: RowCodec) -> dict[str, FloatArray]:
    n = codec.normalizer
    return {
        "state_mean": n.state_mean,
        "state_inverse": inverse(n.state_scale),
        "delta_scale": n.delta_scale,
        "delta_inverse": inverse(n.delta_scale),
        "drift": np.where(n.delta_scale > 0, 0, np.clip(0, n.delta_low, n.delta_high)).astype(np.float32),
        "delta_to_state": codec.delta_to_state,
        "action_mean": n.action_mean,
        "action_inverse": inverse(n.action_scale),
        "reward_mean": n.reward_mean,
        "reward_scale": n.reward_scale,
    }
