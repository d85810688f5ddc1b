"""Sessions of attempts: a worker's writes and its job's outcome in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from oban_sa.models import Job
from oban_sa.runner import forks
from oban_sa.runner.bridge import bridged
from oban_sa.runner.inquiry import Inquiry, unanswered
from oban_sa.runner.lending import Lender, Loan
from oban_sa.runner.makers import Maker
from oban_sa.runner.settling import Settled, conclude
from oban_sa.runner.threads import ThreadCall
from oban_sa.runner.time_limit import TimeLimit
from oban_sa.runner.young import Written
from oban_sa.verdicts import Verdict
from oban_sa.workers.definition import Definition

Judge: TypeAlias = Callable[[object], Verdict]

Call: TypeAlias = Callable[[], Awaitable[Any]]
Around: TypeAlias = Callable[[Call], Awaitable[Any]]
"""Runs a call, or doesn't, and says what the answer is."""

Code: TypeAlias = Callable[[], Any]
AroundCode: TypeAlias = Callable[[Code], Any]
"""The same in a thread."""


class AttemptSessions:
    """Gives each attempt that wants one a session, and ends it.

    Just before the commit the fenced ack runs in the session's own transaction. Where it finds that the attempt no
    longer holds its job, everything rolls back: effects in the database happen exactly once.
    """

    def __init__(self, maker: Maker, lender: Lender, inquiry: Inquiry, young: Written | None = None) -> None:
        """`young` knows which attempts were kept young."""
        self._young = young
        self._maker = maker
        self._lender = lender
        self._inquiry = inquiry

    async def settled(
        self, definition: Definition, job: Job, judge: Judge, around: Around | None, time_limit: TimeLimit
    ) -> Settled:
        """Run code that takes an asynchronous session, on the loop; `around` stands around it, before its outcome."""
        session = self._maker.asynchronous(definition)
        loan = Loan(self._lender, session.sync_session, job, time_limit=time_limit)

        def code() -> Awaitable[Any]:
            return forks.awaited(definition.call(job, session))

        return await settle(session, job, judge, code, around, loan=loan, inquiry=self._inquiry, young=self._young)

    def settled_in_thread(
        self,
        definition: Definition,
        job: Job,
        judge: Judge,
        around: AroundCode | None,
        time_limit: TimeLimit,
        call: ThreadCall,
    ) -> Settled:
        """Run code that takes a synchronous session, in this thread; what it sends is sent on the loop of `call`."""
        session = self._maker.synchronous(definition)
        loan = Loan(self._lender, session, job, time_limit=time_limit, thread=call)
        code = partial(forks.called, definition.call, job, session)
        return settle_in_thread(
            session, job, judge, code, around, call=call, loan=loan, inquiry=self._inquiry, young=self._young
        )


async def settle(
    session: AsyncSession,
    job: Job,
    judge: Judge,
    call: Call,
    around: Around | None,
    *,
    loan: Loan | None = None,
    inquiry: Inquiry | None = None,
    young: Written | None = None,
) -> Settled:
    """Run `call` and write its outcome in the transaction of its session, which is committed and closed."""
    settled: Settled | None = None
    try:
        settled = Settled(judge(await call() if around is None else await _answer(session, call, around)))
        await session.run_sync(conclude, settled, young=young)
        await session.close()
        if loan is not None:
            loan.end()
    except BaseException as error:
        held_for = None if loan is None else loan.held_for
        closing = asyncio.ensure_future(_closed(session, loan))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(closing)
        if settled is not None and settled.written is not None:
            return settled
        if settled is None or inquiry is None or not unanswered(settled, error):
            if inquiry is not None:
                await inquiry.explain(error, held_for=held_for)
            raise
        return await inquiry.answer(job, settled, error)
    return settled


def settle_in_thread(
    session: Session,
    job: Job,
    judge: Judge,
    code: Code,
    around: AroundCode | None,
    *,
    call: ThreadCall,
    loan: Loan | None = None,
    inquiry: Inquiry | None = None,
    young: Written | None = None,
) -> Settled:
    """The same for a synchronous session, in this thread; only what comes before the commit is interrupted."""
    settled: Settled | None = None

    def work() -> Settled:
        nonlocal settled
        answer = code() if around is None else _answer_in_thread(session, code, around)
        settled = Settled(judge(answer))
        conclude(session, settled, committing=call.spare, young=young)
        return settled

    def close() -> None:
        call.afterwards = None
        bridged(partial(_close, session, loan, struck=call.struck), call.on_loop)

    call.afterwards = close
    try:
        return bridged(work, call.on_loop)
    except BaseException as error:
        if settled is None or inquiry is None or not unanswered(settled, error):
            if inquiry is not None and loan is not None and isinstance(error, DBAPIError):
                with contextlib.suppress(Exception):
                    call.on_loop(inquiry.explain(error, held_for=loan.held_for))
            raise
        call.spare()
        close()
        answered: Settled = call.on_loop(inquiry.answer(job, settled, error))
        return answered


async def _closed(session: AsyncSession, loan: Loan | None) -> None:
    try:
        await session.close()
    finally:
        if loan is not None:
            await greenlet_spawn(loan.end)


def _close(session: Session, loan: Loan | None, *, struck: bool) -> None:
    try:
        if struck and loan is not None:
            loan.spoil()
    finally:
        try:
            session.close()
        finally:
            if loan is not None:
                loan.end()


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


def _answer_in_thread(session: Session, code: Code, around: AroundCode) -> Any:
    failed = False

    def written() -> Any:
        nonlocal failed
        try:
            answer = code()
            session.flush()
        except BaseException:
            failed = True
            raise
        return answer

    answer = around(written)
    if failed:
        session.rollback()
    return answer
