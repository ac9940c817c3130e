"""From a run's config to the data and the generator that it needs, made once and found again by their recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from atradiff.adaptation.config import AdaptationConfig
from atradiff.augment.s4rl import S4RLGenerator, StateAugmentation
from atradiff.augment.synther import SyntherDiffuser, read_synther_description
from atradiff.augment.synther_fit import OnlineSynther, fit_synther
from atradiff.data.collect import collect
from atradiff.data.importer import import_data
from atradiff.data.policies import Policy
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.diffusion.sample import resolve_device
from atradiff.environments import make_env
from atradiff.fit import fit, sized
from atradiff.generator import TrajectoryDiffuser
from atradiff.locking import making
from atradiff.model_folder import read_description
from atradiff.ports import TrajectoryGenerator
from atradiff.training_state import STATE_FILE
from atradiff.types import Spaces
from cluster.config import DataConfig, RunConfig, recipe_hash
from rllib_ext.ensemble_sac.spaces import require_flat_continuous


@dataclass(frozen=True)
class Imagination:
    """What a run imagines with: its diffuser and, where that shall follow the agent, what it is adapted with."""

    diffuser: TrajectoryDiffuser
    adaptation: AdaptationConfig | None = None
    offline: Trajectories | None = None
    """What an adapted diffuser rehearses."""
    training_state: Path | None = None
    """Optimisers of the fit, where the model folder has them."""


@dataclass(frozen=True)
class Supplies:
    """What a run is given before its first step. At most one of ``imagination``, ``synther`` and ``s4rl``."""

    imagination: Imagination | None = None
    synther: OnlineSynther | None = None
    offline: Trajectories | None = None
    """What batches hold beside what the agent lived."""
    s4rl: S4RLGenerator | None = None

    @property
    def generator(self) -> TrajectoryGenerator | None:
        """Who imagines rows in the run's own process; None: nobody."""
        if self.imagination is not None:
            return self.imagination.diffuser
        return self.s4rl if self.synther is None else self.synther

    @property
    def model(self) -> TrajectoryDiffuser | SyntherDiffuser | None:
        """The fitted model that the run begins with."""
        if self.imagination is not None:
            return self.imagination.diffuser
        return None if self.synther is None else self.synther.model


def load_supplies(run: RunConfig, spaces: Spaces) -> Supplies:
    """What ``run`` needs, from its data and from ``run.generator.path``, which must be set where it needs a generator.

    Raises ``ValueError`` where environment, data and model do not fit.
    """
    path = run.generator.path
    imagination = load_imagination(run, Path(path)) if run.augmentation == "atradiff" and path else None
    synther = _load_synther(run, spaces) if run.augmentation == "synther" else None
    s4rl = _load_s4rl(run, spaces) if run.augmentation == "s4rl" else None
    return Supplies(imagination, synther, _load_offline(run, spaces), s4rl)


def load_imagination(run: RunConfig, model: Path) -> Imagination:
    """The diffuser in ``model`` with the run's way of sampling; for adaptation with the offline data, too.

    Raises ``ValueError`` where data and model do not fit.
    """
    # On a cluster this process only keeps the diffuser: generators and adapter have the GPUs that Ray gave them.
    diffuser = TrajectoryDiffuser.from_pretrained(model, device="auto" if run.cluster is None else "cpu")
    diffuser.sampling = run.generator.sampling
    diffuser.tell_task(run.generator.task)
    if run.adapting is None:
        return Imagination(diffuser)
    offline = open_trajectories(prepare_data(run))
    offline.spaces.require_equal(diffuser.spaces, "the offline data of the adaptation", f"the diffuser in {model}")
    state = model / STATE_FILE
    return Imagination(diffuser, run.adapting, offline, state if state.is_file() else None)


def _load_synther(run: RunConfig, spaces: Spaces) -> OnlineSynther:
    """SynthER as the run begins with it: fitted on offline data, or not at all."""
    path, settings = run.generator.path, run.synther
    first = None if path is None else SyntherDiffuser.from_pretrained(path)
    if first is not None:
        first.spaces.require_equal(spaces, f"the SynthER in {path}", f"environment {run.env}")
    return OnlineSynther(spaces, settings.model, replace(settings.fit, seed=run.seed), first=first)


def _load_s4rl(run: RunConfig, spaces: Spaces) -> S4RLGenerator:
    """S4RL over all rows of the run's data."""
    data = _open_data(run, spaces)
    return S4RLGenerator(spaces, data.columns, StateAugmentation(run.s4rl), data_hash=data.content_hash)


def _load_offline(run: RunConfig, spaces: Spaces) -> Trajectories | None:
    return None if run.replay.offline_share == 0 else _open_data(run, spaces)


def require_device(run: RunConfig) -> None:
    """Raise ``ValueError`` where ``run`` would learn on a GPU and torch sees none in this process."""
    if run.learner_device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "learner_device: cuda needs a GPU that torch sees, and there is none here (or torch was built without "
            "one): set it to cpu."
        )


