"""The check that the tables are there, in the version that this oban_sa works with."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.catalog import version
from oban_sa.catalog.inspection import Found, inspect, instructions, outdated
from oban_sa.errors import SchemaMissing, SchemaOutdated


async def verify(engine: AsyncEngine, schema: str = "public", *, limits: bool = True) -> None:
    """Check that clients and runners can work on the tables in `schema`.

    The functions in SQL are left out without `limits`, which alone need them. Raises `SchemaMissing` or
    `SchemaOutdated`, each with the migration to run; errors of connecting pass unchanged.
    """
    async with engine.connect() as connection:
        has = await connection.run_sync(inspect, schema)
    check(has, schema, limits=limits)


def check(has: Found, schema: str, *, limits: bool) -> None:
    """Raise what `verify` raises where what a schema has is not enough."""
    if has.version and has.version < version.LATEST:
        raise SchemaOutdated(
            f"the tables in schema {schema!r} are at version {has.version}, and this oban_sa needs {version.LATEST}\n"
            f"{instructions(schema, found=has.version)}",
            found=has.version,
            required=version.LATEST,
        )
    if lacking := outdated(has, schema, limits=limits):
        listed = lacking if len(lacking) <= 5 else [*lacking[:4], f"and {len(lacking) - 4} things more"]
        raise SchemaMissing("\n".join([*listed, instructions(schema, found=has.version)]))
