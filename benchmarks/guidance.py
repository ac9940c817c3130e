"""What guidance does, judged by the environment: windows asked for at several quantiles and scales, and whole episodes.

``python -m benchmarks.guidance --model FOLDER --data STORE [--json F]``. From the same held-out states a diffuser plans
one window each, for every target and scale; the environment is set to each state and the planned actions are played
open-loop (``window``: what that pays; ``imagined``: what the windows said it would). ``surprise`` is what ``relevance``
asks for: how wrong the model's own one-step model is about the played rows. ``episode`` is the return of episodes from
the task's own first states in which the plans govern, a new one every few rows: the diffuser as a policy, as in
Decision Diffuser (Ajay et al. 2023). The first lines are the data's own windows, and the diffuser without guidance.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from atradiff.config import SamplingOptions
from atradiff.data.store import open_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.environments import make_env
from atradiff.generator import TrajectoryDiffuser
from atradiff.report.fidelity_windows import real_windows
from atradiff.report.judge import Judge
from atradiff.report.simulator import Simulator, simulator_for
from atradiff.report.tables import aligned
from atradiff.staging import write_text
from atradiff.types import BoolArray, FloatArray, SyntheticTrajectories, Transitions


@dataclass(frozen=True)
class Played:
    """What the environment answered to those of B plans whose first state it could be set to."""

    returns: FloatArray  # (M,) sum of rewards
    survived: BoolArray  # (M,) played to the window's last row
    rows: Transitions  # (N,) all rows of all plans


@dataclass(frozen=True)
class GuidanceFigures:
    """Means. ``target`` and ``scale`` are None for the data's own windows."""

    target: float | None
    scale: float | None
    window: float  # undiscounted sum of rewards of a window's actions, played open-loop
    survived: float  # share of windows that were played to the last row
    imagined: float  # sum of a window's own rewards
    relative_dynamics_error: float | None  # of the windows' rows, see atradiff.report.judge
    surprise: float  # error of the one-step model at the played rows, in units of the differences' scale
    episode: float | None = None  # return of governed episodes
    episode_error: float | None = None  # standard error of that
    cpu_seconds: float | None = None  # to make all windows


@dataclass(frozen=True)
class Episodes:
    """How episodes are governed: ``count`` of at most ``rows`` rows, with a new plan each ``every`` rows."""

    count: int = 32
    rows: int = 300
    every: int = 5


def play(simulator: Simulator, plans: SyntheticTrajectories) -> Played:
    """Play the actions of all plans from their first states; raises ``ValueError`` where none can be set."""
    returns, survived, parts = [], [], []
    for start, actions, length in zip(plans.observations[:, 0], plans.actions, plans.lengths, strict=True):
        run = simulator.play(start, actions[:length])
        if run is None:
            continue
        states = np.concatenate([start[None], run.next_observations])
        truncated = np.zeros(len(run.rewards), np.bool_)
        actions = actions[: len(truncated)]
        parts.append(Transitions(states[:-1], actions, run.rewards, states[1:], run.terminated, truncated))
        returns.append(run.rewards.sum())
        survived.append(len(truncated) == plans.rewards.shape[1])
    if not parts:
        raise ValueError(
            "the environment could not be set to any of the held-out states: their velocities are clipped."
        )
    return Played(np.array(returns, np.float32), np.array(survived), Transitions.concatenate(parts))


def govern(model: TrajectoryDiffuser, env_id: str, asked: SamplingOptions, episodes: Episodes, seed: int) -> FloatArray:
    """(E,) returns of episodes in which the model's plans are followed."""
    envs = [make_env(env_id) for _ in range(episodes.count)]
    states = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]).astype(np.float32)
    returns, running = np.zeros(len(envs), np.float32), np.arange(len(envs))
    for row in range(0, episodes.rows, episodes.every):
        plans = model.generate(states[running], generator_seed=seed + row, **asked)
        ended = np.zeros(len(running), np.bool_)
        for plan, i in enumerate(running.tolist()):
            for action in plans.actions[plan, : min(episodes.every, int(plans.lengths[plan]))]:
                states[i], reward, terminated, truncated, _ = envs[i].step(action)
                returns[i] += float(reward)
                ended[plan] = terminated or truncated
                if ended[plan]:
                    break
        running = running[~ended]
        if len(running) == 0:
            break
    for env in envs:
        env.close()
    return returns


