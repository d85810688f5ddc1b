"""Sessions of attempts: a worker's writes and its job's outcome in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from oban_sa import values
from oban_sa.errors import AttemptCancelled, AttemptTimedOut
from oban_sa.models import Job, schema_map
from oban_sa.sql.acking import acking_one
from oban_sa.verdicts import Verdict
from oban_sa.workers.definition import Definition

Judge: TypeAlias = Callable[[object], Verdict]
Settled: TypeAlias = tuple[Verdict, bool]
"""A verdict, and whether it was written."""

Call: TypeAlias = Callable[[], Awaitable[Any]]
Around: TypeAlias = Callable[[Call], Awaitable[Any]]
"""Runs a call, or doesn't, and says what the answer is."""

ACKING_ONE = acking_one()


class AttemptSessions:
    """Opens a session for each attempt that wants one.

    Just before the commit the fenced ack runs in the session's own transaction. Where it finds that the attempt no
    longer holds its job, everything rolls back: effects in the database happen exactly once.
    """

    def __init__(self, engine: AsyncEngine, *, schema: str) -> None:
        self._engine = engine
        self._schema = schema
        self._bind = _mapped(engine, schema)
        self._local = threading.local()

    async def settled(self, definition: Definition, job: Job, judge: Judge, around: Around | None = None) -> Settled:
        """Run code that takes an asynchronous session, on the loop; `around` stands around it, before its outcome."""
        session_class: Any = definition.session_class
        session: AsyncSession = session_class(self._bind, expire_on_commit=False)
        return await settle(session, job, judge, lambda: definition.call(job, session), around)

    def settled_in_thread(
        self, definition: Definition, job: Job, judge: Judge, around: Around | None = None
    ) -> Settled:
        """Run code that takes a synchronous session, in this thread; `around` runs on this thread's loop.

        The thread has a loop and a connection of its own, so synchronous code needs no second driver and may block.
        """
        kept: tuple[asyncio.Runner, AsyncEngine] | None = getattr(self._local, "kept", None)
        if kept is None:
            # The pool belongs to one loop; a copy of it keeps the engine's connect arguments, creators and events.
            own = create_async_engine(self._engine.url, pool=self._engine.pool.recreate())
            # In one piece: an interruption may strike between any two instructions.
            kept = self._local.kept = (asyncio.Runner(), _mapped(own, self._schema))
        runner, bind = kept
        try:
            session_class: Any = definition.session_class
            session = AsyncSession(bind, expire_on_commit=False, sync_session_class=session_class)
            within = session.run_sync
            return runner.run(
                settle(session, job, judge, lambda: within(lambda sync: definition.call(job, sync)), around)
            )
        except Exception as error:
            if isinstance(error, (AttemptTimedOut, AttemptCancelled)):
                # What interrupted the code may have struck in the middle of the loop's own work.
                self.leave_thread()
            raise
        except BaseException:
            self.leave_thread()
            raise

    def leave_thread(self) -> None:
        """Close the loop and the connection that this thread keeps for itself; the next attempt in it makes others."""
        kept: tuple[asyncio.Runner, AsyncEngine] | None = self._local.__dict__.pop("kept", None)
        if kept is None:
            return
        runner, bind = kept
        with contextlib.suppress(Exception):
            runner.run(bind.dispose())
        with contextlib.suppress(Exception):
            runner.close()


async def settle(session: AsyncSession, job: Job, judge: Judge, call: Call, around: Around | None) -> Settled:
    """Run `call` and write its outcome in the transaction of its session, which is committed and closed."""
    async with session:
        verdict = judge(await call() if around is None else await _answer(session, call, around))
        await session.flush()
        written = await session.execute(ACKING_ONE, said(job, verdict))
        if written.first() is None:
            await session.rollback()
            return verdict, False
        await session.commit()
        return verdict, True


def said(job: Job, verdict: Verdict) -> dict[str, Any]:
    """The parameters of `ACKING_ONE`."""
    return {
        "job_id": job.id,
        "holder": job.attempted_by,
        "said_attempt": verdict.attempt,
        "said_state": verdict.state.value,
        "said_delay": verdict.delay,
        "said_error": verdict.error,
        "said_meta": None if verdict.meta is None else values.dumps(verdict.meta),
        "said_refund": verdict.refund,
    }


async def _answer(session: AsyncSession, call: Call, around: Around) -> Any:
    """What `around` makes of the answer; it also sees what the database refuses of the code's writes."""
    failed = False

    async def written() -> Any:
        nonlocal failed
        try:
            answer = await call()
            await session.flush()
        except BaseException:
            failed = True
            raise
        return answer

    answer = await around(written)
    if failed:
        # There is an answer instead of the error, but what the code had written until then is still half of something.
        await session.rollback()
    return answer


def _mapped(engine: AsyncEngine, schema: str) -> AsyncEngine:
    mapped = schema_map(schema)
    return engine.execution_options(schema_translate_map=mapped) if mapped else engine
