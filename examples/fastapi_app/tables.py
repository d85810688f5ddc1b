"""`python -m examples.fastapi_app.tables` makes the application's own table. Yours is made by Alembic, most likely."""

from __future__ import annotations

import asyncio

from examples.fastapi_app.database import engine
from examples.fastapi_app.models import Base


async def make() -> None:
    """Make what does not exist yet; the jobs' tables have to be there."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make())