def check_environment(run: RunConfig) -> Spaces:
    """The spaces of ``run.env``; raises ``ValueError`` where EnsembleSAC cannot learn in them. Cheap: comes first."""
    env = make_env(run.env)
    try:
        require_flat_continuous(env.observation_space, env.action_space)
        return Spaces.from_gymnasium(env.observation_space, env.action_space)
    finally:
        env.close()


def require_model(run: RunConfig, spaces: Spaces) -> None:
    """Raise where the folder ``run.generator.path`` holds nothing that ``run`` can imagine with. Cheap: comes first.

    ``FileNotFoundError`` or ``ValueError``: a model of another kind, or of other spaces than the environment's. What is
    no folder here, but a name on the hub, is not looked at.
    """
    path = run.generator.path
    if not run.needs_generator or path is None or not Path(path).is_dir():
        return
    read = read_synther_description if run.augmentation == "synther" else read_description
    stated = read(Path(path)).get("spaces")
    if not isinstance(stated, dict):
        raise ValueError(f"{path}/config.json states no spaces: fit the model again or copy it anew.")
    Spaces.from_json(stated).require_equal(spaces, f"the model in {path}", f"environment {run.env}")


def prepare(run: RunConfig) -> Path | None:
    """Make what ``run`` needs and is not there yet; returns the folder of its generator, None where it needs none."""
    spaces = check_environment(run)
    if run.reads_data:
        _open_data(run, spaces)
    return prepare_diffuser(run, spaces) if run.needs_generator else None


def prepare_data(run: RunConfig) -> Path:
    """The trajectory store that ``run.data`` describes; imports or collects it where it is not there yet."""
    data = run.data
    if data.path is not None:
        return Path(data.path)
    recipe: Any = asdict(data.collect) if data.collect else _source_recipe(data)
    env = (recipe.pop("env") if data.collect else None) or run.env
    store = Path(data.cache) / f"{_slug(env)}-{recipe_hash([env, recipe])}"

    def make() -> None:
        """Collect or import; ``ValueError`` where the run names no data."""
        if data.collect is not None:
            collect(env, out=store, load_policy=_load_policy, **recipe)
        elif data.source is not None:
            import_data(data.source, store, env=run.env, end_at_reward=data.end_at_reward)
        else:
            raise ValueError("the run names no offline data: set one of data.path, data.source and data.collect.")

    return _made(store, make)


def prepare_diffuser(run: RunConfig, spaces: Spaces) -> Path:
    """The folder of the diffuser, or the SynthER, that the run begins with; fits it where it is not there yet."""
    if run.generator.path is not None:
        return Path(run.generator.path)
    store = _open_data(run, spaces)
    return _prepare_synther(run, store) if run.augmentation == "synther" else _prepare_trajectory_diffuser(run, store)


def _prepare_trajectory_diffuser(run: RunConfig, store: Trajectories) -> Path:
    generator = run.generator
    config = sized(generator.model, resolve_device("auto"))  # a GPU's model is another one, and has a folder of its own
    recipe = [store.content_hash, asdict(config), asdict(generator.fit)]
    model = Path(generator.cache) / f"{_slug(run.env)}-{recipe_hash(recipe)}"
    fit(store, model, config=config, settings=generator.fit)
    return model


def _prepare_synther(run: RunConfig, store: Trajectories) -> Path:
    settings = run.synther
    recipe = [store.content_hash, asdict(settings.model), asdict(settings.fit)]
    model = Path(run.generator.cache) / f"{_slug(run.env)}-synther-{recipe_hash(recipe)}"

    def make() -> None:
        fit_synther(store.spaces, store.columns, settings.model, settings.fit).save_pretrained(model)

    return _made(model, make)


def _made(folder: Path, make: Callable[[], None]) -> Path:
    """``folder``, which ``make`` makes where it is not there yet; where another process is at it, its folder."""
    if not folder.exists():
        with making(folder):
            if not folder.exists():
                make()
    return folder


def _open_data(run: RunConfig, spaces: Spaces) -> Trajectories:
    path = prepare_data(run)
    store = open_trajectories(path)
    store.spaces.require_equal(spaces, f"the data in {path}", f"environment {run.env}")
    return store


def _load_policy(path: str, env: gym.Env[Any, Any]) -> Policy:
    from cluster.policy import load_policy  # with RLlib, which takes seconds: only where a run's policy is asked for

    return load_policy(path, env)


def _source_recipe(data: DataConfig) -> list[Any]:
    """A source by name, or a file as it is now: a file that changed is imported anew; and where its episodes end."""
    source, asked = data.source, [] if data.end_at_reward is None else ["end_at_reward", data.end_at_reward]
    if source is None or not Path(source).exists():
        return [source, *asked]
    stat = Path(source).stat()
    return [str(Path(source).absolute()), stat.st_size, stat.st_mtime_ns, *asked]


def _slug(env: str) -> str:
    """``env`` as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", env).strip("-")
