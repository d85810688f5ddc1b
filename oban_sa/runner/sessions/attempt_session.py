"""The session of an attempt: the worker's writes and its job's outcome are committed in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, cast

from sqlalchemy import Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from oban_sa.describe import exceptions
from oban_sa.jobs.durable import RELAY
from oban_sa.jobs.flow import LANE
from oban_sa.jobs.verdicts import Verdict
from oban_sa.models import Job
from oban_sa.runner.cluster.attempt_age import Written
from oban_sa.runner.concurrency import forks, timeout
from oban_sa.runner.concurrency.bridge import bridged
from oban_sa.runner.concurrency.threads import ThreadCall, Threads
from oban_sa.runner.concurrency.timeout import TimeLimit
from oban_sa.runner.sessions.commit import Others, ack_member, ack_waited_for, write_and_commit
from oban_sa.runner.sessions.connections import AttemptConnections, Connections
from oban_sa.runner.sessions.in_doubt import Inquiry, in_doubt
from oban_sa.workers.definition import Definition

logger = logging.getLogger("oban_sa.runner")

T = TypeVar("T")


class SessionFactory(Protocol):
    """Makes sessions for workers."""

    def make(self, definition: Definition) -> AsyncSession | Session:
        """Make a session of the class that the worker takes; raises InvalidOption where it can't."""
        ...


@dataclass(frozen=True, slots=True)
class AttemptSessions:
    """What the sessions of all attempts share: where they come from, and what they may take of the pools.

    They are made on an engine, of the very class that the worker names, or else by a factory. Without `connections`
    they open connections as they like; without `inquiry` a commit whose answer is lost counts as none.
    """

    source: AsyncEngine | SessionFactory
    connections: Connections | None = None
    inquiry: Inquiry | None = None
    young: Written | None = None
    """Which attempts were kept young."""
    ack_one: Executable | None = None
    """Replaces the acks."""
    noted: Callable[[], object] = lambda: None
    """Called once the end of a member of a flow was noted."""


class AttemptSession(ABC):
    """One attempt's session, made when its code begins, and closed where that fails or once it is committed.

    Just before the commit the fenced ack runs in the session's own transaction. Where it finds that the attempt has
    lost its job, everything rolls back: effects in the database happen exactly once.
    """

    def __init__(
        self,
        shared: AttemptSessions,
        definition: Definition,
        job: Job,
        *,
        time_limit: TimeLimit | None,
    ) -> None:
        self.is_open = False
        """Whether the code has come to an answer, so that `commit` or `close` is due."""
        self._shared = shared
        self._definition = definition
        self._job = job
        self._time_limit = time_limit
        is_member = LANE in job.meta
        self._noted = shared.noted if is_member else None
        self._ack_one = shared.ack_one
        if self._ack_one is None and (is_member or RELAY in job.meta):
            self._ack_one = ack_waited_for() if RELAY in job.meta else ack_member()
        self._session: AsyncSession | Session | None = None
        self._connections: AttemptConnections | None = None
        self._xid: int | None = None
        self._others: Others | None = None

    async def run(self, *, flush: bool) -> object:
        """Run the code with its session and return its answer; with `flush` what it wrote has been sent by then.

        Raises what the code raises, `AttemptTimedOut` and `AttemptCancelled`; then everything is rolled back.
        """
        try:
            answer = await self._run(flush=flush)
        except BaseException as error:
            await self.close()
            await self._explain(error)
            raise
        self.is_open = True
        return answer

    async def commit(self, verdict: Verdict, *, others: Others | None = None) -> bool | None:
        """Commit what the code wrote together with the verdict, and close the session.

        With `others`, the verdicts on the other jobs of a chunk, all of them are written, or none.
        Returns False where the attempt had lost its job, so that all was rolled back, and None where there was nothing
        to commit the verdict with. Raises what keeps it from being committed, and `CommitUnanswered` where that can't
        be found out.
        """
        if others is not None:
            self._others = others
            self._noted = self._noted or (self._shared.noted if others.noting else None)
        try:
            written = await self._commit(verdict)
        except BaseException as error:
            await self.close()
            if self._xid is None or self._shared.inquiry is None or not in_doubt(error):
                await self._explain(error)
                raise
            await self._shared.inquiry.require_committed(self._job, verdict, self._xid, error)
            written = True
        else:
            await self.close()
        if written and self._noted is not None:
            self._noted()
        return written

    async def close(self) -> None:
        """Roll back what is not committed and give the connections back; never raises, and is not interrupted."""
        self.is_open = False
        if self._session is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.ensure_future(self._close()))

    @abstractmethod
    async def _run(self, *, flush: bool) -> object: ...

    @abstractmethod
    async def _commit(self, verdict: Verdict) -> bool | None: ...

    @abstractmethod
    async def _close(self) -> None: ...

    def _made(self) -> AsyncSession | Session:
        source, definition = self._shared.source, self._definition
        if isinstance(source, AsyncEngine):
            session_class = cast("Callable[..., AsyncSession | Session]", definition.session_class)
            # A synchronous one works on the engine's own driver, too.
            engine = source if definition.session == "async" else source.sync_engine
            session = session_class(engine, expire_on_commit=False)
        else:
            session = source.make(definition)
        if self._shared.connections is not None:
            used = session.sync_session if isinstance(session, AsyncSession) else session
            self._connections = AttemptConnections(
                self._shared.connections, used, self._job, time_limit=self._time_limit
            )
        return session

    async def _explain(self, error: BaseException) -> None:
        if self._shared.inquiry is not None and self._connections is not None and isinstance(error, DBAPIError):
            await self._shared.inquiry.explain(error, open_for=self._connections.open_for)


