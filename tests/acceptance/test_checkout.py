"""The checkout example: one charge and one booking, also where the job fails between them and the end."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support import eventually, forked, plain_url

RUNNER = (
    *("-m", "oban_sa.runner", "--queues", "orders:5", "--import", "examples.checkout.jobs"),
    *("--heartbeat-every", "0.5", "--dead-after", "5", "--log-level", "warning"),
)


@pytest.mark.parametrize("cents", [300, 13])
async def test_an_order_is_charged_and_booked_once(database_url: str, engine: AsyncEngine, cents: int) -> None:
    env = {"OBAN_DATABASE_URL": plain_url(database_url)}
    with forked(RUNNER, env=env) as runner, forked(["-m", "examples.checkout", "7", str(cents)], env=env) as shop:
        assert await shop.ended(60) == 0, shop.output + runner.output
        assert "{'shipped': True, 'payment': 'pay-7'}" in shop.stdout
        assert shop.stdout.count("60% booked\n") >= 1
        assert runner.stdout.count("charging order 7") == 1, runner.output
    async with engine.connect() as connection:
        rows = [tuple(row) for row in await connection.execute(text("SELECT order_id, payment FROM checkout_bookings"))]
        attempt = await connection.scalar(text("SELECT attempt FROM oban_jobs"))
    assert rows == [(7, "pay-7")]
    assert attempt == (2 if cents == 13 else 1)


async def test_an_order_waits_until_it_is_approved_at_a_terminal(database_url: str, engine: AsyncEngine) -> None:
    env = {"OBAN_DATABASE_URL": plain_url(database_url)}
    with forked(RUNNER, env=env) as runner, forked(["-m", "examples.checkout", "9", "--by-hand"], env=env) as shop:
        await eventually(lambda: waits(engine), 60)
        with forked(["-m", "oban_sa", "jobs", "signal", "1", "approval", "true"], env=env) as sender:
            assert await sender.ended(60) == 0, sender.output
        assert await shop.ended(60) == 0, shop.output + runner.output
        assert "Job 1 waits for you: python -m oban_sa jobs signal 1 approval true\n" in shop.stdout
        assert "{'shipped': True, 'payment': 'pay-9'}" in shop.stdout


async def waits(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT meta ->> 'waits_for' FROM oban_jobs")) == "approval"
