"""Opens the runner's own connections, and knows its statements for one schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import asyncpg
from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from oban_sa.catalog.inspection import FOUND, Found, found
from oban_sa.catalog.names import quoted
from oban_sa.errors import RunnerError, articled
from oban_sa.runner.database.availability import Availability
from oban_sa.runner.database.connection import Line, in_order
from oban_sa.runner.database.prepared import Prepared, prepared
from oban_sa.runner.database.server_settings import ENOUGH, WITHIN, on_connect
from oban_sa.runner.database.start_steps import copied
from oban_sa.schedule import clock


class Database:
    """The database that a runner works in, reached by connections of its own.

    They come from a copy of the engine's pool, so the engine's connect arguments, creators and events all apply, while
    jobs that hold every connection of the user's pool can't keep outcomes from being written.
    """

    def __init__(self, engine: AsyncEngine, *, schema: str = "public", quiet: bool = False) -> None:
        """With `quiet` nothing is warned of: another `Database` of this runner does. Raises RunnerError."""
        # Read by name: a URL or a sessionmaker is what a caller without a type checker may have given instead.
        if getattr(engine, "dialect", None) is None:
            raise RunnerError(
                f"a runner takes an AsyncEngine, not {articled(type(engine).__name__)}; "
                'make one with create_async_engine("postgresql+asyncpg://...")'
            )
        if engine.dialect.driver != "asyncpg":
            raise RunnerError(
                f"a runner works on asyncpg, and this engine speaks {engine.dialect.driver!r}; "
                'make it with create_async_engine("postgresql+asyncpg://...")'
            )
        self.engine = engine
        self.schema = schema
        self.availability = Availability(quiet=quiet)
        self.prepares: bool = True
        """Whether its connections prepare statements under names, as they do unless a pooler was told of."""
        self.pool = copied(engine.pool)
        """Makes its connections, and keeps none."""
        self._shared: Line | None = None
        self._lines: WeakSet[Line] = WeakSet()

    def prepare(self, make: Executable | Callable[..., Executable], *args: object, **given: object) -> Prepared:
        """A statement for this schema, or what `make` builds of these arguments, which have to be hashable."""
        return prepared(self.schema, make, *args, **given)

    async def begin(self, reached: Callable[[], object] = lambda: None) -> Found:
        """Open the shared connection, call `reached`, and return what the schema has of our tables.

        Raises what the driver and the pool raise, and writes nothing into the log: its caller tells of it.
        """
        quoted(self.schema)
        inspecting = self.prepare(FOUND).text
        async with self.shared.lock:  # others wait for this connection, instead of opening it too
            connection = await self.connect()
            reached()
            try:
                rows = await connection.fetch(
                    inspecting.sql, *in_order(inspecting, {"schema": self.schema}), timeout=WITHIN
                )
            except BaseException:
                connection.terminate()
                raise
            self.shared.take(connection)
        return found(rows)

    @property
    def shared(self) -> Line:
        """The connection of all parts that can wait for each other, so that a node opens few; any of them closes it."""
        if self._shared is None:
            self._shared = self.line()
        return self._shared

    def line(self, *, keeps_plans: bool = False, table: str = "oban_jobs", enough: int = ENOUGH) -> Line:
        """A connection of its own, opened when first used.

        `Line.plan_anew` has plans kept while the `table` is `enough` bytes large; with `keeps_plans` those of
        producers, which join jobs with arrays and with nothing else.
        """
        line = Line(
            lambda: self.connect(keeps_plans=keeps_plans),
            self.availability,
            table=self.literal(table),
            enough=enough,
            prepares=lambda: self.prepares,
        )
        self._lines.add(line)
        return line

    def slow(self, after: float) -> list[Line]:
        """Return the lines that a statement has kept busy for so many seconds."""
        until = clock.monotonic() - after
        return [line for line in self._lines if line.busy_since is not None and line.busy_since < until]

    async def connect(self, *, keeps_plans: bool = False) -> asyncpg.Connection:
        """Open a connection that belongs to the caller alone."""
        connected: Any = await greenlet_spawn(self.pool.connect)
        raw: asyncpg.Connection = connected.driver_connection
        config: Any = raw._config  # type: ignore[attr-defined]
        self.prepares = config.statement_cache_size > 0
        connected.detach()
        try:
            await raw.execute(on_connect(raw.get_server_pid(), keeps_plans=keeps_plans))
        except BaseException:
            raw.terminate()
            raise
        return raw

    def literal(self, table: str) -> str:
        """Return the name of a table in this schema, a literal of SQL as `to_regclass` takes it."""
        name = self.named(table).replace("'", "''")
        return f"'{name}'"

    def named(self, table: str) -> str:
        """Return the name of a table in this schema, as the value that `to_regclass` takes."""
        return f"{self.engine.dialect.identifier_preparer.quote(self.schema)}.{table}"
