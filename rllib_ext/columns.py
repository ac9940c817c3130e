"""Between RLlib's episodes and the project's columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from atradiff.types import ActionArray, FloatArray, Spaces, Transitions


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
