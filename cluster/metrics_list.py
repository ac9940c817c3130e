"""The one list of what a run tells: TensorBoard, ``metrics.csv``, Prometheus, Grafana and docs/metrics.md follow it.

``python -m cluster.metrics_list`` prints the table of docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True)
class Metric:
    """One figure of a run, in ASCII: Ray's metrics take nothing else.

    Args:
        name: Its column in ``metrics.csv`` and, unless ``board`` says otherwise, its name in TensorBoard.
        path: Where the result of an iteration holds it.
        unit: As the documentation writes it; "-" for none.
        help: What it is, and where it should lie.
        kind: A counter only grows while a run lives.
        board: Its name in TensorBoard.
    """

    name: str
    path: tuple[str, ...]
    unit: str
    help: str
    kind: Kind = "gauge"
    board: str | None = None

    @property
    def tag(self) -> str:
        return self.board or self.name

    @property
    def group(self) -> str:
        """The part of the system that it is of."""
        return self.tag.partition("/")[0]

    @property
    def prometheus(self) -> str:
        """Its name in ``ray.util.metrics``; Ray's endpoint puts ``ray_`` before it."""
        return "atradiff_" + self.name.replace("/", "_")

    def read(self, result: Mapping[str, Any]) -> float | None:
        """Its value, None where this result has none: nothing learned yet, no pool in this run."""
        value: Any = result
        for key in self.path:
            if not isinstance(value, Mapping) or key not in value:
                return None
            value = value[key]
        number = float("nan") if value is None else float(value)
        return number if np.isfinite(number) else None


def _of_result(name: str, unit: str, help_: str, kind: Kind = "gauge") -> Metric:
    """The usual case: ``group/key`` lies at ``result[group][key]``."""
    return Metric(name, tuple(name.split("/")), unit, help_, kind)


