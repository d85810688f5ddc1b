"""Many jobs, written at once in a session's own transaction: a statement inserts a thousand, and announces them.

The session only lends its connection, and does not keep the jobs, which is what takes most of the time of a flush. So
what a session does for its objects it does not do for them: no relationship reaches them, and after a rollback they
keep the ids that they were given.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from oban_sa import hooks
from oban_sa.bulk.binary import fits
from oban_sa.bulk.several import Jobs, Stream
from oban_sa.errors import InvalidJob, InvalidOption, SessionEnded
from oban_sa.jobs.values import has_references, is_flat, replace_references
from oban_sa.models import Job
from oban_sa.outbox import enqueued, references
from oban_sa.outbox.admission import admit, plain
from oban_sa.outbox.announcements import ANNOUNCE, add_news, schema_of
from oban_sa.outbox.outbox import Outbox
from oban_sa.outbox.rows import Row, let_go, rows, take_in, written
from oban_sa.outbox.sessions import AnySession, run_in, session_behind, unscoped
from oban_sa.outbox.unwritten import refuse_ended
from oban_sa.sql.errors import sqlstate
from oban_sa.wire.messages import News

JOBS: Final = 1_000
"""Jobs that one statement writes at most."""

BYTES: Final = 1_000_000
"""Bytes of args above which a statement takes no more jobs."""

TURN: Final = 50
"""Jobs that are made into rows at once, after which the bytes are counted."""

_FAILED: Final = "25P02"
"""The SQLSTATE in_failed_sql_transaction."""


async def insert(
    session: AnySession, jobs: Jobs, *, engine: AsyncEngine, announcing: bool, returning: bool
) -> tuple[int, list[Job]]:
    """Write jobs in the transaction of a session, and return how many, with the jobs themselves where `returning`.

    `engine` is the one that finds the tables: a session of another database, or one that finds them in another schema,
    is refused by `InvalidOption`. Raises `TypeError` for what is no session, `SessionEnded` for one that can't go on.
    """
    found: AnySession = unscoped(session)
    await run_in(found, lambda sync: _check(sync, engine.sync_engine))
    writing = _Writing(found, announcing=announcing, returning=returning)
    with hooks.together():
        await writing.read(jobs)
        await writing.write()
    return writing.stored, writing.written


class _Writing(Stream):
    """Writes jobs in their order, each statement those that were taken since the last."""

    def __init__(self, session: AnySession, *, announcing: bool, returning: bool) -> None:
        super().__init__()
        self.written: list[Job] = []
        """All that were written, where they are to be returned."""
        self._session = session
        self._sync = session_behind(session)
        self._announcing = announcing
        self._returning = returning
        self._begin()

    def _begin(self) -> None:
        self._first: int = self.count  # the index of the first job that is not written yet
        self._jobs: list[Job] = []  # those of `_rows`, where they are to be returned
        self._rows: list[Row] = []
        self._fresh: list[Job] = []  # to be made into rows, after those
        self._referring: list[Job] = []  # those of `_fresh` with references, whose values only a flush may tell
        self._objects: list[Job] = []  # that a statement can't write, and those after them
        self._queues: dict[str, News] = {}
        self._counts: enqueued.Counts = {}
        self._size = 0

    def take(self, job: Job) -> bool:
        """Take a job; return whether it is time to write."""
        self.check(job)
        if self._objects or not fits(job):
            if "_unique" in vars(job):
                self._plain(job)
            else:
                plain(job.args, "args", self._sync)  # now, while it is known which job it is
                plain(job.meta, "meta", self._sync)
            self._objects.append(job)  # admitted as they are flushed
        else:
            admit(job)
            self._plain(job)
            self._fresh.append(job)
        self.count += 1
        if len(self._fresh) >= TURN and not self._referring:
            self._make_rows()
        return self.count - self._first >= JOBS or self._size >= BYTES

    async def write(self) -> None:
        """Write what was taken."""
        if self.count > self._first:
            await run_in(self._session, self._write)
            self._begin()

    def _plain(self, job: Job) -> None:
        loaded = vars(job)
        refers = False
        for column in ("args", "meta"):
            value = loaded.get(column)
            loaded[column] = written = plain(value, column, self._sync)
            refers = refers or (not is_flat(value) and has_references(written))
        if refers:
            self._referring.append(job)

    def _make_rows(self) -> None:
        fresh, self._fresh = self._fresh, []
        if (made := rows(fresh)) is None:
            index = next(index for index, job in enumerate(fresh) if rows([job]) is None)
            refused = InvalidJob(
                f"{fresh[index]} has a value that only a flush can write; use enqueue_many(session, jobs)"
            )
            refused.number(self._first + len(self._rows) + index)
            raise refused
        self._rows += made
        self._size += sum(len(args) for _, args in made)
        if self._announcing:
            add_news(self._queues, fresh)
        if hooks.JOBS_ENQUEUED.on:
            enqueued.add_jobs(self._counts, fresh)
        if self._returning:
            self._jobs += fresh

    def _write(self, session: Session) -> None:
        if not session.is_active:
            refuse_ended(session)
        try:
            # What the session has not written yet, such as objects that the jobs are about, comes first.
            if session.autoflush:
                session.flush()
            self._resolve()
            self._make_rows()
            connection = session.connection(bind_arguments={"mapper": Job.__mapper__})
            self._insert(session, connection)
            if self._objects:
                self._flush(session, connection)
        except DBAPIError as error:
            if sqlstate(error) != _FAILED:
                raise
            raise SessionEnded(
                "a statement has failed in the transaction of this session, which can't go on; write "
                "session.rollback() first, or let what may fail run in a savepoint: with session.begin_nested(): ..."
            ) from error

    def _resolve(self) -> None:
        for job in self._referring:
            loaded = vars(job)
            for column in ("args", "meta"):
                loaded[column] = replace_references(loaded[column], references.final, where=column)
        self._referring = []

    def _insert(self, session: Session, connection: Connection) -> None:
        outbox = Outbox.of(session)
        notice = outbox.join(session, connection, self._queues)
        for answer, these in written(connection, self._rows, notice, returning=self._returning):
            if self._returning:
                jobs = self._jobs[these]
                take_in(answer, jobs)
                for job in jobs:
                    let_go(job)
                self.written += jobs
        if notice is not None:
            outbox.sent(connection)
        outbox.count(session, connection, self._counts)

    def _flush(self, session: Session, connection: Connection) -> None:
        """Write unique jobs, and those with a past or an id of their own, by another session on the same connection."""
        objects = self._objects
        # In a savepoint: an error takes back what this session has written, and not what the other one has.
        with Session(connection, expire_on_commit=False, join_transaction_mode="create_savepoint") as own:
            own.info[ANNOUNCE] = False
            own.add_all(objects)
            own.flush()
            own.expunge_all()
            own.commit()
        changed = self.changed(objects)
        if self._announcing:
            queues: dict[str, News] = {}
            add_news(queues, changed)
            Outbox.of(session).receive(session, connection, set(queues))
        if hooks.JOBS_ENQUEUED.on:
            Outbox.of(session).count(session, connection, enqueued.counted(objects))
        if self._returning:
            self.written += objects


def _check(session: Session, engine: Engine) -> None:
    """Refuse a session whose jobs would not be in the tables that `engine` finds, or that can't go on."""
    if not session.is_active:
        refuse_ended(session)
    try:
        bind = session.get_bind(Job.__mapper__)
    except Exception:  # none at all, as the session will say; or an application's own way to choose
        return
    if bind.dialect.name != "postgresql":
        raise InvalidOption(f"jobs live in PostgreSQL, and this session speaks to {bind.dialect.name}")
    here, there = bind.engine.url, engine.url
    if here.database != there.database or _host(here) != _host(there):
        raise InvalidOption(
            f"this session works in {here!r} and this Oban in {there!r}; use the Oban of the session's engine"
        )
    if (found := schema_of(bind)) != (wanted := schema_of(engine)):
        raise InvalidOption(
            f"this session finds the tables of jobs in the schema {found!r} and this Oban in {wanted!r}; bind it to "
            f"engine.execution_options(schema_translate_map=schema_map({wanted!r}))"
        )


def _host(url: URL) -> Any:
    """The host of a database, None for this machine; its port may be that of a pooler."""
    host = url.host or url.query.get("host")
    return None if host in ("localhost", "127.0.0.1", "::1") or str(host or "/").startswith("/") else host
