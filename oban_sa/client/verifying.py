"""Are the tables there, and are they ours?"""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.errors import SchemaMissing, SchemaOutdated


async def verify(engine: AsyncEngine, schema: str = "public") -> None:
    """Return when clients and runners can work on the tables in `schema`.

    Raises `SchemaMissing` or `SchemaOutdated`, each with the migration that mends it; what keeps a connection from
    being made passes unchanged.
    """

    # Alembic is loaded by those who ask, not by every program that enqueues.
    from oban_sa import migrations

    def found(connection: Connection) -> tuple[int, list[str]]:
        return migrations.installed(connection, schema), migrations.missing(connection, schema)

    async with engine.connect() as connection:
        version, lacking = await connection.run_sync(found)
    if version and version < migrations.LATEST:
        raise SchemaOutdated(
            f"the tables in schema {schema!r} are at version {version}, and this oban_sa needs {migrations.LATEST}\n"
            f"{migrations.instructions(schema, found=version)}",
            found=version,
            required=migrations.LATEST,
        )
    if lacking:
        listed = lacking if len(lacking) <= 5 else [*lacking[:4], f"and {len(lacking) - 4} things more"]
        raise SchemaMissing("\n".join([*listed, migrations.instructions(schema, found=version)]))
