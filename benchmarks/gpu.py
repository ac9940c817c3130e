"""Generation and learning on a GPU, against what the device can do.

``python -m benchmarks.gpu --json F``: transitions per second of a diffuser of a GPU's default size (384 wide, 8 layers)
at windows of 10 and 25 rows, 1, 2 and 4 network calls, 256 to 4096 states; the share of the device's measured bfloat16
matrix rate that these come to; and what share of their own speed a learner and a generator keep on one GPU together.
Speed does not depend on how well a diffuser is fitted: it gets two steps. ``--device cpu --tiny`` tries it out.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from atradiff.config import DiffuserConfig, FitConfig
from atradiff.data.collect import collect
from atradiff.data.store import open_trajectories
from atradiff.fit import fit
from atradiff.generator import TrajectoryDiffuser
from atradiff.types import FloatArray
from benchmarks.figures import show


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
    """A diffuser of the wanted size, and states (N, S) to start from."""
    collect(env_id, "random", 10, folder / "data", progress=False)
    data = open_trajectories(folder / "data")
    config = DiffuserConfig(lengths=scale.lengths, width=scale.width, depth=scale.depth)
    model = fit(data, config=config, settings=FitConfig(steps=2), device=device, quiet=True)
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


def multiply_adds(model: TrajectoryDiffuser, length: int) -> int:
    """Of one network call for one window: each weight of the network once for each row; attention itself is small."""
    return length * sum(p.numel() for p in model.networks.diffuser.parameters())


def generation(
    model: TrajectoryDiffuser, states: FloatArray, scale: Scale, peak: float
) -> list[dict[str, float | int]]:
    """Transitions per second, windows as diffused, and the share of ``peak`` multiply-adds per second."""
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
                share = windows * calls * multiply_adds(model, length) / peak
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


def sharing(model: TrajectoryDiffuser, states: FloatArray, scale: Scale) -> dict[str, float]:
    """What share of their own rate a learner's updates and a generator's batches keep side by side."""
    learn, start = _learner(states.shape[1], model.device), states[np.arange(scale.batches[0]) % len(states)]

    def generate() -> object:
        return model.generate(start, generator_seed=0)

    alone = rate(learn, model.device, scale.seconds), rate(generate, model.device, scale.seconds)
    beside: dict[str, float] = {}
    thread = threading.Thread(target=lambda: beside.update(generator=rate(generate, model.device, scale.seconds)))
    thread.start()
    beside["learner"] = rate(learn, model.device, scale.seconds)
    thread.join()
    return {"learner": beside["learner"] / alone[0], "generator": beside["generator"] / alone[1]}


def _learner(width: int, device: torch.device) -> Callable[[], object]:
    """A critic's gradient step of SAC's size, 256 rows."""
    network = torch.nn.Sequential(
        torch.nn.Linear(width, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 1),
    ).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4, fused=True)
    rows = torch.randn(256, width, device=device)

    def step() -> None:
        optimizer.zero_grad()
        network(rows).square().mean().backward()
        optimizer.step()

    return step


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
        model, states = fitted(args.env, scale, Path(scratch), args.device)
    if args.compile:
        model = model.on(args.device, compiled=True)
    peak = matrix_rate(model.device, scale.matrix, scale.seconds)
    figures = {
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "matrix_multiply_adds_per_second": peak,
        "generation": generation(model, states, scale, peak),
        "share_of_own_rate_together": sharing(model, states, scale),
    }
    show(figures, args.json)


if __name__ == "__main__":
    main()
