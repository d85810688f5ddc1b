"""`python -m examples.litestar_app.tables` makes the application's own table. Yours is made by Alembic, most likely."""

from __future__ import annotations

import asyncio

from examples.litestar_app.database import engine
from examples.litestar_app.models import Report


async def make() -> None:
    """Make what does not exist yet; the jobs' tables have to be there."""
    async with engine.begin() as connection:
        await connection.run_sync(Report.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make())
