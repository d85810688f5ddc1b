"""A database reached through one driver, an application's own tables in it, and the notifications sent from it."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine, ForeignKey, Integer, Text, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from oban_sa.models import Job
from oban_sa.wire import messages
from tests.support import plain_url, sync_url

DRIVERS = ("asyncpg", "psycopg", "psycopg2", "pg8000")

T = TypeVar("T")


class Base(DeclarativeBase):
    pass


class User(Base):
    """Its module sorts after that of Job, so the unit of work writes a job before the user it refers to."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str | None]
    slug: Mapped[str] = mapped_column(server_default=text("'made-by-the-database'"))
    visits: Mapped[int] = mapped_column(default=7)
    orders: Mapped[list[Order]] = relationship(back_populates="user", cascade="all, delete-orphan")

    @hybrid_property
    def shout(self) -> str:
        return (self.email or "").upper()

    @property
    def greeting(self) -> str:
        return f"Dear {self.email}"


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    user: Mapped[User] = relationship(back_populates="orders")


class Account(Base):
    """Its module sorts before that of Job, so its key is known when the job is written."""

    __module__ = "application"
    __tablename__ = "accounts"

    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(Text)


class Document(Base):
    __tablename__ = "documents"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


class Lazy(Base):
    """Leaves what the database fills in to be read when it is asked for."""

    __tablename__ = "lazies"
    __mapper_args__ = {"eager_defaults": False}

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(server_default=text("'made-by-the-database'"))


class Pair(Base):
    __tablename__ = "pairs"

    left: Mapped[int] = mapped_column(primary_key=True)
    right: Mapped[int] = mapped_column(primary_key=True)


class Report(Base):
    """Knows its job, as its job knows it."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey(Job.id))
    job: Mapped[Job | None] = relationship(Job)


class AppDatabase:
    """One database through one driver; `run` gives any work a session, inside a greenlet where the driver is async."""

    def __init__(self, url: str, driver: str) -> None:
        self.url = url
        self.driver = driver
        self.news: list[messages.News] = []
        """What the notifications that were heard last say beside their queues."""
        self._loop = asyncio.Runner() if driver == "asyncpg" else None
        self._engine: AsyncEngine | None = create_async_engine(url) if self._loop else None
        self.engine: Engine = self._engine.sync_engine if self._engine else create_engine(sync_url(url, driver))
        self._admin = psycopg.connect(plain_url(url), autocommit=True)
        self._ears = psycopg.connect(plain_url(url), autocommit=True)
        self._ears.execute('LISTEN "public.oban_insert"')
        self._ears.execute('LISTEN "jobs.oban_insert"')
        self._ears.execute("LISTEN done")
        self._counter = itertools.count()
        self.work_on_engine(Base.metadata.create_all)

    @property
    def bind(self) -> Any:
        """The engine, of the kind that the driver wants."""
        return self._engine if self._engine is not None else self.engine

    def close(self) -> None:
        self._admin.close()
        self._ears.close()
        self.hang_up()
        if self._loop is not None:
            self._loop.close()

    def hang_up(self) -> None:
        """Dispose of the pool, of whose connections one may be broken."""
        if self._engine is not None and self._loop is not None:
            self._loop.run(self._engine.dispose())
        self.engine.dispose()

    def empty(self) -> None:
        self._admin.execute("TRUNCATE oban_jobs, users, orders, accounts, documents, lazies, pairs, reports CASCADE")
        self.heard()

    def run(
        self, work: Callable[[Session], T], *, bind: Any = None, kind: type[Session] = Session, **options: Any
    ) -> T:
        """Call `work` with a new session, and close that in any case."""
        if self._loop is None:
            with kind(bind if bind is not None else self.bind, **options) as session:
                return work(session)

        async def inside() -> T:
            bound = bind if bind is not None else self.bind
            async with AsyncSession(bound, sync_session_class=kind, **options) as session:
                return await session.run_sync(work)

        return self._loop.run(inside())

    def work_on_engine(self, work: Callable[[Any], T]) -> T:
        """Call `work` with a connection in a transaction that commits."""
        if self._loop is None:
            with self.engine.begin() as connection:
                return work(connection)

        async def inside() -> T:
            assert self._engine is not None
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)

        return self._loop.run(inside())

    def jobs(self, schema: str = "public") -> list[dict[str, Any]]:
        """The committed jobs, in order of ids."""
        cursor = self._admin.execute(f"SELECT id, args, meta, state::text, queue FROM {schema}.oban_jobs ORDER BY id")
        return [dict(zip(("id", "args", "meta", "state", "queue"), row, strict=True)) for row in cursor]

    def count(self, table: str) -> int:
        row = self._admin.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return row[0]

    def execute(self, statement: str) -> None:
        self._admin.execute(statement)

    def heard(self) -> list[tuple[str, str]]:
        """The notifications, (channel, payload), of transactions committed since the last call.

        Without what they say beside the queue, which `news` has.
        """
        self.news.clear()
        sentinel = f"done {next(self._counter)}"
        self._admin.execute("SELECT pg_notify('done', %s)", (sentinel,))
        heard: list[tuple[str, str]] = []
        while True:  # notifications come in the order of commits, so nothing can follow the sentinel
            for each in self._ears.notifies(timeout=10, stop_after=1):
                if each.channel == "done" and each.payload == sentinel:
                    return heard
                message = json.loads(each.payload)
                self.news.append(messages.news_of(message))
                heard.append((each.channel, json.dumps({"queue": message["queue"]}, separators=(",", ":"))))

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """Collect the statements that are sent inside the block; no other is listened to."""
        collected: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            collected.append(statement)

        event.listen(self.engine, "before_cursor_execute", note)
        try:
            yield collected
        finally:
            event.remove(self.engine, "before_cursor_execute", note)
