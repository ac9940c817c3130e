"""What guidance does: plans asked for at several quantiles and scales, played in the environment.

``python -m benchmarks.guidance --model FOLDER --data STORE [--json F]``. From the same held-out states a diffuser plans
one window each, for every target and scale; the environment is set to each state and the planned actions are played
open-loop, until it terminates. Beside what that pays (``played``) and what the windows said it would (``imagined``),
the table has what it is that ``relevance`` asks for: how wrong the model's own one-step model is about the played rows.
The first rows are the data's own windows from these states, and the diffuser without guidance.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.generator import TrajectoryDiffuser
from atradiff.report.fidelity_windows import real_windows
from atradiff.report.judge import Judge
from atradiff.report.simulator import Simulator, simulator_for
from atradiff.report.tables import aligned
from atradiff.staging import write_text
from atradiff.types import FloatArray, IntArray, SyntheticTrajectories, Transitions


@dataclass(frozen=True)
class Played:
    """What the environment answered to B plans."""

    returns: FloatArray  # (B,) sum of rewards; NaN where the environment could not be set on the way
    lengths: IntArray  # (B,) rows until it terminated, or the plan ended
    rows: Transitions  # (N,) all rows of all plans


@dataclass(frozen=True)
class GuidanceFigures:
    """Means over windows. ``target`` and ``scale`` are None for the data's own windows."""

    target: float | None
    scale: float | None
    played: float  # undiscounted sum of rewards of the actions, played open-loop
    standard_error: float  # of ``played``
    survived: float  # share of plans that were played to the window's last row
    imagined: float  # sum of the windows' own rewards
    relative_dynamics_error: float | None  # of the windows' rows, see atradiff.report.judge
    surprise: float  # error of the one-step model at the played rows, in units of the differences' scale
    cpu_seconds: float | None  # to make all windows


def play(simulator: Simulator, plans: SyntheticTrajectories) -> Played:
    """Play the actions of all plans from their first states, row by row."""
    states, running = plans.observations[:, 0].copy(), np.arange(len(plans))
    returns, lengths, parts = np.zeros(len(plans)), np.zeros(len(plans), np.int64), []
    for row in range(plans.actions.shape[1]):
        running = running[plans.lengths[running] > row]
        if len(running) == 0:
            break
        actions = plans.actions[running, row]
        answer = simulator.step(states[running], actions)
        returns[running] += answer.rewards  # NaN where it is not valid
        lengths[running] += 1
        here = Transitions(
            states[running], actions, answer.rewards, answer.next_observations, answer.terminated, ~answer.valid
        )
        parts.append(here[answer.valid])
        states[running] = answer.next_observations
        running = running[answer.valid & ~answer.terminated]
    return Played(returns.astype(np.float32), lengths, Transitions.concatenate(parts))


def measure(
    model: TrajectoryDiffuser,
    held_out: Trajectories,
    env_id: str,
    *,
    targets: Sequence[float],
    scales: Sequence[float],
    length: int,
    windows: int = 512,
    seed: int = 0,
) -> Iterator[GuidanceFigures]:
    """Figures of the data's windows, of the diffuser without guidance, and of each scale and target."""
    simulator = simulator_for(env_id)
    judge = Judge.over(held_out, None, env_id, simulated_rows=2000, seed=seed)
    truth = real_windows(held_out, length, windows, seed)
    settings = [(None, 0.0)] + [(target, scale) for scale in scales for target in targets]
    yield _figures(None, None, truth, model, simulator, judge, None)
    model.generate(truth.observations[:8, 0], generator_seed=seed)  # first calls load what is not timed
    for target, scale in settings:
        started = time.process_time()
        plans = model.generate(
            truth.observations[:, 0],
            generator_seed=seed,
            length=length,
            refine="none",
            prune="none",
            guidance_scale=scale,
            target=target,
        )
        seconds = time.process_time() - started
        yield _figures(target, scale, plans, model, simulator, judge, seconds)


def _figures(
    target: float | None,
    scale: float | None,
    plans: SyntheticTrajectories,
    model: TrajectoryDiffuser,
    simulator: Simulator,
    judge: Judge,
    cpu_seconds: float | None,
) -> GuidanceFigures:
    played = play(simulator, plans)
    returns = played.returns[np.isfinite(played.returns)]
    ended = np.isfinite(played.returns) & (played.lengths < plans.rewards.shape[1])
    return GuidanceFigures(
        target=target,
        scale=scale,
        played=float(returns.mean()),
        standard_error=float(returns.std() / len(returns) ** 0.5),
        survived=1 - float(ended.sum() / len(returns)),
        imagined=float(np.where(plans.mask, plans.rewards, 0).sum(1).mean()),
        relative_dynamics_error=judge.figures(plans.to_transitions(), None).relative_dynamics_error,
        surprise=_surprise(model, played.rows),
        cpu_seconds=cpu_seconds,
    )


def _surprise(model: TrajectoryDiffuser, rows: Transitions) -> float:
    columns = (rows.observations, rows.actions, rows.next_observations)
    errors = model.dynamics.residual(*(torch.as_tensor(x, device=model.device) for x in columns))
    return float(errors.mean())


def table(figures: Sequence[GuidanceFigures]) -> str:
    """The figures as a table for the terminal."""
    header = ["scale", "target", "played", "+-", "survived", "imagined", "dynamics", "surprise", "CPU s"]
    return aligned([header, *(_line(f) for f in figures)])


def _line(f: GuidanceFigures) -> list[str]:
    scale = "data" if f.scale is None else f"{f.scale:g}"
    error = "-" if f.relative_dynamics_error is None else f"{f.relative_dynamics_error:.3f}"
    cells = [f"{f.played:.1f}", f"{f.standard_error:.1f}", f"{f.survived:.0%}", f"{f.imagined:.1f}"]
    cells += [error, f"{f.surprise:.3f}", "-" if f.cpu_seconds is None else f"{f.cpu_seconds:.2f}"]
    return [scale, "-" if f.target is None else f"{f.target:g}", *cells]


def _held_out(model: TrajectoryDiffuser, data: Trajectories) -> Trajectories:
    """The episodes that the fit held out, if it was of these data; else all."""
    origin = model.provenance
    if origin.data_hash != data.content_hash:
        return data
    return data.split(origin.fit["held_out"], origin.fit["seed"])[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a diffuser that was fitted with a guide")
    parser.add_argument("--data", type=Path, required=True, help="trajectory store, whose held-out episodes are used")
    parser.add_argument("--env", help="environment to play in; default: the one that the data name")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.1, 0.5, 0.9])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--length", type=int, help="rows of a window; default: the model's longest")
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    model, data = TrajectoryDiffuser.from_pretrained(options.model), open_trajectories(options.data)
    figures = list(
        measure(
            model,
            _held_out(model, data),
            options.env or data.env_id or "",
            targets=options.targets,
            scales=options.scales if model.config.guide != "none" else [],
            length=options.length or model.config.longest,
            windows=options.windows,
            seed=options.seed,
        )
    )
    if options.json:
        write_text(options.json, json.dumps([asdict(f) for f in figures], indent=1) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
