"""Who works when in a run as actors: acting, learning, generating and adapting side by side, drawn from Ray's timeline.

``python -m benchmarks.timeline --json F --picture docs/results/timeline.png``. The run of :mod:`benchmarks.distributed`
with a learner in a process of its own; the picture shows its last seconds, the figures the share of the time for which
each role was at work, and for which two of them were at once. A process that waits for a free core counts as working.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from atradiff.adaptation.config import AdaptationConfig
from benchmarks.distributed import distributed_run
from benchmarks.figures import show
from benchmarks.overhead import small_diffuser
from cluster.cluster_config import LearnerConfig
from cluster.config import RunConfig
from cluster.placement import Resources
from cluster.progress import Progress
from cluster.run import Stopped, train

ROLES = {
    "acting": ("DirectEnvRunner.apply",),
    "learning": ("_WrappedExecutable.apply",),
    "replay": ("ReplayActor.store", "ReplayActor.sample", "ReplayActor.report"),
    "generating": ("GeneratorActor.generate",),
    "adapting": ("AdapterActor.update",),
}
"""Tasks that are each role's work, by the beginning of their name; waiting for requests is nobody's. RLlib runs what it
asks of its env runners and learners through ``apply``."""


@dataclass(frozen=True)
class Span:
    """A task of ``role`` in one process, in seconds of Ray's clock."""

    role: str
    process: str
    begin: float
    end: float


def spans_of(events: Iterable[dict[str, Any]]) -> list[Span]:
    """The tasks of the roles in what ``ray.timeline()`` gives."""
    spans = []
    for event in events:
        role = _role(str(event.get("cat", "")).removeprefix("task::"))
        if role is not None and event.get("ph") == "X":
            begin = float(event["ts"]) * 1e-6
            spans.append(Span(role, f"{event['pid']} {event['tid']}", begin, begin + float(event["dur"]) * 1e-6))
    return spans


def busy(spans: list[Span], since: float, until: float, resolution: float = 1e-3) -> dict[str, NDArray[np.bool_]]:
    """For each role, whether any of its processes was at work in each ``resolution`` seconds of the interval."""
    steps = int((until - since) / resolution)
    working = {role: np.zeros(steps, bool) for role in ROLES}
    for span in spans:
        first, last = (int((moment - since) / resolution) for moment in (span.begin, span.end))
        working[span.role][max(first, 0) : max(last + 1, 0)] = True
    return working


def shares(working: dict[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Share of the time for which each role worked, and for which each worked while something was learned."""
    alone = {role: float(at_work.mean()) for role, at_work in working.items()}
    beside = {
        f"{role} while learning": float((at_work & working["learning"]).mean())
        for role, at_work in working.items()
        if role != "learning"
    }
    return alone | beside


def draw(spans: list[Span], since: float, until: float, path: Path) -> None:
    """One line for each process, one colour for each role."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = dict(zip(ROLES, ("#0072b2", "#d55e00", "#999999", "#009e73", "#cc79a7"), strict=True))
    shown = [span for span in spans if span.end > since]
    lines = sorted({(list(ROLES).index(span.role), span.process) for span in shown})
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(lines) + 1.2), layout="constrained")
    for y, (index, process) in enumerate(lines):
        role = list(ROLES)[index]
        own = [span for span in shown if (span.role, span.process) == (role, process)]
        bars = [(span.begin - since, max(span.end - span.begin, 2e-3)) for span in own]
        axes.broken_barh(bars, (y - 0.38, 0.76), color=colours[role])
    axes.set_yticks(range(len(lines)), [list(ROLES)[index] for index, _ in lines])
    axes.invert_yaxis()
    axes.set_xlim(0, until - since)
    axes.set_xlabel("seconds")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def record(run: RunConfig) -> list[Span]:
    """Train ``run`` to its end, and return its tasks of the last minutes that Ray remembers."""
    spans: list[Span] = []

    def watch(progress: Progress) -> None:
        if progress.env_steps >= run.env_steps and not spans:
            spans.extend(spans_of(ray.timeline()))
            os.kill(os.getpid(), signal.SIGINT)

    with suppress(Stopped):
        train(replace(run, env_steps=10**9), watch)
    return spans


def _role(name: str) -> str | None:
    return next((role for role, beginnings in ROLES.items() if name.startswith(beginnings)), None)


def main() -> None:
    """Print the share of time that each part works; ``--json`` and ``--picture`` write files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--picture", type=Path, help="PNG file to draw into")
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--env-steps", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the end of the run that are looked at")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = small_diffuser(args.env, 200, Path(scratch))
        run = distributed_run(args.env, model, Path(scratch), args.env_steps)
        if run.cluster is None:
            raise ValueError("the run of benchmarks.distributed has no cluster section.")
        learners = LearnerConfig(learners=1, resources=Resources(num_cpus=0.3))
        # Often, so that an update lies within the seconds that are looked at.
        run = replace(run, cluster=replace(run.cluster, learners=learners), adaptation=AdaptationConfig(every=1_000))
        spans = record(run)
    until = max(span.end for span in spans)
    figures = {"seconds": args.seconds, "share_of_time": shares(busy(spans, until - args.seconds, until))}
    show(figures, args.json)
    if args.picture:
        draw(spans, until - args.seconds, until, args.picture)


if __name__ == "__main__":
    main()
