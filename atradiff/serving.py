"""The in-process way to answer the replay buffer's requests: the generator pool's job, done between two updates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atradiff.branches import OwnActions, branched
from atradiff.config import ServingConfig
from atradiff.ports import TrajectoryGenerator
from atradiff.replay.mixed import GenerationRequest, MixedReplay
from atradiff.types import FloatArray, SyntheticRows, Transitions


def request_seed(run_seed: int, first: GenerationRequest) -> int:
    """The generator seed of a batch: a function of the run and the batch's first request, so that retries agree."""
    return int(np.random.SeedSequence([run_seed, first.request_id]).generate_state(1)[0])


def imagined_rows(
    generator: TrajectoryGenerator,
    states: FloatArray,
    seed: int,
    to_learner: Callable[[Transitions], Transitions],
    own: OwnActions | None = None,
) -> SyntheticRows:
    """What the replay is given for requests from ``states`` (B, S): the same in process and from an actor.

    ``own`` puts the agent's own actions into a share of the rows; None: all are as the generator makes them.
    """
    trajectories = generator.generate(states, generator_seed=seed)
    version = trajectories.generator_version
    if own is None:
        return SyntheticRows(to_learner(trajectories.to_transitions()), trajectories.lengths, version)
    made = branched(generator, trajectories, own, seed)
    return SyntheticRows(to_learner(made.rows), made.lengths, version, made.own_rows, made.versions)


class LocalServer:
    """Generates queued requests in the calling process; the same seed and requests give the same rows.

    ``to_learner`` brings a generator's transitions (the environment's action scale) to the scale of the replay rows.
    ``own`` takes a snapshot of the agent's policy for each batch; None: no rows have its actions.
    """

    def __init__(
        self,
        replay: MixedReplay,
        generator: TrajectoryGenerator,
        config: ServingConfig,
        seed: int,
        to_learner: Callable[[Transitions], Transitions],
        own: Callable[[], OwnActions] | None = None,
    ) -> None:
        self.replay = replay
        self.generator = generator
        self._config = config
        self._seed = seed
        self._to_learner = to_learner
        self._own = own
        self.own_rows: int | None = None if own is None else 0
        """Rows of the agent's own actions that were made; None where they are not asked for."""

    def serve(self) -> int:
        """Answer every batch that is due; returns the number of synthetic rows stored.

        What the generator raises is passed on, with the batch back in the queue.
        """
        stored = 0
        while self._due():
            requests = self.replay.take_requests(self._config.requests_per_batch)
            if not requests:  # all that waited had grown too old
                break
            try:
                stored += self._answer(requests)
            except BaseException:  # a keyboard interrupt as well: a checkpoint may follow
                self.replay.put_back(requests)
                raise
        return stored

    def _due(self) -> bool:
        pending, age = self.replay.pending, self.replay.oldest_request_age
        return pending >= self._config.requests_per_batch or (pending > 0 and age >= self._config.max_wait)

    def _answer(self, requests: list[GenerationRequest]) -> int:
        states = np.stack([request.state for request in requests])
        seed = request_seed(self._seed, requests[0])
        own = None if self._own is None else self._own()
        made = imagined_rows(self.generator, states, seed, self._to_learner, own)
        if self.own_rows is not None:
            self.own_rows += made.own_rows
        return self.replay.store_synthetic(requests, made.rows, made.lengths, made.versions)