class SessionOnLoop(AttemptSession):
    """The session of code that takes an `AsyncSession`; most has no `time_limit`."""

    async def _run(self, *, flush: bool) -> object:
        session = self._session = cast("AsyncSession", self._made())

        async def code() -> object:
            answer = await forks.awaited(self._definition.call(self._job, session))
            if flush:
                await session.flush()
            return answer

        return await self._within_limit(code)

    async def _commit(self, verdict: Verdict) -> bool | None:
        session, shared = cast("AsyncSession", self._session), self._shared

        def committing(xid: int) -> None:
            self._xid = xid

        return await self._within_limit(
            lambda: session.run_sync(write_and_commit, verdict, committing, shared.young, self._ack_one, self._others)
        )

    async def _within_limit(self, call: Callable[[], Awaitable[T]]) -> T:
        return await (call() if self._time_limit is None else timeout.on_loop(call, self._time_limit))

    async def _close(self) -> None:
        session, self._session = cast("AsyncSession", self._session), None
        try:
            try:
                await session.close()
            finally:
                if self._connections is not None:
                    await greenlet_spawn(self._connections.close)
        except BaseException as error:
            logger.debug("a session could not be closed: %s", exceptions.describe(error))


class SessionInThread(AttemptSession):
    """The session of code that takes a `Session`: its code, its commit and its end are calls in a thread.

    What it sends on an asynchronous driver is sent on the loop, while the thread waits. Between the calls no thread
    waits for it, and middleware runs on the loop.
    """

    def __init__(
        self,
        shared: AttemptSessions,
        definition: Definition,
        job: Job,
        *,
        time_limit: TimeLimit,
        threads: Threads,
    ) -> None:
        super().__init__(shared, definition, job, time_limit=time_limit)
        self._limit = time_limit
        self._threads = threads
        self._code: ThreadCall | None = None
        self._call: ThreadCall | None = None

    async def _run(self, *, flush: bool) -> object:
        def code() -> object:
            session = self._session = cast("Session", self._made())

            def work() -> object:
                answer = forks.called(self._definition.call, self._job, session)
                if flush:
                    session.flush()
                return answer

            return self._bridged(call, work)

        # Made just now: the context variables of the code are those that middleware has set.
        call = self._call = self._code = ThreadCall(code)
        # In the thread: code that is left behind ends when no one on the loop waits for it any more.
        call.afterwards = lambda wanted: None if wanted else self._end(call)
        return await timeout.in_thread(self._threads.start(call), self._limit)

    async def _commit(self, verdict: Verdict) -> bool | None:
        def committing(xid: int) -> None:
            call.spare()
            self._xid = xid

        def commit() -> bool | None:
            session = cast("Session", self._session)
            shared = self._shared
            return self._bridged(
                call,
                lambda: write_and_commit(session, verdict, committing, shared.young, self._ack_one, self._others),
            )

        call = self._next(commit)
        call.afterwards = lambda _: self._end(call)
        try:
            return cast("bool | None", await timeout.in_thread(self._threads.start(call), self._limit))
        except BaseException:
            if call.left_behind:  # the runner stops, and asks the database no more
                self._xid = None
            raise

    async def _close(self) -> None:
        # A thread that was left behind may be using the session, and closes it itself.
        if self._call is not None and self._call.left_behind:
            return

        def close() -> None:
            call.spare()
            self._end(call)

        call = self._next(close)
        try:
            await self._threads.start(call, last=True).future
        except BaseException as error:
            logger.debug("a session could not be closed: %s", exceptions.describe(error))

    def _next(self, function: Callable[[], object]) -> ThreadCall:
        # In the context of the code: what listens to the session may read what that has set.
        self._call = ThreadCall(function, context=None if self._code is None else self._code.context)
        return self._call

    def _bridged(self, call: ThreadCall, function: Callable[[], T]) -> T:
        if self._connections is not None:
            self._connections.thread = call
        return bridged(function, call.on_loop)

    def _end(self, call: ThreadCall) -> None:
        """In the thread: close the session, if that was not done yet."""
        session, self._session = self._session, None
        if session is not None:
            self._bridged(call, partial(self._give_back, cast("Session", session), call))

    def _give_back(self, session: Session, call: ThreadCall) -> None:
        connections = self._connections
        try:
            if connections is not None and (call.struck or (self._code is not None and self._code.struck)):
                connections.invalidate()
        finally:
            try:
                # First, so that nothing is said of jobs that are not written: in this call no error is seen that tells
                # why, and what an attempt that succeeded has in its session is written by now.
                session.expunge_all()
                session.close()
            finally:
                if connections is not None:
                    connections.close()
