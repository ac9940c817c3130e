"""Generation and learning on a GPU, against what the device can do.

``python -m benchmarks.gpu --json F``: transitions per second of a diffuser of a GPU's default size (384 wide, 8 layers)
at windows of 10 and 25 rows, 1, 2 and 4 network calls, 256 to 4096 states; the share of the device's measured bfloat16
matrix rate that these come to; and what share of their own speed updates of SAC and a generator, each in a process of
its own, keep on one GPU together. Speed does not depend on how well a diffuser is fitted: it gets two steps.
``--device cpu --tiny`` tries it out.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.multiprocessing import get_context
from torch.utils.flop_counter import FlopCounterMode

from atradiff.config import DiffuserConfig, FitConfig, SamplingOptions
from atradiff.data.collect import collect
from atradiff.data.store import open_trajectories
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.types import FloatArray
from benchmarks.figures import show
from rllib_ext.ensemble_sac.networks import CriticEnsemble, GaussianActor
from rllib_ext.ensemble_sac.settings import SACSettings
from rllib_ext.ensemble_sac.updater import SACOptimizers, SACUpdater, TensorBatch


@dataclass(frozen=True)
class Scale:
    """How large everything is, and for how many seconds each figure is measured."""

    width: int = 384
    depth: int = 8
    lengths: tuple[int, ...] = (10, 25)
    calls: tuple[int, ...] = (1, 2, 4)
    batches: tuple[int, ...] = (256, 1024, 4096)
    matrix: int = 8192
    seconds: float = 2.0


TINY = Scale(width=16, depth=1, calls=(1,), batches=(8,), matrix=64, seconds=0.01)


def fitted(env_id: str, scale: Scale, folder: Path, device: str) -> tuple[TrajectoryDiffuser, FloatArray]:
    """A diffuser of the wanted size, left in ``folder / "model"``, too, and states (N, S) to start from."""
    collect(env_id, "random", 10, folder / "data", progress=False)
    data = open_trajectories(folder / "data")
    config = DiffuserConfig(lengths=scale.lengths, width=scale.width, depth=scale.depth)
    model = fit(data, folder / "model", config=config, settings=FitConfig(steps=2), device=device, quiet=True)
    return model, np.asarray(data.columns.observations, np.float32)


def matrix_rate(device: torch.device, size: int, seconds: float) -> float:
    """Multiply-adds per second, in bfloat16, of square matrices: what the device does at its best."""
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return size**3 * rate(lambda: left @ left, device, seconds)


def rate(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls of ``work`` per second, after one that does not count."""
    work()
    _wait(device)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or done == 0:
        work()
        _wait(device)
        done += 1
    return done / (time.perf_counter() - began)


def multiply_adds(model: TrajectoryDiffuser, states: FloatArray, length: int) -> int:
    """Of one network call for one window, counted by torch. ``model`` must not be compiled: a graph hides them."""
    options = SamplingOptions(length=length, calls=1, refine="none", prune="none")
    with FlopCounterMode(display=False) as counter:
        model.generate(states[:1], generator_seed=0, **options)
    return counter.get_total_flops() // 2


def generation(
    model: TrajectoryDiffuser, states: FloatArray, scale: Scale, peak: float, work: Mapping[int, int]
) -> list[dict[str, float | int]]:
    """Transitions per second, windows as diffused, and the share of ``peak`` multiply-adds per second.

    ``work`` are the multiply-adds of a network call for one window of each length.
    """
    figures: list[dict[str, float | int]] = []
    for length in scale.lengths:
        for calls in scale.calls:
            for batch in scale.batches:
                start = states[np.arange(batch) % len(states)]

                def generate(start: FloatArray = start, calls: int = calls, length: int = length) -> object:
                    return model.generate(
                        start, generator_seed=0, length=length, calls=calls, refine="none", prune="none"
                    )

                windows = batch * rate(generate, model.device, scale.seconds)
                share = windows * calls * work[length] / peak
                figures.append(
                    {
                        "length": length,
                        "calls": calls,
                        "batch": batch,
                        "transitions_per_second": windows * length,
                        "share_of_matrix_rate": share,
                    }
                )
    return figures


def sharing(folder: Path, states: FloatArray, scale: Scale, device: torch.device, compiled: bool) -> dict[str, float]:
    """What share of its own rate a learner keeps beside a generator in another process, and what share that one."""
    learn, start = _learner(states.shape[1], device), states[np.arange(scale.batches[0]) % len(states)]
    context = get_context("spawn")
    here, there = context.Pipe()
    work = (folder / "model", start, str(device), compiled, scale.seconds, there)
    generator = context.Process(target=_generate_when_asked, args=work, daemon=True)
    generator.start()
    there.close()  # so that the end of that process is heard here
    here.recv()  # it has loaded its model
    learner_alone = rate(learn, device, scale.seconds)
    here.send(True)
    generator_alone = here.recv()
    here.send(True)
    learner_beside, generator_beside = rate(learn, device, scale.seconds), here.recv()
    generator.join()
    return {"learner": learner_beside / learner_alone, "generator": generator_beside / generator_alone}


def _generate_when_asked(
    model: Path, start: FloatArray, device: str, compiled: bool, seconds: float, asked: Connection
) -> None:
    """In a process of its own: the rate of batches, each time that it is asked for."""
    torch.set_num_threads(1)
    diffuser = TrajectoryDiffuser.from_pretrained(model, device=device).on(device, compiled=compiled)
    asked.send(True)
    for _ in range(2):
        asked.recv()
        asked.send(rate(lambda: diffuser.generate(start, generator_seed=0), diffuser.device, seconds))


@dataclass
class _Networks:
    """Of SAC, as :class:`rllib_ext.ensemble_sac.updater.SACNetworks` asks for them."""

    actor: GaussianActor
    critics: CriticEnsemble
    target_critics: CriticEnsemble
    log_alpha: nn.Parameter


def _learner(state_size: int, device: torch.device, action_size: int = 6) -> Callable[[], object]:
    """An update of SAC by the default settings, from one batch over and over."""
    settings = SACSettings()
    critics = CriticEnsemble(state_size, action_size, settings.n_critics, settings.hidden_sizes, settings.layer_norm)
    actor = GaussianActor(state_size, action_size, settings.hidden_sizes).to(device)
    target = copy.deepcopy(critics.to(device)).requires_grad_(False)
    nets = _Networks(actor, critics, target, nn.Parameter(torch.zeros((), device=device)))
    noise = torch.Generator(device=device).manual_seed(0)
    updater = SACUpdater(nets, SACOptimizers.of(nets, settings), settings, action_size, noise)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(settings.batch_size, *shape, device=device)

    never = torch.zeros(settings.batch_size, device=device)
    batch = TensorBatch(normal(state_size), normal(action_size).tanh(), normal(), normal(state_size), never)
    return lambda: updater.step(batch)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Print the rates on one device; ``--json`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="network calls as CUDA graphs")
    parser.add_argument("--tiny", action="store_true", help="in seconds, to see that it runs")
    args = parser.parse_args()
    scale = TINY if args.tiny else Scale()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, states = fitted(args.env, scale, folder, args.device)
        work = {length: multiply_adds(model, states, length) for length in scale.lengths}
        if args.compile:
            model = model.on(args.device, compiled=True)
        peak = matrix_rate(model.device, scale.matrix, scale.seconds)
        figures = {
            "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
            "matrix_multiply_adds_per_second": peak,
            "generation": generation(model, states, scale, peak, work),
            "share_of_own_rate_together": sharing(folder, states, scale, model.device, args.compile),
        }
    show(figures, args.json)


if __name__ == "__main__":
    main()
