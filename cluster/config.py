"""What one run is: read from YAML, overridden by dotted flags, written back in full beside the results."""

from __future__ import annotations

import hashlib
import json
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace

from atradiff.adaptation.config import AdaptationConfig
from atradiff.augment.s4rl import S4RLConfig
from atradiff.config import DiffuserConfig, FitConfig, SamplingConfig, ServingConfig, SyntherConfig, SyntherFit
from atradiff.data.policies import NAMED
from atradiff.replay.mixed import ReplayConfig
from cluster.cluster_config import ClusterConfig
from cluster.config_errors import plain, require_known_keys
from cluster.layers import with_data_overruled
from cluster.storage import is_uri, join, working_folder
from rllib_ext.ensemble_sac.settings import SACSettings


def recipe_hash(recipe: Any) -> str:
    """Eight hex digits that name what was asked for: the same recipe finds the same data or model again."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class CollectConfig:
    """Offline data that the project makes itself, as ``atradiff data collect`` does.

    Each episode draws its noise level uniformly between 0 and ``noise``; at that level, actions get Gaussian noise of
    that share of half their range, and a fifth of that share of steps is random.
    """

    policy: str = "scripted"
    """``scripted``, ``random``, or a run or one of its checkpoints. What it collects is kept under that name: of a run
    that has learned more since, name the checkpoint (``RUN/checkpoints/step_...``)."""
    episodes: int = 40
    noise: float = 0.0
    seed: int = 0
    env: str | None = None
    """Where: another task than the run's, for a diffuser that has to follow; None: the run's."""

    def absolute(self) -> CollectConfig:
        """The same with an absolute path, where the policy is a run."""
        return self if self.policy in NAMED else replace(self, policy=_absolute_if_there(self.policy) or self.policy)


@dataclass(frozen=True)
class DataConfig:
    """The offline trajectories. Exactly one of: ``path``, a trajectory store; ``source``, whatever ``atradiff data
    import`` takes; ``collect``, a policy to roll out. What is imported or collected is kept under ``cache``.

    ``end_at_reward`` goes with ``source``: its episodes terminate with the first row that is paid at least this.
    """

    path: str | None = None
    source: str | None = None
    end_at_reward: float | None = None
    collect: CollectConfig | None = None
    cache: str = "data"

    def __post_init__(self) -> None:
        given = [name for name in ("path", "source", "collect") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"data takes one of path, source and collect, got {' and '.join(given)}.")
        if self.end_at_reward is not None and self.source is None:
            raise ValueError(f"data.end_at_reward goes with data.source, which is not given; got {self.end_at_reward}.")


@dataclass(frozen=True)
class GeneratorConfig:
    """The diffuser: ``path`` of a fitted one, or what to fit (kept under ``cache``), and how it is sampled.

    ``task`` is the run's own task vector, for a diffuser that was fitted with ``model.task_size``.
    """

    path: str | None = None
    model: DiffuserConfig = field(default_factory=DiffuserConfig)
    fit: FitConfig = field(default_factory=lambda: FitConfig(cpu_minutes=5.0))
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    task: tuple[float, ...] | None = None
    cache: str = "models"

    def __post_init__(self) -> None:
        if self.path is None:
            self.sampling.require_fits(self.model)


@dataclass(frozen=True)
class SyntherSettings:
    """SynthER, for ``augmentation: synther``: each ``fit`` takes this long, the one on offline data and those on rows
    of the run alike. Its authors give ``steps: 100000``."""

    model: SyntherConfig = field(default_factory=SyntherConfig)
    fit: SyntherFit = field(default_factory=lambda: SyntherFit(cpu_minutes=5.0))


_WITHOUT_ONE_STEP_MODEL = {"synther": "SynthER", "s4rl": "S4RL"}


@dataclass(frozen=True)
class EvaluationConfig:
    """Deterministic actions on an environment of its own, every so many env steps.

    ``solved_at`` is the return that counts as success: `atradiff compare` reports the steps to it (otherwise the steps
    to the final return of the arm without augmentation).
    """

    every: int = 1_000
    episodes: int = 5
    solved_at: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.episodes < 1:
            raise ValueError(f"evaluation needs every >= 1 and episodes >= 1, got {self.every} and {self.episodes}.")


@dataclass(frozen=True)
class CheckpointConfig:
    """Every so many env steps, the newest ``keep`` of them."""

    every: int = 5_000
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"checkpoints need every >= 1 and keep >= 1, got {self.every} and {self.keep}.")


@dataclass(frozen=True)
class RunConfig:
    """One training run.

    Args:
        env: A Gymnasium id (``module:Name-v0`` imports the module first) or a Meta-World task.
        name: Names the folder of the run under ``output``.
        env_steps: Real environment steps to train for.
        seed: Seeds environment, exploration, learner, replay and generator.
        augmentation: ``atradiff`` imagines trajectories from the agent's states, ``synther`` single transitions like
            those that it lived, ``s4rl`` perturbs states of the offline data's rows, ``none`` is the plain algorithm.
            Offline data in the batch: ``replay.offline_share``.
        rollout_fragment_length: Env steps between two calls of the learner.
        threads: torch threads of the learner and the generator.
        learner_device: Where the learner of a run without a ``cluster`` section learns.
        adaptation: How the diffuser follows the agent; None: it stays as it was fitted.
        cluster: Actors on a Ray cluster; None: everything in this process, the same at every run of a seed.
        output: Folder, or URI of a place, under which the run folder is made.
    """

    env: str
    name: str
    env_steps: int
    seed: int = 0
    augmentation: Literal["none", "synther", "s4rl", "atradiff"] = "atradiff"
    rollout_fragment_length: int = 50
    threads: int = 1
    learner_device: Literal["cpu", "cuda"] = "cpu"
    output: str = "runs"
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    synther: SyntherSettings = field(default_factory=SyntherSettings)
    s4rl: S4RLConfig = field(default_factory=S4RLConfig)
    algorithm: SACSettings = field(default_factory=SACSettings)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    adaptation: AdaptationConfig | None = None
    cluster: ClusterConfig | None = None

    def __post_init__(self) -> None:
        if self.env_steps < 1:
            raise ValueError(f"env_steps must be at least 1, got {self.env_steps}.")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}.")
        if self.learner_device == "cuda" and self.cluster is not None:
            raise ValueError(
                "learner_device: cuda is for runs without a cluster section: give cluster.trainer, or "
                "cluster.learners.resources, num_gpus instead."
            )
        if self.cluster is not None and self.algorithm.batch_size % max(self.cluster.learners.learners, 1):
            raise ValueError(
                f"algorithm.batch_size={self.algorithm.batch_size} cannot be shared equally by "
                f"cluster.learners.learners={self.cluster.learners.learners}: choose a multiple."
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}.")
        if self.replay.max_request_age <= self.serving.max_wait + self.rollout_fragment_length:
            raise ValueError(
                f"replay.max_request_age={self.replay.max_request_age} drops answers that "
                f"serving.max_wait={self.serving.max_wait} and rollout_fragment_length={self.rollout_fragment_length} "
                "make late: raise it."
            )
        if self.augmentation in _WITHOUT_ONE_STEP_MODEL and self.serving.own_share > 0:
            raise ValueError(
                f"serving.own_share={self.serving.own_share} rolls the agent's policy through a one-step model, and "
                f"{_WITHOUT_ONE_STEP_MODEL[self.augmentation]} has none: set it to 0, or augmentation to atradiff."
            )
        if self.augmentation == "s4rl":
            self._require_s4rl()
        if self.env_steps <= self.algorithm.learning_starts:
            raise ValueError(
                f"env_steps={self.env_steps} end before learning_starts={self.algorithm.learning_starts}: nothing "
                "would be learned. Raise env_steps or lower algorithm.learning_starts."
            )
        every = self.synther.model.retrain_every
        if self.augmentation == "synther" and self.cluster is not None and every is not None:
            raise ValueError(
                f"synther.model.retrain_every={every} fits SynthER anew in the learner's own process: leave cluster "
                "out (cluster: null), or set retrain_every to null, and the generators of the cluster serve the "
                "SynthER of the offline data as it is."
            )

    def _require_s4rl(self) -> None:
        try:
            self.s4rl.require_without_critic()
        except ValueError as error:
            raise ValueError(f"augmentation: s4rl: {error}") from None
        if self.cluster is not None:
            raise ValueError(
                "augmentation: s4rl perturbs rows of data that lie in the learner's own process, which takes no time "
                "worth a generator's: leave cluster out (cluster: null)."
            )

    @property
    def where(self) -> str:
        """The run's place: a folder, or a URI where ``output`` is one."""
        return join(self.output, self.name, self.augmentation, f"seed_{self.seed}")

    @property
    def folder(self) -> Path:
        """The run's folder on this machine; for a URI, its working copy."""
        return working_folder(self.where)

    @property
    def adapting(self) -> AdaptationConfig | None:
        """How the diffuser is adapted; None where there is none, or it shall stay as it is."""
        return self.adaptation if self.augmentation == "atradiff" else None

    @property
    def has_data(self) -> bool:
        """Whether offline data are named."""
        return self.data != DataConfig(cache=self.data.cache)

    @property
    def needs_generator(self) -> bool:
        """Whether a fitted generator must be there before the first step: SynthER may begin without one."""
        if self.augmentation == "synther":
            return self.has_data or self.generator.path is not None
        return self.augmentation == "atradiff"

    @property
    def reads_data(self) -> bool:
        """Whether the offline data themselves are read while the run goes, not only what was fitted to them."""
        return self.augmentation == "s4rl" or self.adapting is not None or self.replay.offline_share > 0

    def require_data(self) -> None:
        """Raise ``ValueError`` unless this run can get at what it needs: called before anything long begins."""
        if self.has_data:
            return
        if self.augmentation == "atradiff" and self.generator.path is None:
            raise ValueError(
                "augmentation: atradiff needs a diffuser: set generator.path to a fitted one, or one of data.path, "
                "data.source and data.collect to the trajectories it shall be fitted to."
            )
        never_refitted = self.augmentation == "synther" and self.synther.model.retrain_every is None
        if never_refitted and self.generator.path is None:
            raise ValueError(
                "augmentation: synther with synther.model.retrain_every: null is fitted to offline data alone: set one "
                "of data.path, data.source and data.collect, or generator.path to a fitted SynthER."
            )
        if self.augmentation == "s4rl":
            raise ValueError(
                "augmentation: s4rl perturbs rows of offline data: set one of data.path, data.source and data.collect."
            )
        if self.adapting is not None:
            raise ValueError(
                "adaptation rehearses the offline data, so that the diffuser does not forget them: set one of "
                "data.path, data.source and data.collect."
            )
        if self.replay.offline_share > 0:
            raise ValueError(
                f"replay.offline_share={self.replay.offline_share} puts offline data into each batch: set one of "
                "data.path, data.source and data.collect, or offline_share to 0."
            )

    def absolute(self) -> RunConfig:
        """The same run with absolute paths: it means the same in another process and from another folder."""
        data = replace(
            self.data,
            path=_absolute_if_there(self.data.path),
            source=_absolute_if_there(self.data.source),
            cache=_absolute(self.data.cache),
            collect=None if self.data.collect is None else self.data.collect.absolute(),
        )
        generator = replace(
            self.generator, path=_absolute_if_there(self.generator.path), cache=_absolute(self.generator.cache)
        )
        cluster = self.cluster
        if cluster is not None and cluster.journal not in (None, "off"):
            cluster = replace(cluster, journal=_absolute(cluster.journal))
        output = self.output if is_uri(self.output) else _absolute(self.output)
        return replace(self, output=output, data=data, generator=generator, cluster=cluster)

    def to_yaml(self) -> str:
        """Every setting, defaults too, as `atradiff train` reads it back."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)


def run_parser(prog: str, description: str | None) -> ArgumentParser:
    """A parser with ``--config FILE`` and one dotted flag for each setting of :class:`RunConfig`."""
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML file of the settings below")
    parser.add_class_arguments(RunConfig, as_group=False)
    return parser


def instantiated(parser: ArgumentParser, given: Namespace) -> Namespace:
    """The settings that ``parser`` read without its defaults, with them: it would check each default again every time,
    for most of a third of a second.
    """
    values = _defaults(parser).clone()
    values.update(given)
    for name, value in vars(given).items():
        if value == Namespace():  # {}: of a section that is None by default
            values[name] = value
    return parser.instantiate(values)


@cache
def _defaults(parser: ArgumentParser) -> Namespace:
    return parser.get_defaults()


def parse_run_config(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[RunConfig, dict[str, Any]]:
    """The run that these words describe, and the values of the parser's flags that are no part of it.

    Later words win; one of data.path, data.source and data.collect stands in for another one in an earlier config file.
    Raises ``ValueError`` for keys that there are not and values that cannot be.
    """
    require_known_keys(arguments, RunConfig)
    try:
        parsed = instantiated(parser, parser.parse_args(with_data_overruled(arguments), defaults=False))
    except ArgumentError as error:
        raise ValueError(f"{plain(str(error))} (--help lists all settings.)") from None
    except ValueError as error:
        raise ValueError(plain(str(error))) from None
    names = {field.name for field in fields(RunConfig)}
    values = {key: value for key, value in vars(parsed).items() if key != "config"}
    run = RunConfig(**{key: value for key, value in values.items() if key in names})
    return run, {key: value for key, value in values.items() if key not in names}


def load_run_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file (or the text of one) with dotted overrides (``["--seed", "1"]``).

    Raises ``ValueError`` for keys that there are not and values that cannot be.
    """
    return parse_run_config(_train_parser(), ["--config", str(path), *overrides])[0]


@cache
def _train_parser() -> ArgumentParser:
    return run_parser("atradiff train", None)


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _absolute_if_there(path: str | None) -> str | None:
    """Names that are no local path (a hub id, ``d4rl:...``) stay as they are."""
    return _absolute(path) if path is not None and Path(path).exists() else path


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML that any safe loader reads."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
