"""The commands of ``atradiff`` that need RLlib: each reads its words, calls one function and prints what came of it."""

from __future__ import annotations

import sys
from itertools import zip_longest
from typing import TYPE_CHECKING

from atradiff.progress_bar import ProgressBar
from cluster.config import RunConfig, parse_run_config, run_parser
from cluster.stop_signal import Stopped
from cluster.storage import is_uri

if TYPE_CHECKING:
    from cluster.progress import Progress


def train(arguments: list[str]) -> None:
    """Train an agent as a config file says: ``atradiff train CONFIG [--setting.of.the.config VALUE ...]``.

    ``atradiff train --resume RUN|CHECKPOINT`` goes on with a run that was stopped. Both, and ``output``, may be URIs:
    s3, gs, abfs, hdfs, file.
    """
    from cluster.run_store import RunStore

    parser = run_parser("atradiff train CONFIG", train.__doc__)
    parser.add_argument(
        "--resume",
        type=str | None,
        default=None,
        help="a run folder, or one of its checkpoints: later ones are dropped",
    )
    resume = _value_of("--resume", arguments)
    if resume is not None:
        arguments = ["--config", RunStore.of(resume).config_text(), *_without_positional(arguments)]
    run, _ = parse_run_config(parser, _config_first(arguments))
    from cluster.run import train as train_run  # with RLlib, for which nobody waits to be told of a wrong word

    with _TrainingBar(run) as bar:
        try:
            folder = train_run(run, bar.show, resume=resume)
        except Stopped as stopped:
            bar.close()
            print(stopped, file=sys.stderr)
            sys.exit(130)
    print(f"curve        {folder / 'metrics.csv'}\ntensorboard  tensorboard --logdir {folder}")
    kept = resume or run.where
    if is_uri(kept):
        print(f"kept in      {kept}")


def compare(arguments: list[str]) -> None:
    """Train with and without imagined trajectories on the same seeds: ``atradiff compare CONFIG --seeds [0,1,2]``.

    ``atradiff compare GRID.yaml`` does so for a grid of tasks, algorithms and augmentations (docs/comparing.md).
    """
    from cluster.compare import compare as compare_arms
    from cluster.grid_command import run_grid_command
    from cluster.grid_file import is_grid

    if arguments and is_grid(arguments[0]):
        run_grid_command(arguments)
        return
    parser = run_parser("atradiff compare CONFIG", compare.__doc__)
    parser.add_argument("--seeds", type=list[int], default=[0, 1, 2], help="one run of each arm for each of these")
    run, flags = parse_run_config(parser, _config_first(arguments))
    try:
        comparison = compare_arms(run, flags["seeds"])
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoints", file=sys.stderr)
        sys.exit(130)
    print(f"\n{comparison.table.to_text()}\n")
    print(f"plot         {comparison.folder / 'comparison.png'}")
    print(f"table        {comparison.folder / 'comparison.md'}")
    print(f"tensorboard  tensorboard --logdir {comparison.folder}")


def collect(
    env: str,
    policy: str,
    episodes: int,
    out: str,
    seed: int = 0,
    noise: float = 0.0,
    max_steps: int | None = None,
    licence: str = "made by the user",
    overwrite: bool = False,
) -> None:
    """Record episodes of a policy in an environment.

    Args:
        env: environment id: Gymnasium's, gymnasium-robotics' or metaworld:TASK; options follow a question mark.
        policy: scripted, random, or a run folder (or checkpoint) of `atradiff train`.
        episodes: how many to record.
        out: folder to write; it must not exist.
        seed: the same seed records the same data.
        noise: exploration noise in [0, 1]; each episode draws its level between 0 and this.
        max_steps: truncate episodes after so many steps.
        licence: licence of the data made.
        overwrite: replace a store at out once the new one is whole.
    """
    from atradiff.data.collect import collect as record
    from atradiff.data.commands import info
    from cluster.policy import load_policy

    record(
        env,
        policy,
        episodes,
        out,
        seed=seed,
        noise=noise,
        max_steps=max_steps,
        load_policy=load_policy,
        licence=licence,
        overwrite=overwrite,
    )
    info(out)


class _TrainingBar:
    """Env steps, their rate, the time left and the last return; appears with the first step, after data and fit."""

    def __init__(self, run: RunConfig) -> None:
        self._run = run
        self._bar: ProgressBar | None = None

    def __enter__(self) -> _TrainingBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, progress: Progress) -> None:
        """Advance the bar, which begins where the run does, to ``progress``, with the newest evaluation's return."""
        if self._bar is None:
            self._bar = ProgressBar(
                desc=self._run.where,
                initial=progress.env_steps,
                total=self._run.env_steps,
                unit="step",
                smoothing=0.05,
            )
        self._bar.update(progress.env_steps - self._bar.n)
        if progress.last_return is not None:
            self._bar.set_postfix_str(f"return {progress.last_return:.4g}", refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _config_first(arguments: list[str]) -> list[str]:
    """``CONFIG --flag value`` as ``--config CONFIG --flag value``: jsonargparse takes config files by flag only."""
    if not arguments:
        raise ValueError("give a config file: configs/quickstart.yaml is one, --help lists what may stand in it.")
    return arguments if arguments[0].startswith("-") else ["--config", *arguments]


def _without_positional(arguments: list[str]) -> list[str]:
    return arguments[1:] if arguments and not arguments[0].startswith("-") else arguments


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """The value given to ``flag``: needed before the parser runs, since it decides which config is read."""
    for word, following in zip_longest(arguments, arguments[1:]):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
