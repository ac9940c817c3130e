"""The actors of the pool: put to work when they are ready, drained before they go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from atradiff.errors import RunFailed
from cluster.dispatch import Roster
from cluster.generator_actor import Ticket


class GeneratorError(RunFailed):
    """A generator raised an error of its own (not a crash, which Ray repairs); the message holds it."""


class GeneratorFleet:
    """Generator actors by number; ``start`` makes the one with a given number, ``ticket`` says what it begins with.

    A number that is free again is given to the next actor: number and placement belong together.
    """

    def __init__(self, in_flight: int, start: Callable[[int], ActorHandle], ticket: Callable[[], Ticket]) -> None:
        self.roster = Roster(in_flight)
        self.restarts = 0
        self._start, self._ticket = start, ticket
        self._actors: dict[int, Any] = {}
        self._processes: dict[int, int] = {}
        self._starting: dict[ray.ObjectRef, int] = {}

    def __len__(self) -> int:
        """Actors that work or will do so, without those that are being drained."""
        return len(self.roster) + len(self._starting)

    @property
    def starting(self) -> list[ray.ObjectRef]:
        """One reference for each actor that is not ready yet: for :meth:`arrived`, once Ray has it."""
        return list(self._starting)

    @property
    def processes(self) -> list[int]:
        """The process of each actor when it was last heard from."""
        return [self._processes[number] for number in sorted(self._processes)]

    def resize(self, size: int) -> None:
        """Start or retire actors until there will be ``size``; those that have drained are ended."""
        while len(self) < size:
            self._add()
        while len(self) > size:
            self._drop()
        for number in self.roster.drained:
            self.roster.remove(number)
            self._end(number)

    def arrived(self, reference: ray.ObjectRef) -> None:
        """Put the actor of ``reference`` to work; raises :class:`GeneratorError` where it could not be built."""
        number = self._starting.pop(reference)
        self._processes[number] = self.read(number, reference)
        self.roster.add(number)

    def send(self, number: int, *request: Any) -> tuple[ray.ObjectRef, ray.ObjectRef]:
        """Give a batch to actor ``number``; returns the references of its rows and of its report."""
        rows, report = self._actors[number].generate.remote(*request)
        self.roster.began(number)
        return rows, report

    def heard_from(self, number: int, process: int) -> None:
        """A report came from ``process``: another one than before means that Ray restarted the actor."""
        self.restarts += process != self._processes[number]
        self._processes[number] = process

    def read(self, number: int, reference: ray.ObjectRef) -> Any:
        """The value of ``reference``; what the actor raised becomes a :class:`GeneratorError`."""
        try:
            return ray.get(reference)
        except (RayTaskError, RayActorError) as error:
            cause = getattr(error, "cause", None) or error
            raise GeneratorError(
                f"generator {number} failed and would fail again: {cause}. Mend the cause, then go on with --resume."
            ) from error

    def end(self) -> None:
        """End all actors, whatever they are doing."""
        for number in list(self._actors):
            self._end(number)
        self._starting.clear()

    def _add(self) -> None:
        number = next(n for n in range(len(self._actors) + 1) if n not in self._actors)
        self._actors[number] = self._start(number)
        self._starting[self._actors[number].ready.remote(self._ticket())] = number

    def _drop(self) -> None:
        """One that does not work yet, else the one that came last: it has the least to lose."""
        if self._starting:
            self._end(self._starting.popitem()[1])
        else:
            self.roster.retire(self.roster.active[-1])

    def _end(self, number: int) -> None:
        ray.kill(self._actors.pop(number), no_restart=True)
        self._processes.pop(number, None)
