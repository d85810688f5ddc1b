"""The queues that a runner works on, which may change while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from oban_sa import backoff
from oban_sa.failures import describe
from oban_sa.messages import EVERY
from oban_sa.models import Job
from oban_sa.runner.executor import Running
from oban_sa.runner.producer import Producer
from oban_sa.runner.waiting import cancelled
from oban_sa.runner.young import Key
from oban_sa.verdicts import Attempt, Verdict

logger = logging.getLogger("oban_sa.runner")


class Making(Protocol):
    """Makes the producer of a queue."""

    def __call__(self, queue: str, limit: int, *, paused: bool) -> Producer:
        """Make one that is not started yet."""
        ...


class Queues:
    """One producer for each queue, and those of queues that were stopped and whose last jobs still run."""

    def __init__(
        self, make: Making, limits: Mapping[str, int], *, counted: Callable[[int], object] = lambda _: None
    ) -> None:
        """`counted` is told how many producers there are, each time it changes."""
        self._make = make
        self._counted = counted
        self.serving: dict[str, Producer] = {queue: make(queue, limit, paused=False) for queue, limit in limits.items()}
        self._leaving: list[Producer] = []
        self._begun = False
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[asyncio.Task[int]] = set()
        # Read by the heartbeat's thread: replaced at every change, never changed itself.
        self.all: tuple[Producer, ...] = ()
        self._changed()

    async def begin(self) -> None:
        """Start the producers there are; later ones start as they are ordered."""
        self._begun = True
        # First all rows, and then the jobs: one that blocks the loop would keep this node from hearing that a row was
        # written, and only those are kept alive of which it has.
        for producer in self.all:
            if not producer.registered:  # as where the database went away in between, and all is begun once more
                await producer.register()
        for producer in self.all:
            await producer.start()

    def quiesce(self) -> None:
        """Fetch no more in any queue, and take no more orders to work on others."""
        self._closing = True
        for producer in self.all:
            producer.quiesce()

    async def close(self) -> int:
        """Stop every producer, also those on their way out: how many jobs were given back."""
        self._closing = True
        await cancelled(*self._tasks)
        return sum(await asyncio.gather(*(producer.stop() for producer in self.all), *self._stopping))

    def nudge(self, queue: str) -> None:
        """Look for jobs of a queue as soon as possible."""
        for producer in self._named(queue):
            producer.nudge()

    def pause(self, queue: str) -> None:
        """Start no more jobs of a queue."""
        for producer in self._named(queue):
            if not producer.paused:
                producer.pause()
                logger.info("queue %s is paused", producer.queue)

    def resume(self, queue: str) -> None:
        """Start jobs of a queue again."""
        for producer in self._named(queue):
            if producer.paused:
                producer.resume()
                logger.info("queue %s is resumed", producer.queue)

    def scale(self, queue: str, limit: int) -> None:
        """Run so many jobs of a queue at once."""
        for producer in self._named(queue):
            if producer.limit != limit:
                logger.info("queue %s runs %d jobs at once, not %d", producer.queue, limit, producer.limit)
                producer.scale(limit)

    def start(self, queue: str, limit: int, *, paused: bool) -> None:
        """Work on a queue; where that is done already, with this limit, and paused or not."""
        if self._closing or queue == EVERY:
            return
        if queue in self.serving:
            self.scale(queue, limit)
            (self.pause if paused else self.resume)(queue)
            return
        producer = self.serving[queue] = self._make(queue, limit, paused=paused)
        self._changed()
        logger.info("queue %s is started, %d jobs at once", queue, limit)
        if self._begun:
            self._own(self._start(producer))

    def stop(self, queue: str) -> None:
        """Work on a queue no more, once its running jobs have ended."""
        if self._closing:
            return
        for producer in self._named(queue):
            del self.serving[producer.queue]
            producer.quiesce()
            self._leaving.append(producer)
            self._changed()
            logger.info("queue %s is stopped; %d jobs of it still run", producer.queue, len(producer.running))
            self._own(self._leave(producer))

    def cancel(self, job_id: int, *, attempted_at: datetime | None = None) -> None:
        """Ask a job to stop if it runs here; with `attempted_at` if this very attempt does."""
        for producer in self.all:
            producer.cancel(job_id, attempted_at)

    def lose(self, job_id: int, running: Running) -> None:
        """Interrupt an attempt whose job is another's by now, where it is still under way."""
        for producer in self.all:
            if producer.lose(running):
                logger.warning("job %d was given to others while it ran here; it is interrupted", job_id)

    def unwritten(self) -> Iterator[Key]:
        """The attempts that are under way, or whose outcome is not written yet."""
        for producer in self.all:
            known: list[Attempt | Verdict] = [*producer.under_way(), *producer.unwritten()]
            for each in known:
                if each.attempted_at is not None:
                    yield Key(each.job_id, each.attempted_at)

    def hold(self, job: Job) -> bool:
        """Whether a job is held by a producer here."""
        return any(str(producer.uuid) in job.attempted_by for producer in self.all)

    def find(self, job_id: int) -> tuple[Job, asyncio.Task[None]] | None:
        """Return a job that runs here and the task of its attempt, or None."""
        for producer in self.all:
            running = producer.running.get(job_id)
            if running is not None and running.task is not None:
                return running.job, running.task
        return None

    def recount(self, uuids: Collection[UUID]) -> None:
        """Let these producers ask which of their jobs they still hold: their rows were gone."""
        for producer in self.all:
            if producer.uuid in uuids:
                producer.recount()

    async def attempts_ended(self, within: float) -> None:
        """Wait until nothing runs any more, for so many seconds at most."""
        running = [each.task for producer in self.all for each in producer.running.values() if each.task is not None]
        if running:
            await asyncio.wait(running, timeout=within)

    def _named(self, queue: str) -> list[Producer]:
        if queue == EVERY:
            return list(self.serving.values())
        return [self.serving[queue]] if queue in self.serving else []

    def _changed(self) -> None:
        self.all = (*self.serving.values(), *self._leaving)
        self._counted(len(self.all))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, producer: Producer) -> None:
        failures = 0
        while self.serving.get(producer.queue) is producer:
            try:
                await producer.start()
            except Exception as error:
                failures += 1
                if failures == 1:
                    logger.warning(
                        "queue %s could not be started (%s) and is tried again", producer.queue, describe(error)
                    )
                await asyncio.sleep(backoff.retrying(failures))
            else:
                return

    async def _leave(self, producer: Producer) -> None:
        while tasks := [running.task for running in producer.running.values() if running.task is not None]:
            await asyncio.wait(tasks)
        # First out of sight of the heartbeat, which would write the row again.
        self._leaving.remove(producer)
        self._changed()
        stopping = asyncio.create_task(producer.stop())
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)
