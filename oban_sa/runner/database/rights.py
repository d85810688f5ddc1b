"""Check that the role which a runner connects with has the rights that the runner needs."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.errors import RunnerError
from oban_sa.sql.rights import NOT_GRANTED, needed, runner_needs


async def check_rights(engine: AsyncEngine, schema: str, *, crontab: bool, prune: bool, limits: bool) -> None:
    """Raise RunnerError, with all that is lacking and how it is granted, where the role can't work in `schema`."""
    needs = runner_needs(crontab=crontab, prune=prune)
    async with engine.connect() as connection:
        lacking = list(await connection.scalars(NOT_GRANTED, needed(schema, needs, limits=limits)))
        role = await connection.scalar(text("SELECT current_user")) if lacking else None
    if lacking:
        raise RunnerError(
            f"the role {role!r} can't work in schema {schema!r}; it lacks\n{listed(lacking)}\n"
            f"Let the owner of the tables run what this prints: python -m oban_sa grants --role runner --to {role}"
            + ("" if schema == "public" else f" --schema {schema}")
        )


def listed(lacking: Iterable[str]) -> str:
    """Return what is lacking, a line each."""
    return "\n".join(f"- {each}" for each in lacking)
