"""Check out an order, approve it, and wait for what comes of it: `python -m examples.checkout [ORDER] [CENTS]`.

A runner works meanwhile, also elsewhere: `python -m oban_sa.runner --queues orders:5 --import examples.checkout.jobs`.
"""

from __future__ import annotations

import asyncio
import os
import sys

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from examples.checkout.jobs import checkout, metadata
from oban_sa import Oban, enqueue, signal


async def main(order_id: int, cents: int) -> None:
    """Enqueue the checkout and its approval in one transaction, as a test order may; then wait."""
    engine = create_async_engine(make_url(os.environ["OBAN_DATABASE_URL"]).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with sessions.begin() as session:
        job = enqueue(session, checkout.new(order_id, cents))
        signal(session, job, "approval", True)
    print(
        await Oban(engine).relay(job, within="1 minute", on_progress=lambda said: print(f"{said.done:.0%} {said.note}"))
    )
    await engine.dispose()


asyncio.run(main(*(int(word) for word in (*sys.argv[1:], "7", "300")[:2])))
