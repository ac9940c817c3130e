"""A data set of imagined rows, as large as wanted: what offline methods are trained on (SynthER: 5 million rows)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from atradiff.config import require
from atradiff.data.schema import INFO, StoreInfo
from atradiff.data.store import write_trajectories
from atradiff.data.trajectories import Trajectories
from atradiff.ports import TrajectoryGenerator
from atradiff.progress_bar import ProgressBar
from atradiff.staging import refuse_existing
from atradiff.types import FloatArray, IntArray, SyntheticTrajectories, Transitions

PAPER_ROWS = 5_000_000


def upsample(
    generator: TrajectoryGenerator,
    starts: FloatArray,
    out: str | Path,
    *,
    rows: int = PAPER_ROWS,
    batch: int = 8192,
    seed: int = 0,
    source: str = "imagined",
    licence: str = "as the data that the generator was fitted on",
    env_id: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> StoreInfo:
    """Write a trajectory store of at least ``rows`` imagined rows to ``out``; each trajectory is an episode.

    ``starts`` (N, S) are states to imagine from, drawn at random; generators that start where they like only take
    their number. Memory holds ``batch`` trajectories at a time: columns grow in files beside ``out``. Raises
    :class:`~atradiff.data.errors.DataError` where ``out`` exists, unless ``overwrite``.
    """
    require(rows >= 1, "rows", rows, "must be at least 1")
    require(batch >= 1, "batch", batch, "must be at least 1")
    target = Path(out)
    refuse_existing(target, overwrite=overwrite, ours=INFO)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        lengths = _grow(Path(scratch), generator, starts, rows, batch, seed, quiet)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        data = Trajectories(generator.spaces, _mapped(Path(scratch), generator), offsets, env_id=env_id)
        return write_trajectories(target, data, source=source, licence=licence, overwrite=overwrite)


def _grow(
    scratch: Path, generator: TrajectoryGenerator, starts: FloatArray, rows: int, batch: int, seed: int, quiet: bool
) -> IntArray:
    """Imagine piece after piece into one file per column; returns the trajectories' lengths."""
    lengths: list[IntArray] = []
    done = 0
    with ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(total=rows, unit="row", unit_scale=True, desc="imagine", disable=quiet))
        files = {field.name: stack.enter_context((scratch / field.name).open("wb")) for field in fields(Transitions)}
        while done < rows:
            piece = _piece(generator, starts, batch, np.random.SeedSequence([seed, len(lengths)]))
            lengths.append(_append(files, piece, rows - done))
            done += int(lengths[-1].sum())
            bar.update(int(lengths[-1].sum()))
    return np.concatenate(lengths)


def _piece(
    generator: TrajectoryGenerator, starts: FloatArray, batch: int, seed: np.random.SeedSequence
) -> SyntheticTrajectories:
    rng = np.random.default_rng(seed)
    chosen = starts[rng.integers(len(starts), size=batch)]
    return generator.generate(chosen, generator_seed=int(rng.integers(2**31)))


def _append(files: Mapping[str, BinaryIO], piece: SyntheticTrajectories, wanted: int) -> IntArray:
    """Write the first trajectories that hold ``wanted`` rows together, all of them where there are fewer."""
    kept = int(np.searchsorted(np.cumsum(piece.lengths), wanted)) + 1
    lengths = piece.lengths[:kept]
    transitions = piece.to_transitions()[slice(0, int(lengths.sum()))]
    for name, column in transitions.items():
        np.ascontiguousarray(column).tofile(files[name])
    return lengths


def _mapped(scratch: Path, generator: TrajectoryGenerator) -> Transitions:
    spaces = generator.spaces
    states = np.float32, (spaces.observation_size,)
    action = (np.int64, ()) if spaces.discrete else (np.float32, (spaces.action_size,))
    layouts = {
        "observations": states,
        "actions": action,
        "rewards": (np.float32, ()),
        "next_observations": states,
        "terminated": (np.bool_, ()),
        "truncated": (np.bool_, ()),
    }
    return Transitions(**{name: _column(scratch / name, *layout) for name, layout in layouts.items()})


def _column(path: Path, dtype: type, shape: tuple[int, ...]) -> NDArray:
    return np.memmap(path, dtype, mode="r").reshape(-1, *shape)
