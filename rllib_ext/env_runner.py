"""An env runner that asks the actor directly: RLlib's connector pipelines cost more than the environment's step."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_runner import ENV_STEP_FAILURE
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from atradiff.ports import EpisodeRows, RowSink
from atradiff.types import FloatArray, Spaces
from rllib_ext.columns import ActionScale, RowSender


class EnvRunnerFailed(RuntimeError):
    """A runner could not act; the message is the traceback of its own process."""


@dataclass(frozen=True)
class Fragment:
    """What a runner did when it was asked: ``chunk`` is None where the rows went to a sink, or where there are none.

    ``failure`` is what a remote runner met: :class:`EnvRunnerFailed`, or what the sink raised.
    """

    steps: int
    chunk: EpisodeRows | None
    metrics: dict[str, Any]
    failure: Exception | None = None


class DirectEnvRunner(SingleAgentEnvRunner):
    """Steps the environments with the module's own actions, without connectors, and returns RLlib's episodes.

    The module must give ``Columns.ACTIONS`` in [-1, 1] for flat observations. Episodes, callbacks and metrics are
    those of the base class; a configuration with connectors of its own runs the base class's loop instead.
    All noise comes from one generator seeded from ``config.seed`` and the worker's index (in the base class's loop:
    from torch's and the environment's own). Random actions are uniform in [-1, 1], in the scale that episodes hold.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.noise = torch.Generator()
        if self._seed is None:
            self.noise.seed()
        else:
            self.noise.manual_seed(self._seed)
        self._ongoing_episodes: list[SingleAgentEpisode]
        self._failed: EnvRunnerFailed | None = None
        self._own_connectors = config._env_to_module_connector is None and config._module_to_env_connector is None

    def make_env(self) -> None:
        """As the base class, and read the spaces that rows are sent in; ``ValueError`` for spaces without columns."""
        super().make_env()
        spaces = Spaces.from_gymnasium(self.env.single_observation_space, self.env.single_action_space)
        self._scale = ActionScale.of(spaces, normalize_actions=True)
        self._sender = RowSender(spaces)

    def collect(self, random_actions: bool) -> Fragment:
        """Act for ``rollout_fragment_length`` steps per environment."""
        chunk = self._sender.chunk(self.sample(random_actions=random_actions))
        return Fragment(0 if chunk is None else len(chunk.rows), chunk, self.get_metrics())

    def collect_or_tell(self, random_actions: bool, sink: RowSink | None = None) -> Fragment:
        """As :meth:`collect`, but what goes wrong comes back as the fragment's ``failure``; with a ``sink`` the rows
        go there, and it has them safe when this returns.

        RLlib ends the process of a runner that raises, and nobody hears why. So a runner that could not act first
        tells, and raises when it is asked again: RLlib then starts it anew.
        """
        if self._failed is not None:
            raise self._failed
        try:
            fragment = self.collect(random_actions)
        except Exception:
            self._failed = EnvRunnerFailed(traceback.format_exc())
            return Fragment(0, None, {}, self._failed)
        if fragment.chunk is None or sink is None:
            return fragment
        try:
            sink.push(fragment.chunk)
        except Exception as error:
            return Fragment(0, None, fragment.metrics, error)
        return replace(fragment, chunk=None)

    def start_over(self, *seeds: int) -> None:
        """Drop the running episodes; environments and noise of the next sample are seeded from ``seeds`` and the
        worker's index.

        The steps of a dropped episode stay where they were sent: they end as a chunk without a flag, hence truncated.
        """
        own = np.random.SeedSequence([*seeds, self.worker_index or 0])
        self._seed, noise_seed = (int(seed) % 2**31 for seed in own.generate_state(2))
        self.noise.manual_seed(noise_seed)
        self._needs_initial_reset = True
        self._ongoing_episodes_for_metrics.clear()  # their chunks would wait for an end that never comes

    def expect_any_weights(self) -> None:
        """Take the next weights whatever their number: a restored run may be older than this runner's weights."""
        self._weights_seq_no = 0

    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[SingleAgentEpisode]:
        if not self._own_connectors:
            episodes = super()._sample(
                num_timesteps=num_timesteps,
                num_episodes=num_episodes,
                explore=explore,
                random_actions=random_actions,
                force_reset=force_reset,
            )
            if random_actions:
                self._rescale(episodes)
            return episodes
        if force_reset or num_episodes is not None or self._needs_initial_reset:
            self._restart(explore)
        self._needs_initial_reset = num_episodes is not None
        done: list[SingleAgentEpisode] = []
        steps = 0
        while steps < num_timesteps if num_timesteps is not None else len(done) < num_episodes:  # type: ignore[operator]
            taken = self._step(self._act(explore, random_actions), done)
            if taken is None:  # the environment failed and was made anew
                self._restart(explore)
            else:
                steps += taken
        self._done_episodes_for_metrics.extend(done)
        chunks = self._cut_chunks() if num_timesteps is not None else []
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=max(steps, 1))
        self._increase_sampled_metrics(steps, len(done))
        return done + chunks

    def _rescale(self, episodes: list[SingleAgentEpisode]) -> None:
        """To [-1, 1]: the base class stores random actions in the environment's scale, unlike all others."""
        for episode in episodes:
            data, lookback = episode.actions.data, episode.actions.lookback
            # Not set_actions: it holds actions against the environment's bounds.
            data[lookback:] = self._scale.actions_to_learner(np.asarray(data[lookback:]))

    def _restart(self, explore: bool) -> None:
        """Reset all environments, with the seed if this is the first reset."""
        self._reset_envs_and_episodes(explore)
        self._observations = np.stack([episode.get_observations(-1) for episode in self._ongoing_episodes])

    def _act(self, explore: bool, random_actions: bool) -> FloatArray:
        """Actions in [-1, 1] (E, A) for the latest observations (E, S)."""
        if random_actions:
            shape = (self.num_envs, *self.env.single_action_space.shape)
            return (2 * torch.rand(shape, generator=self.noise) - 1).numpy()
        batch = {Columns.OBS: torch.as_tensor(self._observations, dtype=torch.float32, device=self._device)}
        if not explore:
            return self.module.forward_inference(batch)[Columns.ACTIONS].cpu().numpy()
        return self.module.forward_exploration(batch, generator=self.noise)[Columns.ACTIONS].cpu().numpy()

    def _step(self, actions: FloatArray, done: list[SingleAgentEpisode]) -> int | None:
        """Step all environments once; finished episodes go to ``done``. Returns the steps taken, None on a failure."""
        results = self._try_env_step(self._scale.to_environment(actions))
        if isinstance(results, str) and results == ENV_STEP_FAILURE:
            return None
        self._observations, rewards, terminated, truncated, infos = results
        self._observations = self._observations.copy()  # Gymnasium may write the next ones into the same memory
        steps = 0
        for i, episode in enumerate(self._ongoing_episodes):
            if not episode.is_reset:  # this step was the automatic reset, and the action was ignored
                episode.add_env_reset(observation=self._observations[i], infos=infos[i])
                self._make_on_episode_callback("on_episode_start", i, self._ongoing_episodes)
                continue
            steps += 1
            episode.add_env_step(
                observation=self._observations[i],
                action=actions[i],
                reward=rewards[i],
                infos=infos[i],
                terminated=terminated[i],
                truncated=truncated[i],
            )
            self._make_on_episode_callback("on_episode_step", i, self._ongoing_episodes)
            if episode.is_done:
                self._make_on_episode_callback("on_episode_end", i, self._ongoing_episodes)
                done.append(episode.to_numpy() if self.episodes_to_numpy else episode)
                self._new_episode(i)
        return steps

    def _cut_chunks(self) -> list[SingleAgentEpisode]:
        """The running episodes so far; what follows goes into fresh chunks of the same episodes."""
        running = [episode for episode in self._ongoing_episodes if episode.t > 0]
        lookback = self.config.episode_lookback_horizon
        self._ongoing_episodes = [episode.cut(len_lookback_buffer=lookback) for episode in self._ongoing_episodes]
        for episode in running:
            episode.validate()
            self._ongoing_episodes_for_metrics[episode.id_].append(episode)
        return [episode.to_numpy() if self.episodes_to_numpy else episode for episode in running]
