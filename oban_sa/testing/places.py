"""Where the jobs of a test are: behind an engine, or in the transaction that a session has open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from oban_sa.models import Job, schema_map

Bind: TypeAlias = AsyncEngine | Engine | AsyncConnection | Connection

_MAPPER: dict[str, Any] = {"mapper": Job.__mapper__}


def proper(session: Any) -> Any:
    """Return the session behind a scoped one, and anything else as it is."""
    if isinstance(session, (scoped_session, async_scoped_session)):
        return cast("Any", session).registry()
    return session


@dataclass(frozen=True, slots=True)
class Place:
    """Runs statements on jobs: each in a transaction of its own on an engine, else in the one that is open."""

    bind: Bind

    @classmethod
    async def of(cls, where: Any, schema: str = "public") -> Place:
        """Find the place that `where` means; what a session has pending is flushed.

        `schema` is that of an engine's tables; a connection knows where its own are.
        """
        found = proper(where)
        if isinstance(found, AsyncSession):
            await found.flush()
            return cls(await found.connection(bind_arguments=_MAPPER))
        if isinstance(found, Session):
            found.flush()
            return cls(found.connection(bind_arguments=_MAPPER))
        if isinstance(found, (AsyncConnection, Connection)):
            return cls(found)
        if isinstance(found, (AsyncEngine, Engine)):
            mapped = schema_map(schema)
            known: Any = found.get_execution_options().get("schema_translate_map") or {}
            return cls(found.execution_options(schema_translate_map={**known, **mapped}) if mapped else found)
        raise TypeError(
            f"jobs are drained in an engine or a session, and this is {found!r}; "
            "write drain(engine) for committed jobs, drain(session) for those of its open transaction"
        )

    async def fetch(self, statement: Executable, values: Mapping[str, Any] | None = None) -> list[Mapping[str, Any]]:
        """Run a statement and return its rows."""
        given = dict(values or {})
        if isinstance(self.bind, AsyncEngine):
            async with self.bind.begin() as connection:
                return _rows(await connection.execute(statement, given))
        if isinstance(self.bind, AsyncConnection):
            return _rows(await self.bind.execute(statement, given))
        if isinstance(self.bind, Engine):
            with self.bind.begin() as connection:
                return _rows(connection.execute(statement, given))
        return _rows(self.bind.execute(statement, given))


def _rows(result: Any) -> list[Mapping[str, Any]]:
    return list(result.mappings()) if result.returns_rows else []
