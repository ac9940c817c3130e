"""One transformer for windows of all lengths: a token per row, adaptive layer norm from the condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atradiff.config import Rows
from atradiff.diffusion.conditioning import Condition, ConditionEncoder
from atradiff.diffusion.expected_moves import ExpectedMoves
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.two_heads import HeadMerge


class Block(nn.Module):
    """Self-attention and a feed-forward net, modulated and gated by the condition (adaLN-Zero, Peebles & Xie 2023)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, modulation: Tensor, mask: Tensor | None) -> Tensor:
        """``x`` (B, K, W), ``modulation`` (B, 1, 6 W), ``mask`` (B, 1, K) is added to the scores."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        x = torch.addcmul(x, gate_a, self._attend(modulated(x, shift_a, scale_a), mask))
        return torch.addcmul(x, gate_f, self.down(F.gelu(self.up(modulated(x, shift_f, scale_f)))))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Written out: at 5-25 tokens torch's fused kernel is ten times slower on a CPU, in the backward pass."""
        batch, length, width = x.shape
        size = width // self.heads
        parts = self.qkv(x).view(batch, length, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        q, k, v = parts.reshape(3, batch * self.heads, length, size)
        scores = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=size**-0.5).float()
        mask = None if mask is None else mask.repeat_interleave(self.heads, dim=0)
        mixed = torch.bmm(_softmax(scores, mask).to(v.dtype), v).view(batch, self.heads, length, size)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Of ``scores`` + ``mask`` over the last axis; at 5-25 columns torch's own takes up to ten times as long on a CPU.

    Scores are held within 60 of zero in place of taking their maximum off: in float32 no sum is infinite, or zero.
    """
    bounded = scores.clamp(-60, 60)
    weights = (bounded if mask is None else bounded + mask).exp()
    return weights / weights.sum(-1, keepdim=True)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, shifted and scaled by the condition."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


class RowTransformer(RowNetwork):
    """Maps noisy rows (B, K, R) to a prediction of that shape; rows past a window's length are not seen by the others.

    Each token also sees the state its row starts in, as far as the noisy differences before it tell: s_1 plus their
    running sum. Without it the net would have to add up rows by attention before it could apply the dynamics. Where
    ``rows`` are absolute, that state is the row before, or s_1; where they are both, what both heads tell together.
    """

    delta_to_state: Tensor

    def __init__(
        self,
        row_size: int,
        state_columns: slice,
        delta_to_state: Tensor,
        longest: int,
        width: int,
        depth: int,
        heads: int,
        task_size: int = 0,
        *,
        rows: Rows = "differences",
        moves: ExpectedMoves | None = None,
    ) -> None:
        super().__init__()
        state_size = len(delta_to_state)
        self.row_size, self.state_columns, self.rows = row_size, state_columns, rows
        self.register_buffer("delta_to_state", delta_to_state)
        self.merge = HeadMerge(delta_to_state, longest) if rows == "both" else None
        self.moves = moves
        self.encode = ConditionEncoder(state_size, task_size, longest, width)
        self.embed = nn.Linear(row_size + state_size, width)
        self.position = nn.Parameter(0.02 * torch.randn(longest, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.modulate = nn.Linear(width, (6 * depth + 2) * width)
        self.head = nn.Linear(width, row_size)
        for layer in (self.modulate, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """``rows`` (B, K, R), ``noise`` and ``step`` (B,); returns (B, K, R)."""
        mask = self._key_mask(condition.lengths, rows.shape[1])
        modulation = self.modulate(self.encode(noise, step, condition))[:, None]
        per_block = modulation[..., : -2 * self.head.in_features].chunk(len(self.blocks), dim=-1)
        x = self._tokens(rows, condition).to(modulation.dtype)
        for block, part in zip(self.blocks, per_block, strict=True):
            x = block(x, part, mask)
        shift, scale = modulation[..., -2 * self.head.in_features :].chunk(2, dim=-1)
        x = modulated(x, shift, scale)
        with torch.autocast(rows.device.type, enabled=False):  # eight bits of mantissa are too few for the output
            return F.linear(x.float(), self.head.weight, self.head.bias)

    def _tokens(self, rows: Tensor, condition: Condition) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            following = self._following(rows, condition)[:, :-1]
            implied = torch.cat([condition.states[:, None], following], dim=1).clamp(-10, 10)
            return self.embed(torch.cat([rows, implied], dim=-1)) + self.position[: rows.shape[1]]

    def _following(self, rows: Tensor, condition: Condition) -> Tensor:
        """(B, K, S) standardised states that ``rows`` (B, K, R) end in, as far as they tell."""
        columns = rows[..., self.state_columns]
        if self.moves is not None:
            columns = self.moves(columns, rows[..., : self.state_columns.start - 1], condition.states)
        if self.rows == "absolute":
            return columns
        if self.merge is not None:
            return condition.states[:, None] + self.merge(columns, condition.lengths)
        return condition.states[:, None] + torch.cumsum(columns * self.delta_to_state, dim=1)

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return [p for p in self.blocks.parameters() if p.ndim == 2]

    @staticmethod
    def _key_mask(lengths: Tensor, length: int) -> Tensor | None:
        if not torch.compiler.is_compiling() and bool((lengths >= length).all()):  # a graph knows shapes alone
            return None
        unseen = torch.arange(length, device=lengths.device) >= lengths[:, None]
        return torch.zeros(unseen.shape, device=lengths.device).masked_fill(unseen, -torch.inf)[:, None]
