"""A run's config as an RLlib algorithm."""

from __future__ import annotations

from dataclasses import asdict

import torch
from ray.tune.registry import register_env

from atradiff.allocator import keep_freed_memory
from atradiff.data.trajectories import Trajectories
from atradiff.environments import make_env
from atradiff.ports import ReplayServices, TrajectoryGenerator
from cluster.cluster_config import ClusterConfig
from cluster.config import RunConfig
from rllib_ext.ensemble_sac import EnsembleSAC, EnsembleSACConfig


def build_algorithm(
    run: RunConfig,
    generator: TrajectoryGenerator | None,
    services: ReplayServices | None = None,
    offline: Trajectories | None = None,
) -> EnsembleSAC:
    """The algorithm of a run; raises ``ValueError`` where env and generator do not fit.

    Without a ``cluster`` section the learner and its env runner are in this process. ``services``: a replay that is
    there already, with its generators and data; None: one in this process, with ``generator`` and ``offline`` rows.
    """
    torch.set_num_threads(run.threads)
    keep_freed_memory()
    register_env(run.env, lambda settings: make_env(settings["id"]))
    config = (
        EnsembleSACConfig()
        .environment(run.env, env_config={"id": run.env})
        .env_runners(rollout_fragment_length=run.rollout_fragment_length)
        .training(**asdict(run.algorithm))
        .augmentation(generator=generator, replay=run.replay, serving=run.serving, offline=offline)
        .debugging(seed=run.seed, log_level="ERROR")
    )
    if services is not None:
        config.augmentation(services=services)
    if run.cluster is not None:
        _spread(config, run.cluster)
    elif run.learner_device == "cuda":
        config.learners(num_gpus_per_learner=1)  # of those that this process sees: nothing is reserved
    return config.build_algo()


def _spread(config: EnsembleSACConfig, cluster: ClusterConfig) -> None:
    """RLlib's share of the actors."""
    trainer, rollouts, learners = cluster.trainer, cluster.rollouts, cluster.learners
    config.env_runners(
        num_env_runners=rollouts.env_runners,
        num_envs_per_env_runner=rollouts.environments,
        num_cpus_per_env_runner=rollouts.resources.num_cpus,
        num_gpus_per_env_runner=rollouts.resources.num_gpus,
        custom_resources_per_env_runner=rollouts.resources.custom,
    )
    # With no learner apart, RLlib reads the learner's resources as those of the algorithm's own process.
    resources = learners.resources if learners.learners else trainer
    config.learners(
        num_learners=learners.learners,
        num_cpus_per_learner=resources.num_cpus,
        num_gpus_per_learner=resources.num_gpus,
        custom_resources_per_learner=resources.custom,
    )
