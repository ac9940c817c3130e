"""A run's config as an RLlib algorithm."""

from __future__ import annotations

from dataclasses import asdict

import torch
from ray.tune.registry import register_env

from atradiff.environments import make_env
from atradiff.ports import TrajectoryGenerator
from cluster.config import RunConfig
from rllib_ext.ensemble_sac import EnsembleSAC, EnsembleSACConfig


def build_algorithm(run: RunConfig, generator: TrajectoryGenerator | None) -> EnsembleSAC:
    """The learner with its env runner in this process; raises ``ValueError`` where env and generator do not fit."""
    torch.set_num_threads(run.threads)
    register_env(run.env, lambda settings: make_env(settings["id"]))
    config = (
        EnsembleSACConfig()
        .environment(run.env, env_config={"id": run.env})
        .env_runners(rollout_fragment_length=run.rollout_fragment_length)
        .training(**asdict(run.algorithm))
        .augmentation(generator=generator, replay=run.replay, serving=run.serving)
        .debugging(seed=run.seed, log_level="ERROR")
    )
    return config.build_algo()