class Bench:
    """Judges a diffuser from fixed held-out states."""

    def __init__(self, model: TrajectoryDiffuser, held_out: Trajectories, env_id: str, windows: int, seed: int) -> None:
        self.model, self.env_id, self.seed, self.length = model, env_id, seed, model.config.longest
        self._simulator = simulator_for(env_id)
        self._judge = Judge.over(held_out, None, env_id, simulated_rows=2000, seed=seed)
        self._truth = real_windows(held_out, self.length, windows, seed)

    def measure(
        self, targets: Sequence[float], scales: Sequence[float], episodes: Episodes
    ) -> Iterator[GuidanceFigures]:
        """Figures of the data's windows, of the diffuser without guidance, and of each scale and target."""
        yield self._figures(self._truth)
        states = self._truth.observations[:, 0]
        self.model.generate(states[:8], generator_seed=self.seed)  # first calls load what is not timed
        for target, scale in [(None, 0.0), *((target, scale) for scale in scales for target in targets)]:
            asked = SamplingOptions(
                length=self.length, refine="none", prune="none", guidance_scale=scale, target=target
            )
            started = time.process_time()
            plans = self.model.generate(states, generator_seed=self.seed, **asked)
            seconds = time.process_time() - started
            returns = govern(self.model, self.env_id, asked, episodes, self.seed)
            error = float(returns.std() / len(returns) ** 0.5)
            yield replace(
                self._figures(plans),
                target=target,
                scale=scale,
                episode=float(returns.mean()),
                episode_error=error,
                cpu_seconds=seconds,
            )

    def _figures(self, plans: SyntheticTrajectories) -> GuidanceFigures:
        played = play(self._simulator, plans)
        return GuidanceFigures(
            target=None,
            scale=None,
            window=float(played.returns.mean()),
            survived=float(played.survived.mean()),
            imagined=float(np.where(plans.mask, plans.rewards, 0).sum(1).mean()),
            relative_dynamics_error=self._judge.figures(plans.to_transitions(), None).relative_dynamics_error,
            surprise=self._surprise(played.rows),
        )

    def _surprise(self, rows: Transitions) -> float:
        columns = (rows.observations, rows.actions, rows.next_observations)
        errors = self.model.dynamics.residual(*(torch.as_tensor(x, device=self.model.device) for x in columns))
        return float(errors.mean())


def table(figures: Sequence[GuidanceFigures]) -> str:
    """The figures as a table for the terminal."""
    header = ["scale", "target", "episode", "+-", "window", "survived", "imagined", "dynamics", "surprise", "CPU s"]
    return aligned([header, *(_line(f) for f in figures)])


def _line(f: GuidanceFigures) -> list[str]:
    numbers = [(f.target, "g"), (f.episode, ".0f"), (f.episode_error, ".0f"), (f.window, ".1f"), (f.survived, ".0%")]
    numbers += [(f.imagined, ".1f"), (f.relative_dynamics_error, ".3f"), (f.surprise, ".3f"), (f.cpu_seconds, ".2f")]
    cells = ["-" if value is None else format(value, form) for value, form in numbers]
    return ["data" if f.scale is None else f"{f.scale:g}", *cells]


def main() -> None:
    """Print the table; ``--json`` writes its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a diffuser that was fitted with a guide")
    parser.add_argument("--data", type=Path, required=True, help="trajectory store, whose held-out episodes are used")
    parser.add_argument("--env", help="environment to play in; default: the one that the data name")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.1, 0.5, 0.9])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--episodes", type=int, default=Episodes.count)
    parser.add_argument("--episode-rows", type=int, default=Episodes.rows)
    parser.add_argument("--every", type=int, default=Episodes.every, help="rows between two plans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, data = TrajectoryDiffuser.from_pretrained(options.model, device="cpu"), open_trajectories(options.data)
    env_id = options.env or data.env_id or ""
    bench = Bench(model, model.provenance.split(data)[1], env_id, options.windows, options.seed)
    scales = options.scales if model.config.guide != "none" else []
    episodes = Episodes(options.episodes, options.episode_rows, options.every)
    figures = list(bench.measure(options.targets, scales, episodes))
    if options.json:
        write_text(options.json, json.dumps([asdict(f) for f in figures], indent=1) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
