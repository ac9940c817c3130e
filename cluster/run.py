"""Where the parts are put together: one training run, from its config to its curve.

``python -m cluster.run configs/X.yaml`` is the same as ``atradiff train configs/X.yaml``.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from atradiff.adaptation.service import AdaptingServices
from atradiff.augment.synther import SyntherDiffuser
from atradiff.augment.synther_replay import SyntherServices
from atradiff.generator import TrajectoryDiffuser
from atradiff.ports import ReplayServices
from atradiff.staging import write_text
from atradiff.types import Spaces
from cluster.algorithm import build_algorithm
from cluster.checkpoint import Checkpoint
from cluster.config import RunConfig, load_run_config
from cluster.distributed import ClusterRun, train_on_cluster
from cluster.logging import RunLog
from cluster.manifest import run_manifest
from cluster.prepare import Supplies, check_environment, load_supplies, prepare_diffuser, require_device
from cluster.progress import Progress
from cluster.ray_runtime import start_ray
from cluster.run_folder import RunFolder
from cluster.run_store import RunStore
from cluster.session import Session
from cluster.stop_signal import Stopped, stop_signal
from cluster.storage import Location


def train(
    run: RunConfig,
    watch: Callable[[Progress], None] = lambda _: None,
    *,
    resume: str | Path | None = None,
    locked: bool = True,
) -> Path:
    """Train as ``run`` says and return the run folder, which then holds ``summary.json``.

    ``resume`` is a run folder or one of its checkpoints; like ``run.output`` it may be a URI, which the folder returned
    is then a working copy of. Raises :class:`Stopped` after a stop signal, ``ValueError`` where the run folder already
    holds another run, or another process trains in it. ``locked`` is for those who see to the latter themselves.
    """
    run = run.absolute()
    store = RunStore(Location.of(run.where)) if resume is None else RunStore.of(resume)
    with store.alone() if locked else nullcontext():  # from before it is looked at: whatever is found stays true
        return _train(run, store, watch, resume)


def _train(run: RunConfig, store: RunStore, watch: Callable[[Progress], None], resume: str | Path | None) -> Path:
    checkpoint = _starting_point(store, run, resume)
    spaces = check_environment(run)
    require_device(run)
    store.location.require_writable()
    store.fetch()
    run, supplies = _supplied(run, store.folder, spaces)
    begin = partial(_begin, store, run, supplies)
    with stop_signal() as stop:
        if run.cluster is None:
            last = _train_here(run, store, supplies, checkpoint, begin, watch, stop)
        else:
            resumed = resume is not None
            it = ClusterRun(run, run.cluster, store, spaces, supplies, checkpoint, resumed)
            last = train_on_cluster(it, begin, watch, stop)
    if not last.finished:
        raise Stopped(f"stopped at {last.env_steps} env steps; go on with --resume {store.location}")
    return store.folder.path


def _train_here(
    run: RunConfig,
    store: RunStore,
    supplies: Supplies,
    checkpoint: Checkpoint | None,
    begin: Callable[[], None],
    watch: Callable[[Progress], None],
    stop: threading.Event,
) -> Progress:
    """Everything in this process; returns how far it came, with a checkpoint of that moment."""
    start_ray()
    algorithm = build_algorithm(run, supplies.generator, _services(supplies), supplies.offline)
    try:
        begin()
        with RunLog(store.folder, 0 if checkpoint is None else checkpoint.state["env_steps"]) as log:
            session = Session(run, store, algorithm, log)
            if checkpoint is not None:
                session.restore(checkpoint)
            while not session.finished and not stop.is_set():
                watch(session.advance())
            session.checkpoint()
            if session.finished:
                session.finish()
            return session.progress
    finally:
        algorithm.stop()


def _services(supplies: Supplies) -> ReplayServices | None:
    """Those that look after a generator that changes; None: it does not change."""
    if supplies.synther is not None:
        return SyntherServices()
    imagination = supplies.imagination
    if imagination is None or imagination.adaptation is None or imagination.offline is None:
        return None
    return AdaptingServices(
        imagination.diffuser, imagination.offline, imagination.adaptation, imagination.training_state
    )


def _starting_point(store: RunStore, run: RunConfig, resume: str | Path | None) -> Checkpoint | None:
    """The checkpoint to go on from; None: from the first step, also for a run that was killed before its first one.

    Raises ``ValueError`` where there is nothing to do. A run with all its steps but without a summary, killed between
    its last checkpoint and that, still has that to do: it may have a few steps more than it was asked for.
    """
    if resume is None:
        if store.started:
            raise ValueError(
                f"{store.location} already holds a run: go on with --resume {store.location}, or choose another --name "
                "or --output."
            )
        return None
    checkpoint = store.find_checkpoint()
    if checkpoint is not None:
        done, asked = checkpoint.state["env_steps"], load_run_config(store.config_text()).env_steps
        if run.env_steps <= done and (store.complete or run.env_steps < min(done, asked)):
            raise ValueError(
                f"{checkpoint} has {done} env steps already and --env_steps is {run.env_steps}: there is nothing to "
                "do. Give more --env_steps to go further."
            )
    return checkpoint


def _supplied(run: RunConfig, folder: RunFolder, spaces: Spaces) -> tuple[RunConfig, Supplies]:
    """The run with its diffuser's path filled in, so that resuming it never meets another one; and what it needs.

    A run that comes from another machine by a URI brings its diffuser along.
    """
    run.require_data()
    if run.needs_generator:
        path = run.generator.path
        if path is None or not Path(path).exists():
            brought = folder.started and folder.diffuser.is_dir()  # else it is of a start that was killed
            path = str(folder.diffuser if brought else prepare_diffuser(run, spaces))
        run = replace(run, generator=replace(run.generator, path=path))
    return run, load_supplies(run, spaces)


def _begin(store: RunStore, run: RunConfig, supplies: Supplies) -> None:
    """Write down what is run: for a resumed run its config anew, since flags may have changed it."""
    folder = store.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.summary.unlink(missing_ok=True)
    if not folder.started:
        write_text(folder.manifest, json.dumps(run_manifest(supplies.model, supplies.offline, supplies.s4rl), indent=2))
    if supplies.model is not None and store.location.local is None and not _holds_model(folder, supplies.model):
        shutil.rmtree(folder.diffuser, ignore_errors=True)
        supplies.model.save_pretrained(folder.diffuser)
    write_text(folder.config, run.to_yaml())
    store.mirror()


def _holds_model(folder: RunFolder, model: TrajectoryDiffuser | SyntherDiffuser) -> bool:
    """Whether the run brought all files of its diffuser along: a start that was killed may have left some of them."""
    if not folder.started or not folder.diffuser.is_dir():
        return False
    try:
        type(model).from_pretrained(folder.diffuser, device="cpu")
    except (FileNotFoundError, ValueError):
        return False
    return True


def main() -> None:
    """The command ``train`` of the command line."""
    from cluster.cli import main as command_line

    command_line(["train", *sys.argv[1:]])


if __name__ == "__main__":
    main()
