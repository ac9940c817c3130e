"""The replay service in the algorithm's own process: bit for bit the same from the same seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atradiff.branches import own_actions
from atradiff.ports import EpisodeRows, RowSink, ServiceOrder
from atradiff.replay.batch import ReplayBatch
from atradiff.replay.metrics import replay_metrics
from atradiff.replay.mixed import MixedReplay
from atradiff.replay.offline import OfflineRows
from atradiff.replay.watcher import Watcher
from atradiff.serving import LocalServer
from atradiff.types import FloatArray

_SERVING_FILE = "serving.json"


class LocalReplay:
    """A :class:`MixedReplay` that answers its requests between two updates: a :class:`atradiff.ports.ReplayService`."""

    sink: RowSink | None = None

    def __init__(self, order: ServiceOrder, watcher: Watcher | None = None) -> None:
        self._order = order
        self._seed = order.seed
        self.replay = _build_replay(order, watcher)
        self.server = self._build_server()

    @property
    def env_steps(self) -> int:
        """Real rows stored since the first step of the run."""
        return self.replay.counters.env_steps

    def store(self, chunk: EpisodeRows) -> None:
        """Algorithm 1, Store. No answer is ever lost in one process: the chunk's name is not looked at."""
        self.replay.store(chunk.rows, chunk.episodes)

    def serve(self) -> None:
        """Answer the requests that are due; what the generator raises is passed on."""
        if self.server is not None:
            self.server.serve()

    def sample(self, count: int, batch_size: int) -> list[ReplayBatch]:
        """``count`` batches of ``batch_size`` rows."""
        return [self.replay.sample(batch_size) for _ in range(count)]

    def report_td_errors(self, batches: list[ReplayBatch], td_errors: FloatArray) -> None:
        """Tell the replay, and whoever watches it, the absolute TD errors (count, B) of these batches."""
        row_ids = np.concatenate([batch.row_ids for batch in batches])
        origins = np.concatenate([batch.origins for batch in batches])
        self.replay.report_td_errors(row_ids, origins, td_errors.ravel())

    def metrics(self) -> dict[str, float]:
        """Counters and gauges of this moment, by the names of docs/metrics.md."""
        figures = replay_metrics(self.replay, None if self.server is None else self.server.generator.version)
        own_rows = None if self.server is None else self.server.own_rows
        return figures if own_rows is None else figures | {"own_rows": own_rows}

    def save(self, folder: Path) -> None:
        """Write replay, requests and seed into ``folder``, which must exist."""
        self.replay.save(folder)
        own_rows = None if self.server is None else self.server.own_rows
        told = {"seed": self._seed} | ({} if own_rows is None else {"own_rows": own_rows})
        (folder / _SERVING_FILE).write_text(json.dumps(told))

    def load(self, folder: Path) -> None:
        """Become what :meth:`save` wrote; ``ValueError`` where it is of another configuration, or damaged."""
        try:
            told = json.loads((folder / _SERVING_FILE).read_text())
            seed, own_rows = int(told["seed"]), int(told.get("own_rows", 0))
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} has no {_SERVING_FILE}: it is damaged, or the checkpoint is of a run as actors, which only "
                "goes on as actors."
            ) from error
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder / _SERVING_FILE} is damaged: take another checkpoint.") from error
        self.replay.load(folder)
        self._seed = seed
        self.server = self._build_server()
        if self.server is not None and self.server.own_rows is not None:
            self.server.own_rows = own_rows

    def close(self) -> None:
        """Nothing was begun: no threads, no actors."""

    def _build_server(self) -> LocalServer | None:
        order = self._order
        if order.generator is None:
            return None
        own = own_actions(order)
        return LocalServer(self.replay, order.generator, order.serving, self._seed, order.to_learner, own)


def _build_replay(order: ServiceOrder, watcher: Watcher | None) -> MixedReplay:
    offline = None
    if order.offline is not None and order.replay.offline_share > 0:
        offline = OfflineRows.of(order.offline, order.to_learner)
    return MixedReplay(order.spaces, order.replay, order.seed, watcher=watcher, offline=offline)


@dataclass(frozen=True)
class LocalServices:
    """Makes a :class:`LocalReplay` for each algorithm: the default of every configuration."""

    def start(self, order: ServiceOrder) -> LocalReplay:
        return LocalReplay(order)
