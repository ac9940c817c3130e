"""The loop body of one run: an iteration of the algorithm, then evaluation and checkpoint when due."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from atradiff.adaptation.report import AdaptationReport
from atradiff.adaptation.service import AdaptingReplay
from atradiff.environments import make_env
from atradiff.staging import write_text
from cluster.checkpoint import Checkpoint
from cluster.checkpoint_files import Part, here
from cluster.config import RunConfig
from cluster.logging import RunLog
from cluster.progress import Progress
from cluster.run_folder import MetricsFile
from cluster.run_store import RunStore
from rllib_ext.ensemble_sac import EnsembleSAC
from rllib_ext.evaluation import evaluate

ALGORITHM_PART = "algorithm"
_CHECKPOINTS_FORGIVEN = 3
"""So many in a row may fail."""
_EVALUATION = 1
"""Sets the evaluation's stream of seeds apart from whatever else is drawn from the run's seed."""

_logger = logging.getLogger(__name__)


def evaluation_seed(seed: int) -> int:
    """Where the seeds of a run's evaluation episodes begin: other starts than in training and in other runs."""
    return int(np.random.SeedSequence([seed, _EVALUATION]).generate_state(1)[0]) // 2


class Session:
    """One run under way. Whoever holds it calls :meth:`advance` until :attr:`finished`, then :meth:`finish`.

    ``other_parts`` join the algorithm's in every checkpoint; whoever owns them also restores them.
    """

    def __init__(
        self,
        run: RunConfig,
        store: RunStore,
        algorithm: EnsembleSAC,
        log: RunLog,
        other_parts: Mapping[str, Part] | None = None,
    ) -> None:
        self._run = run
        self._store = store
        self._algorithm = algorithm
        self._log = log
        self._other_parts = dict(other_parts or {})
        self._make_env = partial(make_env, run.env)
        self._env_steps = 0
        self._checkpointed_at = -1
        self._behind = False
        self._checkpoints_failed = 0
        self._wall_before, self._cpu_before = 0.0, 0.0
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self._last_return: float | None = None

    @property
    def finished(self) -> bool:
        """Whether all env steps are done, and learned from."""
        return self._env_steps >= self._run.env_steps and not self._behind

    @property
    def progress(self) -> Progress:
        return Progress(self._env_steps, self._last_return, self.finished)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from ``checkpoint``; newer ones of the run are dropped, see :meth:`CheckpointStore.drop_after`."""
        self._take_over(checkpoint)
        with checkpoint.part(ALGORITHM_PART).open() as folder:
            self._algorithm.load_state(folder)
        self._checkpointed_at = self._env_steps
        self._behind = checkpoint.state.get("behind", False)  # checkpoints of earlier versions do not say it
        self._store.checkpoints.drop_after(self._env_steps)

    def rejoin(self, checkpoint: Checkpoint | None) -> None:
        """Go on with the replay as it is, and with the learner of ``checkpoint`` (None: a new one).

        For a replay that outlived its learner: the real rows since the checkpoint are kept and learned from again,
        before the next step. Where checkpoints were lost, only the steps of two intervals between them are made up for.
        Where the replay has all steps of the run, iterations follow until that is done, one at least: nobody has
        evaluated this learner. The clock goes on from the curve's last row, where that is later than the checkpoint.
        """
        if checkpoint is not None:
            self._take_over(checkpoint)
            with checkpoint.part(ALGORITHM_PART).open() as folder:
                self._algorithm.load_learner_state(folder)
        self._algorithm.go_on_elsewhere()
        self._algorithm.owe_at_most(2 * self._run.checkpoint.every)
        self._env_steps, self._behind = self._algorithm.env_steps, True
        told = MetricsFile(self._store.folder.metrics).newest("wall_seconds")
        self._wall_before = max(self._wall_before, 0.0 if told is None else told)

    def advance(self, gauges: Mapping[str, Mapping[str, float]] | None = None) -> Progress:
        """One iteration: act and learn, evaluate and checkpoint when due. ``gauges`` are logged with its result."""
        before = self._env_steps
        result = self._algorithm.train() | dict(gauges or {})
        if self._behind:  # what is made up for is new, though no env step is
            self._checkpointed_at, self._behind = -1, self._algorithm.behind
        service = self._algorithm.service
        if isinstance(service, AdaptingReplay):  # on a cluster it is the driver who hears of updates
            self.note(service.adaptation.take_reports())
        self._env_steps = self._algorithm.env_steps
        if _passed(self._run.evaluation.every, before, self._env_steps) or self.finished:
            self._evaluate(result)
        else:
            self._log.iteration(self._env_steps, self._wall_seconds, result)
        if self.finished or _passed(self._run.checkpoint.every, before, self._env_steps):
            self._checkpoint_if_possible()
        return self.progress

    def note(self, reports: Sequence[AdaptationReport]) -> None:
        """Log what became of updates of the diffuser."""
        for report in reports:
            self._log.adaptation(report)

    def checkpoint(self) -> None:
        """Write a checkpoint of this moment, unless there is one already."""
        if self._checkpointed_at == self._env_steps:
            return
        state = {
            "env_steps": self._env_steps,
            "wall_seconds": self._wall_seconds,
            "cpu_seconds": self._cpu_seconds,
            "last_return": self._last_return,
            "behind": self._behind,
        }
        parts = {ALGORITHM_PART: here(self._algorithm.save_state), **self._other_parts}
        self._store.write_checkpoint(self._env_steps, parts, state, keep=self._run.checkpoint.keep)
        self._checkpointed_at = self._env_steps

    def _checkpoint_if_possible(self) -> None:
        """A store that fails once, as object stores do, does not end a run of days: the next checkpoint is soon due.

        The last checkpoint of a run is not lost so: whoever ends it calls :meth:`checkpoint`.
        """
        try:
            self.checkpoint()
        except OSError as error:
            self._checkpoints_failed += 1
            if self._checkpoints_failed > _CHECKPOINTS_FORGIVEN:
                raise
            _logger.warning("The checkpoint of step %d could not be written: %s", self._env_steps, error)
        else:
            self._checkpoints_failed = 0

    def finish(self) -> None:
        """Write the summary, which says that the run is complete."""
        summary = {
            "env_steps": self._env_steps,
            "wall_seconds": self._wall_seconds,
            "cpu_seconds": self._cpu_seconds,
            "final_return": self._last_return,
        }
        write_text(self._store.folder.summary, json.dumps(summary, indent=2))
        self._store.mirror()

    def _evaluate(self, result: dict[str, Any]) -> None:
        """Evaluation seeds depend on the run's seed alone, so that arms and moments meet the same starts."""
        returns = evaluate(
            self._algorithm, self._make_env, self._run.evaluation.episodes, seed=evaluation_seed(self._run.seed)
        )
        self._last_return = float(returns.mean())
        self._log.evaluation(self._env_steps, self._wall_seconds, returns, result)

    def _take_over(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self._env_steps, self._wall_before = state["env_steps"], state["wall_seconds"]
        self._cpu_before = state.get("cpu_seconds", 0.0)  # checkpoints of earlier versions do not say it
        self._last_return = state["last_return"]

    @property
    def _wall_seconds(self) -> float:
        return self._wall_before + time.perf_counter() - self._began

    @property
    def _cpu_seconds(self) -> float:
        """Of this process with all of its threads: in process that is the whole run, on a cluster the trainer."""
        return self._cpu_before + time.process_time() - self._cpu_began


def _passed(every: int, before: int, now: int) -> bool:
    return now // every > before // every
