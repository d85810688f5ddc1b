"""Does what the plan says, each fault in a task of its own, and undoes what lasts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, Oban
from tests.acceptance.chaos import ledger
from tests.acceptance.chaos.enqueuing import Recent
from tests.acceptance.chaos.herd import Herd, Life
from tests.acceptance.chaos.plan import QUEUES, Fault
from tests.acceptance.chaos.proxy import COMMIT, Cutting
from tests.ownserver import OwnServer

_BACKENDS = text(
    "SELECT pid, query ~ 'picked|DISCARD PLANS|said' AS works FROM pg_stat_activity "
    "WHERE client_port = ANY(:ports) AND backend_type = 'client backend' ORDER BY pid"
)

_NEWEST = text("SELECT id FROM oban_jobs WHERE state::text = 'executing' ORDER BY attempted_at DESC LIMIT 5")
"""Jobs that were fetched just now, whether their node knows of it or not."""


class Faults:
    """The faults of one run."""

    def __init__(
        self,
        *,
        herd: Herd,
        server: OwnServer,
        engine: AsyncEngine,
        recent: Recent,
        draw: random.Random,
    ) -> None:
        self._herd = herd
        self._server = server
        self._engine = engine
        self._oban = Oban(engine)
        self._recent = recent
        self._draw = draw
        self._stopped: set[int] = set()
        self._lock = asyncio.Lock()
        """Held by whoever takes the server away, or stops a part of it."""
        self._cancelled: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = itertools.count(1)
        self.counts: Counter[str] = Counter()

    async def run(self, faults: Iterable[Fault], *, seconds: float) -> None:
        """Do each at its moment; once `seconds` are over everything that lasts is undone."""
        began = asyncio.get_running_loop().time()
        for fault in faults:
            await asyncio.sleep(began + fault.at - asyncio.get_running_loop().time())
            self.counts[fault.what] += 1
            ledger.write("fault", fault=str(fault))
            task = asyncio.create_task(self._do(fault))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.sleep(began + seconds - asyncio.get_running_loop().time())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resume("*")
        ledger.write("quiet")

    async def _do(self, fault: Fault) -> None:
        try:
            await getattr(self, f"_{fault.what}")(**fault.how)
        except Exception as error:
            # The server may be away just now, by another fault.
            ledger.write("fault failed", fault=str(fault), why=f"{type(error).__name__}: {error}"[:300])

    # Runners

    async def _kill(self, slot: int, rest: float) -> None:
        # The last one that works is left alone until another one is up.
        if len(self._herd.working) > 1:
            self._herd.kill(self._life(slot), rest)

    async def _term(self, slot: int) -> None:
        if len(self._herd.working) > 1:
            self._herd.term(self._life(slot))

    async def _freeze(self, slot: int, seconds: float) -> None:
        life = self._life(slot)
        with self._hampering([life], "freeze"):
            await self._herd.freeze(life, seconds)

    def _life(self, slot: int) -> Life:
        life = self._herd.chosen(slot)
        if life is None:
            raise LookupError("no runner works just now")
        return life

    # Connections

    @contextlib.contextmanager
    def _hampering(self, lives: Iterable[Life], by: str) -> Iterator[None]:
        nodes = [life.node for life in lives]
        for node in nodes:
            ledger.write("hampered", node=node, by=by)
        try:
            yield
        finally:
            for node in nodes:
                ledger.write("unhampered", node=node, by=by)

    def _lives(self, slot: int | str) -> list[Life]:
        return self._herd.working if isinstance(slot, str) else [self._life(slot)]

    async def _stall(self, slot: int | str, way: str, seconds: float) -> None:
        lives = self._lives(slot)
        with self._hampering(lives, "stall"):
            for life in lives:
                life.proxy.stall(way)
            try:
                await asyncio.sleep(seconds)
            finally:
                for life in lives:
                    life.proxy.release(way)

    async def _cuts(self, slot: int, kinds: list[str], only: str, share: float, seconds: float) -> None:
        await self._cutting(slot, Cutting(tuple(kinds), share, only=COMMIT if only == "commits" else b""), seconds)

    async def _late(self, slot: int, only: str, share: float, delay: float, seconds: float) -> None:
        # The state that an outcome asks for stands in the message as it is.
        said = b"scheduled" if only == "snoozes" else b""
        await self._cutting(slot, Cutting(("late",), share, only=said, delay=delay), seconds)

    async def _lost_fetch(self, slot: int, seconds: float, every: float) -> None:
        cutting = asyncio.create_task(self._cutting(slot, Cutting(("after",), 0.5), seconds))
        try:
            while not cutting.done():
                async with self._engine.connect() as connection:
                    ids = (await connection.execute(_NEWEST)).scalars().all()
                for job_id in ids:
                    if job_id not in self._cancelled and self._draw.random() < 0.3:
                        await self._cancel_one(job_id)
                await asyncio.sleep(every)
        finally:
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)

    async def _cutting(self, slot: int, cutting: Cutting, seconds: float) -> None:
        life = self._life(slot)
        with self._hampering([life], cutting.kinds[0]):
            life.proxy.cutting = cutting
            try:
                await asyncio.sleep(seconds)
            finally:
                if life.proxy.cutting is cutting:
                    life.proxy.cutting = None
            # What was cut off last arrives only then.
            await asyncio.sleep(cutting.delay)

    async def _storm(self, every: float, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        lives = self._lives("all")
        with self._hampering(lives, "storm"):
            while asyncio.get_running_loop().time() < until:
                for life in lives:
                    life.proxy.drop_all()
                await asyncio.sleep(every)

    # The server

    async def _backends(self, lives: Iterable[Life], which: str = "any") -> list[int]:
        ports = [port for life in lives for port in life.proxy.ports()]
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_BACKENDS, {"ports": ports})).all()
        return [row.pid for row in rows if row.works] if which == "producers" else [row.pid for row in rows]

    async def _stop_backends(self, slot: int, count: int, which: str, then: str, seconds: float) -> None:
        life = self._life(slot)
        with self._hampering([life], "stopped backends"):
            async with self._lock:
                found = await self._backends([life], which) or await self._backends([life])
                chosen = set(self._draw.sample(found, min(count, len(found))))
                for pid in chosen:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                self._stopped |= chosen
            try:
                # A statement is under way by now, as each queue is looked at so often.
                await asyncio.sleep(0.7)
                match then:
                    case "kill":
                        self._herd.kill(life)
                    case "term":
                        self._herd.term(life)
                    case "cut":
                        life.proxy.drop_all()
                await asyncio.sleep(seconds)
            finally:
                self._wake(chosen)

    def _wake(self, pids: Iterable[int]) -> None:
        for pid in list(pids):
            if pid in self._stopped:
                self._stopped.discard(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _terminate(self, share: float) -> None:
        lives = self._lives("all")
        with self._hampering(lives, "terminated backends"):
            for pid in await self._backends(lives):
                if self._draw.random() < share:
                    async with self._engine.connect() as connection:
                        await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            # While they connect anew.
            await asyncio.sleep(1)

    async def _kill_backend(self, slot: int) -> None:
        # What it shares with the others may be broken by now: so the server ends all of them, and recovers.
        life = self._life(slot)
        async with self._lock:
            self._wake(self._stopped)
            with self._hampering(self._lives("all"), "outage"):
                ledger.write("server ends")
                for pid in (await self._backends([life], "producers") or await self._backends([life]))[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.2)
                await self._patiently(self._answers)
                ledger.write("server is back")

    async def _answers(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def _restart(self, seconds: float) -> None:
        await self._away(self._server.stop, seconds)

    async def _crash(self, seconds: float) -> None:
        await self._away(self._server.kill, seconds)

    async def _kill_server(self, seconds: float) -> None:
        await self._crash(seconds)

    async def _away(self, end: Any, seconds: float) -> None:
        async with self._lock:
            # A process that stands still would keep the shared memory, and the next server from starting.
            self._wake(self._stopped)
            with self._hampering(self._lives("all"), "outage"):
                ledger.write("server ends")
                outage = asyncio.create_task(self._outage(end, seconds))
                # Whatever else is told to end: a server that is down has to come up again.
                while not outage.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.shield(outage)
                ledger.write("server is back")
        outage.result()

    async def _outage(self, end: Any, seconds: float) -> None:
        await asyncio.to_thread(end)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._server.start)

    # Whoever steers

    async def _pause(self, queue: str, seconds: float) -> None:
        try:
            await self._order(
                ("pausing", "paused"),
                queue,
                self._oban.pause_all_queues if queue == "*" else lambda: self._oban.pause_queue(queue),
            )
            await asyncio.sleep(seconds)
        finally:
            await self._resume(queue)

    async def _resume(self, queue: str) -> None:
        await self._order(
            ("resuming", "resumed"),
            queue,
            self._oban.resume_all_queues if queue == "*" else lambda: self._oban.resume_queue(queue),
        )

    async def _order(self, words: tuple[str, str], queue: str, order: Any) -> None:
        queues, call = ([queue] if queue != "*" else list(QUEUES)), next(self._calls)
        ledger.write(words[0], queues=queues, call=call)
        await self._patiently(order)
        ledger.write(words[1], queues=queues, call=call)

    async def _patiently(self, call: Any) -> None:
        for _ in range(100):
            try:
                await call()
                return
            except Exception:
                await asyncio.sleep(0.2)
        raise TimeoutError("the server did not come back")

    async def _cancel(self, count: int) -> None:
        for job_id in self._recent.some(count, self._draw):
            await self._cancel_one(job_id)

    async def _cancel_one(self, job_id: int) -> None:
        self._cancelled.add(job_id)
        ledger.write("cancelling", job=job_id)
        job = await self._oban.cancel_job(job_id)
        ledger.write("cancelled", job=job_id, state=job.state.value, attempt=job.attempt)

    async def _retry(self, count: int) -> None:
        ids = [job_id for job_id in self._recent.some(count, self._draw) if job_id not in self._cancelled]
        if ids:
            ledger.write("retrying", jobs=ids)
            waiting = select(Job).where(Job.id.in_(ids), Job.state.in_(("retryable", "scheduled")))
            await self._oban.retry_jobs(waiting)
