"""Between RLlib's episodes and the project's columns."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from atradiff.ports import EpisodeRows
from atradiff.types import ActionArray, FloatArray, Spaces, Transitions

if TYPE_CHECKING:
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode


@dataclass(frozen=True)
class ActionScale:
    """Episodes hold actions before RLlib un-normalises them: [-1, 1] under ``normalize_actions``, else the env's own.

    ``low`` and ``high`` are None where both scales are the same (discrete or unbounded actions, no normalising).
    """

    low: FloatArray | None = None
    high: FloatArray | None = None

    @classmethod
    def of(cls, spaces: Spaces, normalize_actions: bool) -> ActionScale:
        """The scale of RLlib's episodes in an environment of these spaces."""
        low, high = np.array(spaces.action_low, np.float32), np.array(spaces.action_high, np.float32)
        if spaces.discrete or not normalize_actions or not np.all(np.isfinite([low, high])):
            return cls()
        return cls(low, high)

    def to_learner(self, rows: Transitions) -> Transitions:
        """Rows in the environment's action scale, as the learner's replay holds them."""
        return replace(rows, actions=self.actions_to_learner(rows.actions))

    def rows_to_environment(self, rows: Transitions) -> Transitions:
        """Rows of the learner's replay, in the environment's action scale."""
        return replace(rows, actions=self.to_environment(rows.actions))

    def actions_to_learner(self, actions: ActionArray) -> ActionArray:
        """The environment's actions (N, A), in the scale of RLlib's episodes."""
        if self.low is None or self.high is None:
            return actions
        return 2 * (actions - self.low) / (self.high - self.low) - 1

    def to_environment(self, actions: ActionArray) -> ActionArray:
        """The learner's actions (N, A), as the environment takes them."""
        if self.low is None or self.high is None:
            return actions
        return np.clip(self.low + (actions + 1) * (self.high - self.low) / 2, self.low, self.high)


def episodes_to_transitions(episodes: list[SingleAgentEpisode], spaces: Spaces) -> Transitions:
    """The rows of these episode chunks, end to end, in the learner's action scale; empty chunks are passed over.

    Raises ``ValueError`` when there is no row at all: an env runner that returns nothing is a fault to hear of.
    """
    chunks = [_chunk_to_transitions(episode, spaces) for episode in episodes if len(episode) > 0]
    if not chunks:
        raise ValueError(f"the env runners returned {len(episodes)} episodes without a single step.")
    return Transitions.concatenate(chunks)


class RowSender:
    """Names the rows of one sender for a replay service: their episodes, and the chunks that they came in.

    ``source`` is the sender's own, new for each process: a restarted one counts from 0 again.
    """

    def __init__(self, spaces: Spaces) -> None:
        self.source = uuid.uuid4().hex
        self._spaces = spaces
        self._sequence = 0

    def chunk(self, episodes: list[SingleAgentEpisode]) -> EpisodeRows | None:
        """The rows of these episode chunks, end to end, in the learner's action scale; None without a single one."""
        episodes = [episode for episode in episodes if len(episode) > 0]
        if not episodes:
            return None
        keys = np.repeat([episode_key(episode.id_) for episode in episodes], [len(episode) for episode in episodes])
        chunk = EpisodeRows(episodes_to_transitions(episodes, self._spaces), keys, self.source, self._sequence)
        self._sequence += 1
        return chunk


def episode_key(episode_id: str) -> int:
    """The same number in 0..2^63-1 for the same id, in every process; an episode's chunks share their id."""
    digest = hashlib.blake2b(str(episode_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _chunk_to_transitions(episode: SingleAgentEpisode, spaces: Spaces) -> Transitions:
    n = len(episode)
    observations = np.asarray(episode.get_observations(), np.float32).reshape(n + 1, spaces.observation_size)
    actions = np.asarray(episode.get_actions(), np.int64 if spaces.discrete else np.float32)
    last = np.arange(n) == n - 1
    return Transitions(
        observations=observations[:-1],
        actions=actions if spaces.discrete else actions.reshape(n, -1),
        rewards=np.asarray(episode.get_rewards(), np.float32),
        next_observations=observations[1:],
        terminated=last & episode.is_terminated,
        truncated=last & episode.is_truncated,
    )
