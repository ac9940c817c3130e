"""What the command line calls: typed functions whose arguments are the options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atradiff.config import SamplingConfig, require
from atradiff.data.tasks import episodes_of
from atradiff.report.fidelity import FidelityReport, fidelity
from atradiff.report.fidelity_chains import chain_fidelity
from atradiff.report.fidelity_picture import save_fidelity_picture
from atradiff.report.fidelity_stages import Stage, one_step_of, stage_fidelity
from atradiff.report.fidelity_states import AgentStates, states_of_file, states_of_run
from atradiff.report.fidelity_table import fidelity_table
from atradiff.report.judge import Judge
from atradiff.staging import write_text

if TYPE_CHECKING:
    from atradiff.data.trajectories import Trajectories
    from atradiff.generator import TrajectoryDiffuser

PICTURED = ("raw", "dynamics")
_SAMPLING = SamplingConfig()


def fidelity_command(
    model: Path,
    data: Path,
    env: str | None = None,
    lengths: Sequence[int] | None = None,
    horizon: int | None = None,
    length: int | None = None,
    stretch: int | None = None,
    temperature: float = _SAMPLING.temperature,
    state_temperature: float | None = _SAMPLING.state_temperature,
    calls: int | None = _SAMPLING.calls,
    guidance_scale: float = _SAMPLING.guidance_scale,
    target: float = _SAMPLING.target,
    projection_steps: int = _SAMPLING.projection_steps,
    inner_projection_steps: int = _SAMPLING.inner_projection_steps,
    inner_roll: float = _SAMPLING.inner_roll,
    disagreement: float = _SAMPLING.disagreement,
    run: Path | None = None,
    states: Path | None = None,
    task: Sequence[float] | None = None,
    json: Path | None = None,
    picture: Path | None = None,
    windows: int = 512,
    simulated_rows: int = 4000,
    seed: int = 0,
    device: str = "auto",
) -> FidelityReport:
    """Judge a diffuser against data it has not seen and against the real environment, and print a table.

    Args:
        model: folder (or hub id) of a fitted diffuser.
        data: folder of a trajectory store. If the model was fitted on it, the episodes held out then are used.
        env: environment to step; by default the one the data names.
        lengths: window lengths K in rows; by default all that the model was fitted for.
        horizon: judge whole trajectories of at most so many rows, chained from windows, too.
        length: rows of each window of a chain; by default as the length estimator says.
        stretch: rows of a chain that share a line of the report; by default those of a window.
        temperature: of the noise that sampling starts from, as generator.sampling.temperature of a run.
        state_temperature: of that in what rows tell of states and rewards; by default as temperature, 0 for residuals.
        calls: network calls per window; by default the model's.
        guidance_scale: how far sampling leans on the score that the model was fitted with.
        target: the score that is asked for, as a quantile of the data.
        projection_steps: of the table's windows that are projected after sampling.
        inner_projection_steps: of projection on the one-step model in each call.
        inner_roll: how far each call's estimate but the last one's follows the one-step model.
        disagreement: how far apart members of the one-step model may be before trajectories end; 1: as one row in a
            thousand of the data makes them.
        run: folder of a run; the model is judged at the states of its saved replay, too (early, middle, late).
        states: the same for states (N, S) in a .npy file, in the order in which an agent came through.
        task: for a model of several tasks, the vector of the one to judge it on, by the data's episodes of that task.
        json: file to write all figures to.
        picture: PNG file to draw imagined against real trajectories into.
        windows: held-out states per length.
        simulated_rows: at most so many rows per variant are stepped in the environment.
        seed: of starts, draws and generation.
        device: where the model runs: auto, cpu or cuda.
    """
    from atradiff.data.store import open_trajectories
    from atradiff.generator import TrajectoryDiffuser

    diffuser, stored = TrajectoryDiffuser.from_pretrained(model, device=device), open_trajectories(data)
    stored.spaces.require_equal(diffuser.spaces, "the data", "the model")
    diffuser.sampling = SamplingConfig(
        temperature=temperature,
        state_temperature=state_temperature,
        calls=calls,
        guidance_scale=guidance_scale,
        target=target,
        projection_steps=projection_steps,
        inner_projection_steps=inner_projection_steps,
        inner_roll=inner_roll,
        disagreement=disagreement,
    )
    diffuser.tell_task(task)
    visited = _visited(run, states, stored.spaces.observation_size)
    asked = _Asked(
        tuple(lengths or diffuser.config.lengths), horizon, length, stretch, visited, windows, simulated_rows, seed
    )
    asked.require_within(diffuser.config.longest)
    train, held_out = _parts(diffuser, stored, task)
    named = env or stored.env_id or diffuser.provenance.env_id
    report = replace(_report(diffuser, held_out, train, named, asked), data_hash=stored.content_hash)
    _write(report, diffuser, held_out, json, picture)
    print(fidelity_table(report))
    return report


def _parts(
    model: TrajectoryDiffuser, data: Trajectories, task: Sequence[float] | None
) -> tuple[Trajectories | None, Trajectories]:
    """(what the model learned from, what it did not), of one ``task`` where one is named."""
    train, held_out = model.provenance.split(data)
    if task is None:
        return train, held_out
    return None if train is None else episodes_of(train, task), episodes_of(held_out, task)


@dataclass(frozen=True)
class _Asked:
    """What the report shall hold."""

    lengths: tuple[int, ...]
    horizon: int | None
    length: int | None
    stretch: int | None
    visited: AgentStates | None
    windows: int
    simulated_rows: int
    seed: int

    def require_within(self, longest: int) -> None:
        """Raise ``ValueError`` for lengths and horizons that the model cannot give and counts of nothing, before any
        work.
        """
        SamplingConfig(horizon=self.horizon, length=self.length)
        counts = {"lengths": min(self.lengths), "windows": self.windows, "simulated_rows": self.simulated_rows}
        for name, value in counts.items():
            require(value >= 1, name, value, "must be at least 1")
        for name in ("length", "stretch"):
            value = getattr(self, name)
            require(value is None or self.horizon is not None, name, value, "needs --horizon")
        require(self.stretch is None or self.stretch >= 1, "stretch", self.stretch, "must be at least 1")
        for name, value in (("lengths", max(self.lengths)), ("length", self.length or 1)):
            require(value <= longest, name, value, f"must be at most {longest}, the model's longest window")


def _report(
    model: TrajectoryDiffuser, held_out: Trajectories, train: Trajectories | None, env_id: str | None, asked: _Asked
) -> FidelityReport:
    judge = Judge.over(held_out, train, env_id, simulated_rows=asked.simulated_rows, seed=asked.seed)
    windows: dict[str, Any] = {"lengths": asked.lengths, "windows": asked.windows}
    report = fidelity(model, held_out, train, env_id, seed=asked.seed, judge=judge, **windows)
    if asked.horizon is not None:
        chains = chain_fidelity(
            model,
            held_out,
            judge,
            train,
            horizon=asked.horizon,
            length=asked.length,
            stretch=asked.stretch,
            longest=model.config.longest,
        )
        report = replace(report, chains=chains)
    if asked.visited is not None:
        parts = {"held-out": Stage(held_out.columns.observations), **_stages(asked.visited)}
        limit = model.disagreement_limit(model.sampling)
        stages = stage_fidelity(model, parts, judge, one_step=one_step_of(model), limit=limit, **windows)
        report = replace(report, stages=stages)
    return report


def _visited(run: Path | None, states: Path | None, width: int) -> AgentStates | None:
    """The agent's states, where any were named; raises ``ValueError`` where they cannot be the model's."""
    if run is not None and states is not None:
        raise ValueError("--run and --states both name an agent's states: give one of them.")
    if run is not None:
        visited = states_of_run(run)
    elif states is not None:
        visited = states_of_file(states)
    else:
        return None
    if visited.states.shape[1] != width:
        raise ValueError(
            f"states of {visited.source} have {visited.states.shape[1]} columns, the model's have {width}."
        )
    return visited


def _stages(visited: AgentStates) -> dict[str, Stage]:
    return {
        name: Stage(part.states, part.first, part.first + len(part.states) - 1)
        for name, part in visited.thirds().items()
    }


def _write(
    report: FidelityReport,
    model: TrajectoryDiffuser,
    held_out: Trajectories,
    figures: Path | None,
    picture: Path | None,
) -> None:
    """Write what was asked for: the figures as JSON, the picture as PNG."""
    if figures is not None:
        write_text(figures, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    if picture is not None:
        _draw(report, model, held_out, picture)


def _draw(report: FidelityReport, model: TrajectoryDiffuser, held_out: Trajectories, picture: Path) -> None:
    longest = max(report.by_length)
    bars = {name: report.by_length[longest][name].rows.ks_by_column for name in PICTURED}
    save_fidelity_picture(
        model, held_out, picture, length=longest, ks_by_column=bars, chains=report.chains, seed=report.seed
    )
