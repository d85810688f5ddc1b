"""A step whose writes, and its line in the journal, are one transaction of a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import AttemptLost, InvalidOption
from oban_sa.outbox.sessions import named, unscoped
from oban_sa.steps import results
from oban_sa.steps.call import Call, begun, ended, made
from oban_sa.steps.journal import Entry, Journal, on_loop

T = TypeVar("T")


@runtime_checkable
class Journalling(Protocol):
    """Tables that can write in a session."""

    def write_in(self, session: Session, entry: Entry) -> tuple[Entry | None, bool]:
        """Write an entry in the session's transaction: what stands under its name, and whether that is this one.

        None where the attempt has lost its job.
        """
        ...

    def end(self, session: Session, *, keep: bool) -> None:
        """Commit a session, or roll it back."""
        ...


def require(session: object) -> None:
    """Raise `InvalidOption` where the name of a step stands in the place of its session."""
    if isinstance(session, str):
        raise InvalidOption(
            f"step.commit takes the session first, and this is {named(session)}; "
            f"write step.commit(session, {session!r}, function, argument)"
        )


async def once(journal: Journal, session: AsyncSession | Session, call: Call) -> object:
    """Return what the journal has of a call, or make it and commit the session with its result."""
    call.check()
    tables = journal.tables
    if not isinstance(tables, Journalling):
        raise InvalidOption(
            f'step.commit({call.key!r}, ...) has no part in a session of another process (executor="process"), which '
            f"commits without the journal; write step({call.key!r}, {call.code}, ...) with a function that opens, and "
            "commits, a session of its own and may run again where the process dies, or let a worker in a thread do it"
        )
    found = _checked(session, call)
    if (entry := await journal.find(call.key, call.code, strict=call.options.strict)) is not None:
        begun(journal, call, replayed=True)
        return results.read(entry.plain, call.function, call.key)
    await journal.tell()
    started = begun(journal, call)
    try:
        value = await made(call)
        entry = Entry(call.key, call.code, results.written(value, call.key))
        there, mine = await _run(found, lambda sync: _written(sync, tables, entry))
        if there is None:
            raise AttemptLost
        # Not its own where another attempt had the job meanwhile: that one's writes are there.
        await _run(found, lambda sync: tables.end(sync, keep=mine))
    except BaseException:
        await _run(found, lambda sync: tables.end(sync, keep=False))
        raise
    journal.add(there)
    ended(journal, call, started)
    return results.read(there.plain, call.function, call.key)


def _written(session: Session, tables: Journalling, entry: Entry) -> tuple[Entry | None, bool]:
    session.flush()
    return tables.write_in(session, entry)


async def _run(session: AsyncSession | Session, work: Callable[[Session], T]) -> T:
    return await session.run_sync(work) if isinstance(session, AsyncSession) else work(session)


def _checked(session: object, call: Call) -> AsyncSession | Session:
    found: object = unscoped(session)
    if not isinstance(found, (AsyncSession, Session)):
        raise InvalidOption(
            f"step.commit takes the session first, and this is {named(found)}; "
            f"write step.commit(session, {call.key!r}, function, argument)"
        )
    if on_loop() and isinstance(found, Session):
        raise InvalidOption(f"step {call.key!r} runs on the loop, which a Session would block; give an AsyncSession")
    if not on_loop() and isinstance(found, AsyncSession):
        raise InvalidOption(f"step {call.key!r} runs in a thread; give a Session")
    return found
