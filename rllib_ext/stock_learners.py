"""RLlib's own learners under the callback, in the algorithm's process or remote: how they are asked and how fed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numpy.typing import NDArray
from ray.rllib.connectors.common import NumpyToTensor
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

_Answer = TypeVar("_Answer")


class ColumnEpisode:
    """The learner's columns (B, ...), in the list where RLlib expects episodes; B steps long for its counters."""

    def __init__(self, columns: dict[str, NDArray[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[Columns.REWARDS])


class ColumnsToBatch(ConnectorV2):
    """Makes the columns of the one :class:`ColumnEpisode` the batch of the one module."""

    def __call__(self, *, batch: dict[str, Any], episodes: list[ColumnEpisode], **_: Any) -> dict[str, Any]:
        (episode,) = episodes
        batch[DEFAULT_MODULE_ID] = episode.columns
        return batch


def ask_learners(group: LearnerGroup, question: Callable[[Any], _Answer]) -> list[_Answer]:
    """What ``question`` returns for each learner, in its process, in their order; raises what one of them raised."""
    answers: list[_Answer] = group._get_results(group.foreach_learner(question))
    return answers


def feed_columns(group: LearnerGroup) -> None:
    """Make ``group.update`` take a :class:`ColumnEpisode` in place of episodes."""
    if group.is_local:
        _feed_by_connector(group._learner)
    else:
        _feed_by_batch(group)


def _feed_by_connector(learner: Learner) -> None:
    """The pieces that take episodes apart are removed; the one that makes tensors on the learner's device stays."""
    pipeline = learner._learner_connector
    to_tensors = [piece for piece in pipeline.connectors if isinstance(piece, NumpyToTensor)]
    pipeline.connectors[:] = [ColumnsToBatch(), *to_tensors]


def _feed_by_batch(group: LearnerGroup) -> None:
    """RLlib cuts a list of episodes by their steps for its learners; a batch is cut by rows and passes no connector."""
    update = group.update

    def update_from_columns(*, episodes: list[ColumnEpisode], **options: Any) -> list[dict[str, Any]]:
        """RLlib's update on the one batch of columns that stands in for episodes."""
        (episode,) = episodes
        batch = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(episode.columns)}, env_steps=len(episode))
        results: list[dict[str, Any]] = update(batch=batch, **options)
        return results

    group.update = update_from_columns
