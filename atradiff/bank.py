"""The diffuser's network as its configuration says: one for all lengths, or the paper's bank (ATraDiff, section 4.1).

The bank is one module: it is fitted within one budget, lies in one model folder, and answers like a single network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from atradiff.config import DiffuserConfig, require
from atradiff.data.normalize import RowCodec
from atradiff.diffusion.conditioning import Condition
from atradiff.diffusion.guided import SCORE_FEATURES, ScoreConditioned
from atradiff.diffusion.history import HistoryConditioned
from atradiff.diffusion.network import RowNetwork
from atradiff.diffusion.residual_mlp import ResidualMLP
from atradiff.diffusion.transformer import RowTransformer


class NetworkBank(RowNetwork):
    """M networks of fixed length K; each window goes to the one of its own length."""

    def __init__(self, members: Mapping[int, RowNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleDict({str(length): network for length, network in members.items()})
        self.row_size = next(iter(members.values())).row_size

    def forward(self, rows: Tensor, noise: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """See :class:`RowNetwork`; raises ``KeyError`` for a window whose length no member has."""
        lengths = condition.lengths.unique().tolist()
        if lengths == [rows.shape[1]]:  # in training always, in sampling mostly
            return self._member(lengths[0])(rows, noise, step, condition)
        out = torch.zeros_like(rows)
        for length in lengths:
            which = condition.lengths == length
            part = rows[which, :length], noise[which], step[which], condition[which]
            out[which, :length] = self._member(length)(*part)
        return out

    def _member(self, length: int) -> RowNetwork:
        return cast(RowNetwork, self.members[str(length)])

    def matrices(self) -> list[nn.Parameter]:
        """See :class:`RowNetwork`."""
        return [p for length in self.members for p in self._member(int(length)).matrices()]


def diffuser_network(config: DiffuserConfig, codec: RowCodec) -> RowNetwork:
    """A network with fresh weights for the rows of ``codec``; ``width`` and ``depth`` must be set by now."""
    if config.guide != "none":
        told = replace(config, guide="none", task_size=config.task_size + SCORE_FEATURES)
        return ScoreConditioned(diffuser_network(told, codec))
    if config.history:
        width = config.width or 0
        told = replace(config, history=0, task_size=config.task_size + width)
        size = codec.spaces.observation_size
        return HistoryConditioned(diffuser_network(told, codec), config.history, size, width)
    if config.generator == "one":
        return _network(config, codec, config.longest)
    return NetworkBank({length: _network(config, codec, length) for length in config.lengths})


def _network(config: DiffuserConfig, codec: RowCodec, longest: int) -> RowNetwork:
    require(config.width is not None and config.depth is not None, "width and depth", None, "must be set by now")
    width, depth, state_size = config.width or 0, config.depth or 0, codec.spaces.observation_size
    if config.network == "residual_mlp":
        return ResidualMLP(codec.row_size, state_size, longest, width, depth, config.task_size)
    return RowTransformer(
        codec.row_size,
        codec.state_columns,
        torch.from_numpy(codec.delta_to_state),
        longest,
        width,
        depth,
        config.heads,
        config.task_size,
        rows=codec.kind,
        moves=codec.moves(),
    )
