"""Where the jobs of a test are: behind an engine, or in the transaction that a session has open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, CursorResult, Engine, Executable, RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from oban_sa.models import Job, schema_map
from oban_sa.outbox.announcements import schema_of
from oban_sa.outbox.sessions import unscoped

Bind: TypeAlias = AsyncEngine | Engine | AsyncConnection | Connection

_MAPPER: Final = {"mapper": Job.__mapper__}


@dataclass(frozen=True, slots=True)
class Binding:
    """Runs statements on jobs: each in a transaction of its own on an engine, else in the one that is open."""

    bind: Bind

    @classmethod
    async def of(cls, where: object, schema: str = "public") -> Binding:
        """Return the binding of an engine, a connection or a session; what a session has pending is flushed.

        `schema` is that of an engine's tables; a connection knows where its own are.
        """
        found = unscoped(where)
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
            known: dict[str | None, str | None]
            known = dict(found.get_execution_options().get("schema_translate_map") or {})
            return cls(found.execution_options(schema_translate_map={**known, **mapped}) if mapped else found)
        raise TypeError(
            f"jobs are drained in an engine or a session, and this is {found!r}; "
            "write drain(engine) for committed jobs, drain(session) for those of its open transaction"
        )

    @property
    def schema(self) -> str:
        """The schema of the tables of jobs."""
        bind = self.bind.sync_connection if isinstance(self.bind, AsyncConnection) else self.bind
        if bind is None:  # not begun, and so without options of its own
            return "public"
        return schema_of(bind.sync_engine if isinstance(bind, AsyncEngine) else bind)

    async def fetch(
        self,
        statement: Executable,
        values: Mapping[str, object] | None = None,
        *,
        after: tuple[Executable, Mapping[str, object]] | None = None,
    ) -> Sequence[RowMapping]:
        """Run a statement and return its rows; on an engine another one comes `after` which it is to be run."""
        given = dict(values or {})
        if isinstance(self.bind, AsyncEngine):
            async with self.bind.begin() as connection:
                if after is not None:
                    await connection.execute(after[0], dict(after[1]))
                return _rows(await connection.execute(statement, given))
        if isinstance(self.bind, AsyncConnection):
            return _rows(await self.bind.execute(statement, given))
        if isinstance(self.bind, Engine):
            with self.bind.begin() as connection:
                if after is not None:
                    connection.execute(after[0], dict(after[1]))
                return _rows(connection.execute(statement, given))
        return _rows(self.bind.execute(statement, given))


def _rows(result: CursorResult[*tuple[Any, ...]]) -> Sequence[RowMapping]:
    return result.mappings().all() if result.returns_rows else ()
