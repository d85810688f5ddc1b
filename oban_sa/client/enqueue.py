"""One job, written without a session: a single statement inserts and announces it, and commits by itself."""

from __future__ import annotations

from typing import Any, Final

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
from oban_sa.outbox.announcements import ANNOUNCE, Announcement, add_one, announce_late, schema_named, schema_of
from oban_sa.outbox.rows import Row, let_go, rows, take_in
from oban_sa.outbox.save_action import is_plain
from oban_sa.sql.rendered import Rendered, rendered
from oban_sa.wire.messages import News


class Enqueue:
    """Writes single jobs on connections of an engine's pool."""

    def __init__(
        self, engine: AsyncEngine, statements: AsyncEngine, transactions: AsyncEngine, *, announce: bool
    ) -> None:
        """Two engines are made of the first: `statements` is on AUTOCOMMIT, `transactions` is not; both find tables."""
        self._driver = Driver(engine.sync_engine, statements.sync_engine, transactions.sync_engine)
        self._transactions = transactions
        self._announce = announce
        self._texts: dict[bool, Rendered] = {}  # by whether it notifies

    async def write(self, job: Job) -> Job:
        """Store a job and return it, detached and with all that the database has set."""
        if not _needs_session(job):
            with hooks.together():
                row = _row(job)
                if row is not None:
                    await self._insert(job, row)
                    return job
        async with AsyncSession(self._transactions, expire_on_commit=False) as session, session.begin():
            session.info[ANNOUNCE] = self._announce
            return in_session.enqueue(session, job)

    async def _insert(self, job: Job, row: Row) -> None:
        queues: dict[str, News] = {}
        if self._announce:
            add_one(queues, vars(job))
        async with await self._driver.open() as opened:
            with Announcement(opened.engine, queues) as announcement:
                notice = announcement.notice
                text, given = self._rendered(opened.engine, notifying=notice is not None)
                kind, args = row
                values: dict[str, object] = {**kind._asdict(), "args": args}
                if notice is not None:
                    values |= notice.parameters_of_one()
                answer = await opened.run(text, given(values))
            if late := announcement.late:
                await greenlet_spawn(lambda: announce_late(opened.connection(), late))
            take_in(answer, [job])
            let_go(job)
        if hooks.JOBS_ENQUEUED.on:
            enqueued.tell(schema_of(opened.engine), enqueued.counted([job]))

    def _rendered(self, engine: Engine, *, notifying: bool) -> Rendered:
        if (found := self._texts.get(notifying)) is None:
            found = self._texts[notifying] = rendered(
                engine.dialect, schema_named(engine), "one", returning=True, notifying=notifying
            )
        return found


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
