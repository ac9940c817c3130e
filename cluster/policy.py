"""The policy of a finished or stopped run, to collect data with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gymnasium as gym
from numpy.typing import NDArray

from cluster.config import load_run_config
from cluster.run_store import RunStore
from rllib_ext.ensemble_sac.rl_module import EnsembleSACModule
from rllib_ext.ensemble_sac.state import read_tensors
from rllib_ext.evaluation import deterministic_policy

_ACTOR = "actor."


class RunPolicy:
    """Deterministic actions of a run's newest (or given) checkpoint, as :class:`atradiff.data.policies.Policy`."""

    def __init__(self, act: Callable[[NDArray[Any]], Any]) -> None:
        self._act = act

    def act(self, observation: NDArray[Any], env: gym.Env[Any, Any]) -> Any:  # noqa: ARG002 - the protocol's arguments
        return self._act(observation)


def load_policy(path: str, env: gym.Env[Any, Any]) -> RunPolicy:
    """The policy of the run or checkpoint at ``path`` (or URI), for ``env``.

    Raises ``ValueError`` where there is no whole checkpoint, where it is damaged, or where the actor is not made for
    ``env``'s spaces.
    """
    store = RunStore.of(path)
    checkpoint = store.find_checkpoint()
    if checkpoint is None:
        raise ValueError(f"{path} has no whole checkpoint to take a policy from.")
    settings = load_run_config(store.config_text()).algorithm
    module = EnsembleSACModule(
        observation_space=env.observation_space,
        action_space=env.action_space,
        model_config=asdict(settings),
        inference_only=True,
    )
    with checkpoint.part("algorithm").open() as folder:
        weights = read_tensors(folder / "weights.safetensors")
    actor = {name.removeprefix(_ACTOR): tensor for name, tensor in weights.items() if name.startswith(_ACTOR)}
    try:
        module.actor.load_state_dict(actor)
    except RuntimeError as error:
        raise ValueError(f"the policy in {checkpoint} does not fit this environment: {error}") from error
    return RunPolicy(deterministic_policy(module, env))
