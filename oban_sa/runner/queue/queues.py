"""The queues that a runner works on, which may change while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from oban_sa.describe.exceptions import describe
from oban_sa.jobs import backoff
from oban_sa.models import Job
from oban_sa.runner.cluster.attempt_age import Key
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.queue.producer import Producer
from oban_sa.sql.producers import ProducerRow
from oban_sa.wire.messages import EVERY, News

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits

logger = logging.getLogger("oban_sa.runner")


CONNECT_AT_ONCE: Final = 4
"""Connections that a starting runner opens at the same time, however many queues it has."""

FETCHED_WITHIN: Final = 0.5
"""Seconds that a starting runner waits for its first fetches before it does anything beside them."""


class Making(Protocol):
    """Makes the producer of a queue, which is not started yet."""

    def __call__(self, queue: str, limit: int, *, paused: bool, limits: Limits | None) -> Producer: ...


class Queues:
    """The producers of a node: one for each queue it serves, and those of stopped queues whose last jobs still run."""

    def __init__(
        self,
        make: Making,
        limits: Mapping[str, int],
        *,
        within: Mapping[str, Limits] | None = None,
        counted: Callable[[int], object] = lambda _: None,
    ) -> None:
        """`within` are the limits in the cluster of the queues that have some.

        `counted` is called with the number of producers, each time it changes.
        """
        within = within or {}
        self._make = make
        self._counted = counted
        self.serving: dict[str, Producer] = {
            queue: make(queue, limit, paused=False, limits=within.get(queue)) for queue, limit in limits.items()
        }
        self._leaving: list[Producer] = []
        self.before_start: Callable[[], Awaitable[object]] | None = None
        """What a queue that is started at run time waits for before it fetches: its limits have to be known."""
        self._begun = False
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[asyncio.Task[int]] = set()
        # Read by the heartbeat's thread: replaced at every change, never changed itself.
        self.all: tuple[Producer, ...] = ()
        self._changed()

    async def connect(self) -> None:
        """Open the producers' connections, a few at a time."""
        gate = asyncio.Semaphore(CONNECT_AT_ONCE)

        async def connect(producer: Producer) -> None:
            async with gate:
                await producer.connect()

        await _all_of(map(connect, self.all))

    async def begin(self) -> None:
        """Start the producers; those of queues that are started later start at once."""
        self._begun = True
        # All rows before any job: a job that blocks the loop would keep this node from hearing that the next row was
        # written, and the heartbeat keeps only rows that it knows to be there.
        unwritten = [each.registration for each in self.all if not each.registration.row.kept]
        # Some are kept where the database went away in between, and all is begun once more.
        await _all_of(each.write() for each in unwritten)
        for producer in self.all:
            await producer.start()

    async def fetched(self) -> None:
        """Wait until each producer has looked for jobs once, for `FETCHED_WITHIN` seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FETCHED_WITHIN):
                for producer in self.all:
                    await producer.fetched.wait()

    def quiesce(self) -> None:
        """Fetch no more in any queue, and start no more queues."""
        self._closing = True
        for producer in self.all:
            producer.quiesce()

    async def close(self) -> int:
        """Stop every producer, also those of stopped queues: how many jobs were given back."""
        self._closing = True
        await cancelled(*self._tasks)
        return sum(await asyncio.gather(*(producer.stop() for producer in self.all), *self._stopping))

    def nudge(self, queue: str) -> None:
        """Look for jobs of a queue as soon as possible."""
        for producer in self._named(queue):
            producer.nudge()

    def hear(self, queue: str, news: News) -> None:
        """Look for jobs of a queue where a message on `insert` asks this node to."""
        for producer in self._named(queue):
            producer.hear(news)

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

    def limit(self, queue: str, limits: Limits | None) -> None:
        """Fetch jobs of a queue within these limits, all nodes together, or within none."""
        for producer in self._named(queue):
            if producer.limits != limits:
                producer.limit_to(limits)
                logger.info("queue %s has %s", producer.queue, "no limits" if limits is None else f"limits: {limits}")

    def start(self, queue: str, limit: int, *, paused: bool, limits: Limits | None = None) -> None:
        """Work on a queue; one that is served already is scaled, and paused or resumed."""
        if self._closing or queue == EVERY:
            return
        if queue in self.serving:
            self.scale(queue, limit)
            (self.pause if paused else self.resume)(queue)
            return
        producer = self.serving[queue] = self._make(queue, limit, paused=paused, limits=limits)
        self._changed()
        logger.info("queue %s is started, %d jobs at once", queue, limit)
        if self._begun:
            self._own(self._start(producer))

    def stop(self, queue: str) -> None:
        """Fetch no more jobs of a queue, and stop serving it once its running jobs have ended."""
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
        """Interrupt an attempt whose job was given to others, where it is still under way."""
        for producer in self.all:
            if producer.lose(running):
                logger.warning("job %d was given to others while it ran here; it is interrupted", job_id)

    def unwritten(self) -> Iterator[Key]:
        """The attempts that are under way, or whose outcome is not written yet."""
        for producer in self.all:
            for each in producer.unwritten():
                if each.attempted_at is not None:
                    yield Key(each.job_id, each.attempted_at)

    def rows(self) -> list[ProducerRow]:
        """Return the rows that the heartbeat keeps young; may be called from any thread."""
        return [producer.registration.values() for producer in self.all if producer.registration.row.kept]

    def hold(self, job: Job) -> bool:
        """Whether a job is held by a producer here."""
        return any(str(producer.uuid) in job.attempted_by for producer in self.all)

    def find(self, job_id: int) -> tuple[Job, asyncio.Task[object]] | None:
        """Return a job that runs here and the task of its attempt, or None."""
        for producer in self.all:
            running = producer.running.get(job_id)
            if running is not None and running.task is not None:
                return running.job, running.task
        return None

    def recount(self, uuids: Collection[UUID]) -> None:
        """Let these producers ask which of their running jobs were given to others: their rows were gone."""
        for producer in self.all:
            if producer.uuid in uuids:
                producer.recount()

    async def attempts_ended(self, within: float) -> None:
        """Wait until no attempt is under way, for so many seconds at most."""
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
                if self.before_start is not None:
                    await self.before_start()
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
        # Before its row is removed: the heartbeat would write the row again.
        self._leaving.remove(producer)
        self._changed()
        stopping = asyncio.create_task(producer.stop())
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)


async def _all_of(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it side by side, to its end; raises the first error in the order given."""
    for failure in await asyncio.gather(*work, return_exceptions=True):
        if failure is not None:
            raise failure
