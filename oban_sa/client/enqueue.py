"""One job, written without a session: a single statement inserts and announces it, and commits by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.util import greenlet_spawn

from oban_sa import hooks
from oban_sa.client.driver import Driver
from oban_sa.errors import InvalidJob
from oban_sa.jobs.values import has_references, is_flat, to_json
from oban_sa.models import Job, validation
from oban_sa.outbox import enqueue as in_session
from oban_sa.outbox import enqueued
from oban_sa.outbox.admission import admit, check, plain
from oban_sa.outbox.announcements import (
    ANNOUNCE,
    Announcement,
    add_one,
    announce_late,
    is_announced,
    schema_named,
    schema_of,
)
from oban_sa.outbox.rows import Row, let_go, rows, take_in
from oban_sa.outbox.save_action import is_plain
from oban_sa.sql.insert import Kind
from oban_sa.sql.rendered import Given, rendered
from oban_sa.wire.messages import News

_Statement: TypeAlias = tuple[str, Callable[[Sequence[object]], Given]]


class Enqueue:
    """Writes single jobs on connections of an engine's pool."""

    def __init__(
        self, engine: AsyncEngine, statements: AsyncEngine, transactions: AsyncEngine, *, announce: bool
    ) -> None:
        """Two engines are made of the first: `statements` is on AUTOCOMMIT, `transactions` is not; both find tables."""
        self._driver = Driver(engine.sync_engine, statements.sync_engine, transactions.sync_engine)
        self._transactions = transactions
        self._announce = announce
        schema = schema_of(statements.sync_engine)
        self._announced = schema if announce and is_announced(statements.sync_engine) else None
        """The schema, where the jobs are announced."""
        self._statements: dict[bool, _Statement] = {}  # by whether it notifies

    async def write(self, job: Job) -> Job:
        """Store a job and return it, detached and with all that the database has set."""
        if not _needs_session(job):
            is_written = False
            if not hooks.AROUND_INSERT.hooks:  # as nearly always
                is_written = await self._insert(job)
            else:
                with hooks.together():
                    is_written = await self._insert(job)
            if is_written:
                return job
        async with AsyncSession(self._transactions, expire_on_commit=False) as session, session.begin():
            session.info[ANNOUNCE] = self._announce
            return in_session.enqueue(session, job)

    async def _insert(self, job: Job) -> bool:
        """Insert a job by one statement; return False where only a session can write it."""
        if (row := _row(job)) is None:
            return False
        queues: dict[str, News] = {}
        if self._announced is not None:
            add_one(queues, vars(job))
        opened = self._driver.open_at_once() or await self._driver.open()
        try:
            with Announcement(opened.engine, queues, self._announced) as announcement:
                kind, args = row
                notice = announcement.notice
                text, given = self._statement(opened.engine, notifying=notice is not None)
                if notice is None:
                    values = given((*kind, args))
                else:
                    [payload] = notice.payloads
                    values = given((*kind, args, notice.channel, payload))
                answer = await opened.run(text, values)
            if late := announcement.late:
                await greenlet_spawn(lambda: announce_late(opened.connection(), late))
            take_in(answer, [job])
            let_go(job)
        finally:
            if not opened.close_at_once():
                await opened.close()
        if hooks.JOBS_ENQUEUED.on:
            enqueued.tell(schema_of(opened.engine), enqueued.counted([job]))
        return True

    def _statement(self, engine: Engine, *, notifying: bool) -> _Statement:
        """Return the statement, and what makes its parameters of those of `_NAMES`, or of `_NOTIFYING`."""
        if (found := self._statements.get(notifying)) is None:
            made = rendered(engine.dialect, schema_named(engine), "one", returning=True, notifying=notifying)
            found = self._statements[notifying] = made.text, made.given_as(_NOTIFYING if notifying else _NAMES)
        return found


_NAMES: Final = (*Kind._fields, "args")
_NOTIFYING: Final = (*_NAMES, "channel", "payload")


def _needs_session(job: object) -> bool:
    """Whether only a session can write what was given, or refuse it; or the program listens for what a session does."""
    if type(job) is not Job or instance_state(job).session_id is not None or "_unique" in vars(job):
        return True
    return bool(_sessions.pending_to_persistent) or not is_plain(Job.__mapper__)


_sessions: Final[Any] = Session().dispatch
"""The listeners of a session that has none of its own, which are those of all sessions."""


def _row(job: Job) -> Row | None:
    """Check a job, have hooks see it, and return its row; None where only a session can write it."""
    check(job)
    loaded = vars(job)
    written: dict[str, object] = {}
    for column in ("args", "meta"):
        value = loaded.get(column)
        if not is_flat(value):
            value = to_json(validation.json_object(value, column), where=column)
            if has_references(value):
                return None
        written[column] = {} if value is None else value.copy()
    loaded.update(written)
    found = rows([job])
    if found is not None and hooks.BEFORE_INSERT.hooks:
        admit(job)
        loaded.update({column: plain(loaded[column], column) for column in written})
        found = rows([job])
        if found is None:
            raise InvalidJob(f"a hook has given {job} a value that only a session can write; see hooks.before_insert")
    return None if found is None else found[0]
