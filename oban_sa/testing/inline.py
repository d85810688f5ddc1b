"""`inline`: jobs run as soon as the transaction that enqueued them has committed."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only

from oban_sa.jobs.states import JobState
from oban_sa.models import Job, SentSignal
from oban_sa.testing.binds import Bind
from oban_sa.testing.drain import Counts, Draining
from oban_sa.workers import Registry
from oban_sa.workers import registry as default_registry
from oban_sa.workers.loop import has_loop
from oban_sa.workers.middleware import Middleware


class Ran:
    """What ran inside an `inline` block: `counts` of jobs by the state they ended in, and the `errors` they raised."""

    def __init__(self) -> None:
        self.counts: Counts = Counter[JobState]()
        self.errors: list[BaseException] = []


@contextmanager
def inline(
    *,
    with_scheduled: bool = False,
    with_retries: bool = False,
    with_safety: bool = False,
    with_signals: Mapping[str, object] | None = None,
    registry: Registry | None = None,
    middleware: Iterable[Middleware] = (),
) -> Generator[Ran]:
    """Run every job that is enqueued inside the block right after its transaction commits, before the commit returns.

    It counts for all sessions of the process, whichever code opened them, and for the jobs that those jobs enqueue.
    In a session that a test binds to a connection, the commit of the session is what counts, so it works where the test
    rolls back in the end. Jobs that are rolled back never run. The words are those of `drain`; what jobs raised is
    recorded, does not reach the code that commits, and is raised at the end of the block, unless `with_safety`. Jobs
    that were copied by `Oban.enqueue_many` don't pass through a session, and stay for `drain`.
    """
    ran = Ran()

    def draining(ids: list[int]) -> Draining:
        return Draining(
            ids=ids,
            with_scheduled=with_scheduled,
            with_retries=with_retries,
            with_safety=True,
            with_signals=with_signals,
            registry=registry or default_registry,
            middleware=middleware,
        )

    inlining = _Inlining(draining, ran)
    inlining.begin()
    try:
        yield ran
    finally:
        inlining.end()
    if ran.errors and not with_safety:
        if len(ran.errors) == 1:
            raise ran.errors[0]
        raise BaseExceptionGroup("several jobs failed", ran.errors)


class _Inlining:
    def __init__(self, draining: Callable[[list[int]], Draining], ran: Ran) -> None:
        self._draining = draining
        self._ran = ran
        self._written: WeakKeyDictionary[Session, list[int]] = WeakKeyDictionary()
        self._committed: WeakKeyDictionary[Session, bool] = WeakKeyDictionary()
        self._listening = (
            # Not the mapper's "after_insert": with a listener to that, a flush would write jobs in another way.
            (Session, "pending_to_persistent", self._note),
            (Session, "after_commit", self._note_commit),
            (Session, "after_transaction_end", self._finish),
        )

    def begin(self) -> None:
        for target, name, listener in self._listening:
            event.listen(target, name, listener)

    def end(self) -> None:
        for target, name, listener in self._listening:
            event.remove(target, name, listener)

    def _note(self, session: Session, written: object) -> None:
        if isinstance(written, Job):
            self._written.setdefault(session, []).append(written.id)
        elif isinstance(written, SentSignal):  # whose job may wait for it
            self._written.setdefault(session, []).append(written.job_id)

    def _note_commit(self, session: Session) -> None:
        # It also comes when a savepoint is released, whose jobs are not there yet for others.
        if session.get_nested_transaction() is None:
            self._committed[session] = True

    def _finish(self, session: Session, transaction: SessionTransaction) -> None:
        # Later than the commit: by now the session has given its connection back.
        if transaction.parent is not None:
            return
        ids = self._written.pop(session, [])
        if not self._committed.pop(session, False) or not ids:
            return
        draining = self._draining(ids)
        self._ran.counts.update(_run(draining, _bind(session)))
        self._ran.errors.extend(draining.errors)


def _bind(session: Session) -> Bind:
    bind = session.get_bind(mapper=Job.__mapper__)
    if not bind.dialect.is_async:
        return bind
    if isinstance(bind, Connection):
        return AsyncConnection(AsyncEngine(bind.engine), bind)
    return AsyncEngine(bind)


def _run(draining: Draining, bind: Bind) -> Counts:
    if isinstance(bind, (AsyncConnection, AsyncEngine)):
        # The session was committed by an AsyncSession, which is on the loop and waits in a greenlet.
        return await_only(draining.run(bind))
    return _in_thread(draining, bind) if has_loop() else asyncio.run(draining.run(bind))


def _in_thread(draining: Draining, bind: Engine | Connection) -> Counts:
    """Run it on a loop of its own, in a thread: the loop of this thread is busy with the commit."""
    answer: list[Counts] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(asyncio.run(draining.run(bind)))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return answer[0]
