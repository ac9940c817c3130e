"""What :class:`rllib_ext.callback.ATraDiffCallback` can work with, checked before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.dqn.dqn import DQN
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner

from atradiff.types import Spaces
from rllib_ext.stock_learners import ask_learners


class UnsupportedConfigError(ValueError):
    """The algorithm's config cannot be combined with ATraDiff; the message says what to change."""


@dataclass(frozen=True)
class ModuleFacts:
    """What a learner's module expects of its batches."""

    stateful: bool
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    @classmethod
    def of(cls, learner: Learner) -> ModuleFacts:
        """Of a learner's default module, unwrapped from distributed training."""
        module = learner.module[DEFAULT_MODULE_ID].unwrapped()
        return cls(module.is_stateful(), module.observation_space, module.action_space)


def require_supported(algorithm: Algorithm) -> Spaces:
    """The spaces of the rows that ``algorithm`` learns from; raises :class:`UnsupportedConfigError`."""
    config = algorithm.config
    _require_algorithm(algorithm)
    _require(
        config.n_step == 1,
        f"n_step={config.n_step} does not work with ATraDiff: its synthetic rows are single steps. "
        "Use config.training(n_step=1).",
    )
    _require(
        config._learner_connector is None,
        "a learner_connector of your own would never see an episode: ATraDiff hands columns to the learner. "
        "Move what it does into an env_to_module connector or an environment wrapper.",
    )
    _require_plain_observations(algorithm)
    return _learner_spaces(algorithm)


def _require_algorithm(algorithm: Algorithm) -> None:
    config, name = algorithm.config, type(algorithm).__name__
    _require(
        config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2,
        "ATraDiffCallback needs RLlib's new API stack. Remove config.api_stack(enable_rl_module_and_learner=False, "
        "enable_env_runner_and_connector_v2=False).",
    )
    _require(
        isinstance(algorithm, DQN) and not config.is_offline,
        f"ATraDiffCallback works with RLlib's SAC, TQC and DQN, which learn online from a replay buffer; {name} does "
        "not. Use one of these, or EnsembleSACConfig().augmentation(generator=...), which needs no callback.",
    )
    _require(
        not config.is_multi_agent,
        "ATraDiffCallback is for single-agent environments. Train one algorithm per agent, or remove "
        "config.multi_agent(...).",
    )


def _require_plain_observations(algorithm: Algorithm) -> None:
    """Synthetic rows are in the environment's own units: RLlib must not rescale the real ones."""
    runner = algorithm.env_runner
    pipeline = algorithm.env_to_module_connector if runner is None else runner._env_to_module
    _require(
        not any(isinstance(piece, MeanStdFilter) for piece in pipeline.connectors),
        "MeanStdFilter changes the scale of observations as training goes on, synthetic rows would not follow. Remove "
        "it from env_to_module_connector: normalise inside the RLModule, or with a fixed environment wrapper.",
    )


def _learner_spaces(algorithm: Algorithm) -> Spaces:
    facts = ask_learners(algorithm.learner_group, ModuleFacts.of)[0]
    _require(
        not facts.stateful,
        "recurrent modules (use_lstm) need sequences, the ATraDiff replay gives single steps. Remove use_lstm from "
        "model_config.",
    )
    _require(
        isinstance(facts.observation_space, gym.spaces.Box) and len(facts.observation_space.shape) == 1,
        f"ATraDiff needs flat observations, the RLModule sees {facts.observation_space}. Flatten them: "
        "config.env_runners(env_to_module_connector=lambda env, spaces, device: FlattenObservations()).",
    )
    try:
        return Spaces.from_gymnasium(facts.observation_space, facts.action_space)
    except ValueError as error:
        raise UnsupportedConfigError(str(error)) from error


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise UnsupportedConfigError(message)
