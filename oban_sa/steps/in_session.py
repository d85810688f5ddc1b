"""A step whose writes, and its line in the journal, are one transaction of a session."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final, Protocol, TypeVar, runtime_checkable

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from oban_sa.errors import AttemptLost, InvalidOption
from oban_sa.outbox.sessions import named, unscoped
from oban_sa.steps import results
from oban_sa.steps.call import Call, begun, ended, made
from oban_sa.steps.journal import Entry, Journal, name_of, on_loop

T = TypeVar("T")

_KEY: Final = "oban_step"
"""Where a session's `info` has whose turn it is."""

_INSIDE: Final[ContextVar[Mapping[int, str]]] = ContextVar("oban_sa.step_commit", default=MappingProxyType({}))
"""The steps whose function runs here, by the `id()` of the session that each is committed with."""


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
    if (entry := await journal.find(call.key, call.code, strict=call.options.strict)) is not None:
        begun(journal, call, replayed=True)
        return results.read(entry.plain, call.function, call.key)
    await journal.tell()
    started = begun(journal, call)
    sync_session = session.sync_session if isinstance(session, AsyncSession) else session
    async with _turn(sync_session, call):
        try:
            with _kept_open(sync_session, call):
                value = await made(call)
            entry = Entry(call.key, call.code, results.written(value, results.of_step(call.key)))
            there, mine = await _run(session, lambda sync: _written(sync, tables, entry))
            if there is None:
                raise AttemptLost
            # Not its own where another attempt had the job meanwhile: that one's writes are there.
            await _run(session, lambda sync: tables.end(sync, keep=mine))
        except BaseException:
            await _run(session, lambda sync: tables.end(sync, keep=False))
            raise
    journal.add(there)
    ended(journal, call, started)
    return results.read(there.plain, call.function, call.key)


class _Turns:
    """Whose turn it is in a session: one step at a time is committed with it."""

    def __init__(self) -> None:
        self.on_loop = asyncio.Lock()
        self.in_thread = threading.Lock()

    @classmethod
    def of(cls, session: Session) -> _Turns:
        """Return those of a session."""
        found: _Turns = session.info.setdefault(_KEY, cls())
        return found


@asynccontextmanager
async def _turn(session: Session, call: Call) -> AsyncGenerator[None]:
    """Have the session alone inside the block: a commit beside it would keep writes of this step without its line.

    Raises `InvalidOption` inside of another step of the session, which that would be true of in any case.
    """
    name = name_of(call.key)
    if (outer := _INSIDE.get().get(id(session))) is not None:
        raise InvalidOption(
            f"step.commit(session, {name!r}, ...) stands inside of step {outer!r} and would commit its writes before "
            "it is done; call the function itself there, or write one step after the other"
        )
    turns = _Turns.of(session)
    lock: asyncio.Lock | threading.Lock
    if on_loop():
        lock = turns.on_loop
        await lock.acquire()
    else:
        lock = turns.in_thread
        lock.acquire()
    token = _INSIDE.set({**_INSIDE.get(), id(session): name})
    try:
        yield
    finally:
        _INSIDE.reset(token)
        lock.release()


@contextmanager
def _kept_open(session: Session, call: Call) -> Generator[None]:
    """Refuse a commit inside the block, which has no line in the journal, and writes that are thrown away unnoticed."""
    about = f"step {name_of(call.key)!r}: {call.code}()"
    ended = False

    def refuse(_: Session) -> None:
        if session.get_nested_transaction() is None:
            raise InvalidOption(
                f"{about} commits the session, which step.commit does together with the journal; take the commit out"
            )

    def note(_: Session, transaction: SessionTransaction) -> None:
        nonlocal ended
        ended = ended or transaction.parent is None

    event.listen(session, "before_commit", refuse)
    event.listen(session, "after_transaction_end", note)
    try:
        yield
    finally:
        event.remove(session, "before_commit", refuse)
        event.remove(session, "after_transaction_end", note)
    if ended and not session.in_transaction():
        raise InvalidOption(
            f"{about} closes the session or rolls it back, so that its writes are lost; take that out, or raise an "
            "error where the step has failed"
        )


def _written(session: Session, tables: Journalling, entry: Entry) -> tuple[Entry | None, bool]:
    session.flush()
    return tables.write_in(session, entry)


async def _run(session: AsyncSession | Session, work: Callable[[Session], T]) -> T:
    return await session.run_sync(work) if isinstance(session, AsyncSession) else work(session)


def checked(session: object, name: object) -> AsyncSession | Session:
    """Return the session behind what was given as one; raises `InvalidOption` where it does not fit the code."""
    found: object = unscoped(session)
    if not isinstance(found, (AsyncSession, Session)):
        example = next((each for each in (name, session) if isinstance(each, str)), "book")
        raise InvalidOption(
            f"step.commit takes the session first, and this is {named(found)}; "
            f"write step.commit(session, {example!r}, function, argument)"
        )
    if on_loop() and isinstance(found, Session):
        raise InvalidOption(f"step {name!r} runs on the loop, which a Session would block; give an AsyncSession")
    if not on_loop() and isinstance(found, AsyncSession):
        raise InvalidOption(f"step {name!r} runs in a thread; give a Session")
    return found