METRICS: tuple[Metric, ...] = (
    Metric(
        "env_steps",
        ("run", "env_steps"),
        "steps",
        "Real environment steps so far. The x axis of everything.",
        "counter",
        "run/env_steps",
    ),
    Metric(
        "eval_return",
        ("run", "eval_return"),
        "reward",
        "Mean undiscounted return of deterministic episodes on an environment of its own.",
        board="evaluation/return",
    ),
    Metric(
        "eval_return_std",
        ("run", "eval_return_std"),
        "reward",
        "Spread over those episodes.",
        board="evaluation/return_std",
    ),
    Metric(
        "wall_seconds",
        ("run", "wall_seconds"),
        "s",
        "Since the run began, pauses between stop and resume left out.",
        "counter",
        "run/wall_seconds",
    ),
    Metric(
        "train/episode_return",
        ("env_runners", "episode_return_mean"),
        "reward",
        "Of the exploring policy. Empty where no episode has ended for a while.",
    ),
    Metric("train/episode_length", ("env_runners", "episode_len_mean"), "steps", "Of the same episodes."),
    _of_result(
        "learner/critic_loss",
        "reward^2",
        "Mean squared TD error, summed over the critics. This and the next ones are means over the updates of the "
        "learner's last call. Rises with the scale of Q; a steady climb over orders of magnitude is divergence.",
    ),
    _of_result("learner/actor_loss", "reward", "alpha * log pi - Q. Roughly minus `learner/q_mean`."),
    _of_result(
        "learner/q_mean",
        "reward",
        "Mean Q of its batches. Far above what `gamma` and the rewards allow: overestimation, often from untrue "
        "synthetic rows; try `layer_norm`.",
    ),
    _of_result("learner/td_error", "reward", "Mean absolute TD error of its batches."),
    _of_result(
        "learner/alpha",
        "-",
        "Temperature. Falls from `initial_alpha`; stuck near 0 early means the policy stopped exploring.",
    ),
    _of_result(
        "learner/entropy", "nats", "Of the policy; settles at the target, minus the number of action dimensions."
    ),
    _of_result(
        "learner/updates",
        "updates",
        "Critic updates so far: `utd` for each env step after `learning_starts`.",
        "counter",
    ),
    _of_result("replay/real_rows", "rows", "Fill of D_o."),
    _of_result("replay/synthetic_rows", "rows", "Fill of D_s; its ratio to D_o should come near rho / (1 - rho)."),
    _of_result(
        "replay/synthetic_rows_drawable",
        "rows",
        "Those of D_s within `replay.max_synthetic_age` (all without one); the synthetic share comes from them alone. "
        "Near rho / (1 - rho) times that age; far below it a few rows are drawn again and again: are requests waiting?",
    ),
    _of_result("replay/real_fill", "share", "D_o's rows over its capacity. At 1 the oldest rows are overwritten."),
    _of_result("replay/synthetic_fill", "share", "D_s's rows over its capacity."),
    _of_result(
        "replay/offline_share_sampled",
        "share",
        "Rows of the offline data, of all rows sampled: `replay.offline_share`.",
    ),
    _of_result(
        "replay/expected_length",
        "rows",
        "L of algorithm 1: the moving average of what was generated, or the fixed value.",
    ),
    _of_result(
        "replay/requests_pending",
        "requests",
        "Waiting to be generated. In process below `serving.requests_per_batch`; growing without end: more generators.",
    ),
    _of_result(
        "replay/oldest_request_age",
        "steps",
        "Age of the oldest request in the queue, in env steps. Well below `replay.max_request_age`.",
    ),
    _of_result(
        "replay/requests_dropped",
        "requests",
        "Older than `replay.max_request_age`: dropped from the queue unanswered, or their answers came too late. 0 in "
        "process; many: more generators.",
        "counter",
    ),
    _of_result(
        "replay/answers_ignored",
        "requests",
        "Answers to requests that were answered before. Grows with restarts and put-backs only.",
        "counter",
    ),
    _of_result(
        "replay/own_rows",
        "rows",
        "Imagined rows with the agent's own actions; empty without `serving.own_share`. On a cluster: `pool/own_rows`.",
        "counter",
    ),
    _of_result(
        "replay/synthetic_age_steps",
        "steps",
        "Mean age of D_s. About half the run for a ring that is not full yet.",
    ),
    _of_result(
        "replay/synthetic_age_versions",
        "versions",
        "Mean number of weight updates since the rows were made. 0 for a fixed diffuser.",
    ),
    _of_result(
        "replay/learner_wait_share",
        "share",
        "Time that the learner waited for batches, of all its time. Below 0.05; above: a deeper prefetch.",
    ),
    _of_result(
        "replay/requests_outstanding",
        "requests",
        "Taken by generators and not answered yet: at most 2 batches for each generator. Stands still above 0: a node "
        "is gone; they go back to the queue after `cluster.pool.patience`.",
    ),
    _of_result(
        "replay/chunks_repeated",
        "chunks",
        "Chunks of rows that a sender sent again because it heard no answer; stored once. Grows with restarts only.",
        "counter",
    ),
    _of_result(
        "replay/journal_bytes",
        "bytes",
        "Of the replay's journal. Falls to near 0 with each snapshot (`cluster.replay.snapshot_every`).",
    ),
    _of_result("replay/restarts", "restarts", "Times that Ray started the replay actor again.", "counter"),
    _of_result("pool/size", "actors", "Generators of the pool."),
    _of_result("pool/starting", "actors", "Those of them that are not ready yet. 0 but for a while after a change."),
    _of_result("pool/in_flight", "batches", "Batches being generated: at most 2 for each generator."),
    _of_result("pool/batches", "batches", "Batches that are answered and stored.", "counter"),
    _of_result("pool/requests_answered", "requests", "The requests of those batches.", "counter"),
    _of_result(
        "pool/own_rows",
        "rows",
        "Imagined rows with the agent's own actions. 0 without `serving.own_share`.",
        "counter",
    ),
    _of_result(
        "pool/requests_put_back",
        "requests",
        "Handed back to the queue: nobody answered in time, or the pool shrank. Near 0.",
        "counter",
    ),
    _of_result(
        "pool/service_p50_ms",
        "ms",
        "Half of the batches take a generator less. Latencies far above: batches wait for generators.",
    ),
    _of_result(
        "pool/latency_p50_ms",
        "ms",
        "Half of the batches take less from the moment that a generator is sent them until their rows are stored.",
    ),
    _of_result("pool/latency_p99_ms", "ms", "99 of 100 batches take less, measured likewise."),
    _of_result("pool/version_served", "versions", "Of the weights that the newest rows were made with."),
    _of_result("pool/gpu_bytes", "bytes", "Held on its GPU by the generator that answered last; 0 on CPUs."),
    _of_result("pool/restarts", "restarts", "Times that Ray started a generator again.", "counter"),
    _of_result("adapter/updates", "updates", "Versions that the adapter has made.", "counter"),
    _of_result(
        "adapter/rollbacks",
        "updates",
        "Updates taken back, because the loss on held-out windows rose or weights were not finite. Many: a lower rate, "
        "more offline windows.",
        "counter",
    ),
    _of_result("adapter/restarts", "restarts", "Times that Ray started the adapter again.", "counter"),
    _of_result(
        "adapter/original_share",
        "share",
        "Trajectories made by the diffuser as it was fitted, of all since its first update: near "
        "`adaptation.original_share`, by chance above or below it.",
    ),
    _of_result(
        "sampling/env_runner_restarts",
        "restarts",
        "Times that RLlib started a remote env runner again; its unfinished episode is lost.",
        "counter",
    ),
    _of_result(
        "sampling/fragments_lost",
        "fragments",
        "Requests for steps that a remote env runner took with it when it died. At most one for each restart.",
        "counter",
    ),
    _of_result("trainer/restarts", "restarts", "Times that the trainer went on from a checkpoint.", "counter"),
    _of_result("time/sample", "s", "Mean time of one iteration spent acting."),
    _of_result("time/generate", "s", "The same for generating; small beside `time/learn`. On a cluster near 0."),
    _of_result("time/learn", "s", "The same for learning."),
    Metric(
        "time/env_steps_per_second",
        ("run", "env_steps_per_second"),
        "1/s",
        "Env steps over wall clock since the entry before this one, evaluation included.",
    ),
    _of_result("gpu/memory_bytes", "bytes", "In use on the GPUs that the trainer sees, by all processes."),
)


def markdown_table() -> str:
    """The table of docs/metrics.md, name | unit | what it is."""
    rows = ["| name | unit | what it is, and where it should lie |", "|---|---|---|"]
    for metric in METRICS:
        also = f" (TensorBoard: `{metric.tag}`)" if metric.tag != metric.name else ""
        rows.append(f"| `{metric.name}`{also} | {metric.unit} | {metric.help} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown_table())
