"""From a run's config to the data and the diffuser that it needs, made once and found again by their recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atradiff.adaptation.config import AdaptationConfig
from atradiff.data.collect import collect
from atradiff.data.importer import import_data
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.environments import make_env
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.training_state import STATE_FILE
from atradiff.types import Spaces
from cluster.config import RunConfig, recipe_hash
from cluster.policy import load_policy
from rllib_ext.ensemble_sac.rl_module import require_flat_continuous


@dataclass(frozen=True)
class Imagination:
    """What a run imagines with: its diffuser and, where that shall follow the agent, what it is adapted with."""

    diffuser: TrajectoryDiffuser
    adaptation: AdaptationConfig | None = None
    offline: Trajectories | None = None
    """What an adapted diffuser rehearses."""
    training_state: Path | None = None
    """Optimisers of the fit, where the model folder has them."""


def load_imagination(run: RunConfig, model: Path) -> Imagination:
    """The diffuser in ``model`` with the run's way of sampling; for adaptation with the offline data, too.

    Raises ``ValueError`` where data and model do not fit.
    """
    diffuser = TrajectoryDiffuser.from_pretrained(model)
    diffuser.sampling = run.generator.sampling
    if run.adapting is None:
        return Imagination(diffuser)
    offline = open_trajectories(prepare_data(run))
    offline.spaces.require_equal(diffuser.spaces, "the offline data of the adaptation", f"the diffuser in {model}")
    state = model / STATE_FILE
    return Imagination(diffuser, run.adapting, offline, state if state.is_file() else None)


def check_environment(run: RunConfig) -> Spaces:
    """The spaces of ``run.env``; raises ``ValueError`` where EnsembleSAC cannot learn in them. Cheap: comes first."""
    env = make_env(run.env)
    try:
        require_flat_continuous(env.observation_space, env.action_space)
        return Spaces.from_gymnasium(env.observation_space, env.action_space)
    finally:
        env.close()


def prepare_data(run: RunConfig) -> Path:
    """The trajectory store that ``run.data`` describes; imports or collects it where it is not there yet."""
    data = run.data
    if data.path is not None:
        return Path(data.path)
    recipe = asdict(data.collect) if data.collect else _source_recipe(data.source)
    store = Path(data.cache) / f"{_slug(run.env)}-{recipe_hash([run.env, recipe])}"
    if store.exists():
        return store
    if data.collect is not None:
        collect(run.env, out=store, load_policy=load_policy, **asdict(data.collect))
    elif data.source is not None:
        import_data(data.source, store, env=run.env)
    else:
        raise ValueError("the run names no offline data: set one of data.path, data.source and data.collect.")
    return store


def prepare_diffuser(run: RunConfig) -> Path:
    """The folder of the diffuser that ``run.generator`` describes; fits it where it is not there yet."""
    generator = run.generator
    if generator.path is not None:
        return Path(generator.path)
    spaces = check_environment(run)
    path = prepare_data(run)
    store = open_trajectories(path)
    store.spaces.require_equal(spaces, f"the data in {path}", f"environment {run.env}")
    recipe = [store.content_hash, asdict(generator.model), asdict(generator.fit)]
    model = Path(generator.cache) / f"{_slug(run.env)}-{recipe_hash(recipe)}"
    fit(store, model, config=generator.model, settings=generator.fit)
    return model


def _source_recipe(source: str | None) -> list[Any]:
    """A source by name, or a file as it is now: a file that changed is imported anew."""
    if source is None or not Path(source).exists():
        return [source]
    stat = Path(source).stat()
    return [str(Path(source).absolute()), stat.st_size, stat.st_mtime_ns]


def _slug(env: str) -> str:
    return env.replace("/", "-").replace(":", "-")
