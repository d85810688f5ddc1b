"""Sessions for a person's looks at the tables: each finds a little by an index, and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.client.oban import Oban
from oban_sa.models import schema_map
from oban_sa.sql import overview
from oban_sa.sql.planner import plainly, read_only

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

TIMEOUT: Final = 2.0
"""Seconds that a statement of a `reader` may take."""


def reader(oban: Oban, *, timeout: float = TIMEOUT) -> Oban:
    """Return an `Oban` on the same pool whose transactions can only read, and whose statements end after `timeout`.

    The server's just-in-time compiler is off in them: it takes several times as long as a statement that reads little.
    """
    engine: AsyncEngine = oban.engine.execution_options()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.execute(read_only(timeout))

    return Oban(engine, schema=oban.schema, name=oban.name, announce=False)


@asynccontextmanager
async def read_session(oban: Oban) -> AsyncGenerator[AsyncSession]:
    """Open a session for SELECTs that are to find little, by an index each; see `plainly`."""
    options = oban.engine.get_execution_options()
    given = cast("dict[str | None, str | None]", options.get("schema_translate_map") or {})
    engine = oban.engine.execution_options(schema_translate_map={**given, **schema_map(oban.schema)})
    async with AsyncSession(engine) as session:
        await session.execute(plainly())
        yield session


async def database_now(session: AsyncSession) -> datetime:
    """Return the time by the database's clock, so that ages are right on a machine whose clock is wrong."""
    now: datetime = (await session.execute(overview.now())).scalar_one()
    return now.replace(tzinfo=UTC)
