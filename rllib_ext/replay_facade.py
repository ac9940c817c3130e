"""RLlib's replay buffer interface over an :class:`atradiff.ports.ReplayService`, and columns straight to the learner.

RLlib hands a buffer ``list[SingleAgentEpisode]`` and wants as many back as the batch has rows, to take them apart again
in its learner connectors. Both ends are ours, so a batch travels as columns in the place of one long episode::

    env runner -> add(episodes) -> columns -> ReplayService.store, .serve
    local learner <- NumpyToTensor <- ColumnsToBatch <- [ColumnEpisode] <- sample() <- ReplayService.sample
    remote learners <- MultiAgentBatch, cut by rows  <- [ColumnEpisode] <- sample() <- ReplayService.sample
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.replay_buffers import PrioritizedEpisodeReplayBuffer

from atradiff.ports import ReplayService
from atradiff.replay.batch import ReplayBatch
from atradiff.types import BoolArray, FloatArray, IntArray, Spaces
from rllib_ext.columns import RowSender
from rllib_ext.stock_learners import ColumnEpisode

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredRows:
    """The absolute TD errors (B,) of the rows of the last update; ids are those of each row's own ring."""

    row_ids: IntArray  # (B,)
    synthetic: BoolArray  # (B,)
    td_errors: FloatArray  # (B,)


def learner_columns(rows: ReplayBatch) -> dict[str, NDArray[Any]]:
    """The columns that RLlib's off-policy losses read, all weights 1 (uniform sampling) and one-step returns."""
    t = rows.transitions
    return {
        Columns.OBS: t.observations,
        Columns.ACTIONS: t.actions,
        Columns.REWARDS: t.rewards,
        Columns.NEXT_OBS: t.next_observations,
        Columns.TERMINATEDS: t.terminated,
        Columns.TRUNCATEDS: t.truncated,
        "weights": np.ones(len(t), np.float32),
        "n_step": np.ones(len(t), np.float32),
    }


class ReplayFacade(PrioritizedEpisodeReplayBuffer):
    """What ``algorithm.local_replay_buffer`` becomes under :class:`rllib_ext.callback.ATraDiffCallback`.

    A subclass only so that RLlib returns the TD errors: it calls ``update_priorities`` for this class alone. Its
    ``__init__`` is not called and none of its storage exists; sampling is uniform within each ring.
    """

    def __init__(self, service: ReplayService, spaces: Spaces, capacity: int) -> None:
        self.service = service
        self.capacity = capacity
        self.scored: ScoredRows | None = None
        self._sender = RowSender(spaces)
        self._last_sample: ReplayBatch | None = None

    def __len__(self) -> int:
        """Real rows held; synthetic rows are extra."""
        return min(self.service.env_steps, self.capacity)

    def get_num_timesteps(self, *_: Any, **__: Any) -> int:
        return len(self)

    def add(self, episodes: list[SingleAgentEpisode] | SingleAgentEpisode, weight: float | None = None) -> None:  # noqa: ARG002
        """Store the rows of these episode chunks and answer the generation requests that are due.

        No rows at all (RLlib restarts env runners that fail or time out, and goes on) are told of and passed over.
        """
        chunk = self._sender.chunk(episodes if isinstance(episodes, list) else [episodes])
        if chunk is None:
            _logger.warning("The env runners returned no steps: see above for failed or slow ones.")
            return
        self.service.store(chunk)
        self.service.serve()

    def sample(self, num_items: int, *, n_step: int = 1, **_: Any) -> list[ColumnEpisode]:
        """``num_items`` rows for the learner, real and synthetic mixed; ``n_step`` must be 1."""
        if n_step != 1:
            raise ValueError(f"the ATraDiff replay gives one-step rows, n_step={n_step} was asked for.")
        (self._last_sample,) = self.service.sample(1, num_items)
        return [ColumnEpisode(learner_columns(self._last_sample))]

    def update_priorities(self, priorities: NDArray[Any], module_id: str | None = None) -> None:  # noqa: ARG002
        """Report the TD errors (B,) of the last sample, in its order, and keep them in :attr:`scored`."""
        sample = self._last_sample
        if sample is None or len(priorities) != len(sample.row_ids):
            rows = 0 if sample is None else len(sample.row_ids)
            raise ValueError(f"{len(priorities)} TD errors came back for a sample of {rows} rows.")
        td_errors = np.abs(np.asarray(priorities, np.float32))
        self.scored = ScoredRows(sample.row_ids, sample.synthetic, td_errors)
        self.service.report_td_errors([sample], td_errors[None])

    def get_metrics(self) -> dict[str, Any]:
        """Nothing: RLlib asks after every update, the callback puts the service's metrics into each result once."""
        return {}
