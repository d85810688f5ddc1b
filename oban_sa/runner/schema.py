"""Are the tables there, and are they ours?"""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import migrations
from oban_sa.errors import SchemaMissing, SchemaOutdated


async def verify(engine: AsyncEngine, schema: str = "public") -> None:
    """Return when a runner can work on the tables in `schema`.

    Raises `SchemaMissing` or `SchemaOutdated`, each with the migration that mends it; what keeps a connection from
    being made passes unchanged.
    """

    def found(connection: Connection) -> tuple[int, list[str]]:
        return migrations.installed(connection, schema), migrations.missing(connection, schema)

    async with engine.connect() as connection:
        version, lacking = await connection.run_sync(found)
    if version and version < migrations.LATEST:
        raise SchemaOutdated(
            migrations.instructions(schema=schema, found=version), found=version, required=migrations.LATEST
        )
    if lacking:
        raise SchemaMissing(migrations.instructions(schema=schema, found=version, missing=lacking))
