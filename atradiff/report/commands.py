"""What the command line calls: typed functions whose arguments are the options."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from atradiff.config import SamplingConfig
from atradiff.report.fidelity import FidelityReport, fidelity
from atradiff.report.fidelity_chains import chain_fidelity
from atradiff.report.fidelity_picture import save_fidelity_picture
from atradiff.report.fidelity_stages import Stage, StageFidelity, one_step_of, stage_fidelity
from atradiff.report.fidelity_states import AgentStates, states_of_file, states_of_run
from atradiff.report.fidelity_table import fidelity_table
from atradiff.report.judge import Judge
from atradiff.staging import write_text

if TYPE_CHECKING:
    from atradiff.data.trajectories import Trajectories
    from atradiff.generator import TrajectoryDiffuser

PICTURED = ("raw", "dynamics")


def fidelity_command(
    model: Path,
    data: Path,
    env: str | None = None,
    lengths: Sequence[int] | None = None,
    horizon: int | None = None,
    length: int | None = None,
    temperature: float = 1.0,
    calls: int | None = None,
    run: Path | None = None,
    states: Path | None = None,
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
        temperature: of the noise that sampling starts from, as generator.sampling.temperature of a run.
        calls: network calls per window; by default the model's.
        run: folder of a run; the model is judged at the states of its saved replay, too (early, middle, late).
        states: the same for states (N, S) in a .npy file, in the order in which an agent came through.
        json: file to write all figures to.
        picture: PNG file to draw imagined against real trajectories into.
        windows: held-out states per length.
        simulated_rows: at most so many rows per variant are stepped in the environment.
        seed: of starts, draws and generation.
        device: where the model runs: auto, cpu or cuda.
    """
    from atradiff.data.store import open_trajectories
    from atradiff.generator import TrajectoryDiffuser

    diffuser = TrajectoryDiffuser.from_pretrained(model, device=device)
    diffuser.sampling = SamplingConfig(temperature=temperature, calls=calls)
    everything = open_trajectories(data)
    everything.spaces.require_equal(diffuser.spaces, "the data", "the model")
    visited = _visited(run, states, everything.spaces.observation_size)
    train, held_out = _split(diffuser, everything)
    env_id = env or everything.env_id or diffuser.provenance.env_id
    judge = Judge.over(held_out, train, env_id, simulated_rows=simulated_rows, seed=seed)
    judged_lengths = tuple(lengths or diffuser.config.lengths)
    report = fidelity(
        diffuser, held_out, train, env_id, lengths=judged_lengths, windows=windows, seed=seed, judge=judge
    )
    report = replace(report, data_hash=everything.content_hash)
    if horizon is not None:
        longest = diffuser.config.longest
        chains = chain_fidelity(diffuser, held_out, judge, horizon=horizon, length=length, longest=longest)
        report = replace(report, chains=chains)
    if visited is not None:
        report = replace(report, stages=_stages(diffuser, held_out, visited, judge, judged_lengths, windows))
    if json is not None:
        write_text(json, json_format.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    if picture is not None:
        _draw(report, diffuser, held_out, picture)
    print(fidelity_table(report))
    return report


def _visited(run: Path | None, states: Path | None, width: int) -> AgentStates | None:
    """The agent's states, where any were named; raises ``ValueError`` where they cannot be the model's."""
    if run is not None and states is not None:
        raise ValueError("--run and --states both name an agent's states: give one of them.")
    if run is None and states is None:
        return None
    visited = states_of_run(run) if run is not None else states_of_file(Path(str(states)))
    if visited.states.shape[1] != width:
        raise ValueError(
            f"states of {visited.source} have {visited.states.shape[1]} columns, the model's have {width}."
        )
    return visited


def _split(model: TrajectoryDiffuser, data: Trajectories) -> tuple[Trajectories | None, Trajectories]:
    """(training, held-out) data; no training data where the model was fitted on other data than this."""
    origin = model.provenance
    if origin.data_hash != data.content_hash:
        return None, data
    return data.split(origin.fit["held_out"], origin.fit["seed"])


def _stages(
    model: TrajectoryDiffuser,
    held_out: Trajectories,
    visited: AgentStates,
    judge: Judge,
    lengths: Sequence[int],
    windows: int,
) -> dict[str, StageFidelity]:
    thirds = {
        name: Stage(part.states, part.first, part.first + len(part.states) - 1)
        for name, part in visited.thirds().items()
    }
    return stage_fidelity(
        model,
        {"held-out": Stage(held_out.columns.observations), **thirds},
        judge,
        lengths=lengths,
        windows=windows,
        one_step=one_step_of(model),
        limit=model.calibration.disagreement_limit,
    )


def _draw(report: FidelityReport, model: TrajectoryDiffuser, held_out: Trajectories, picture: Path) -> None:
    longest = max(report.by_length)
    bars = {name: report.by_length[longest][name].rows.ks_by_column for name in PICTURED}
    save_fidelity_picture(
        model, held_out, picture, length=longest, ks_by_column=bars, chains=report.chains, seed=report.seed
    )
