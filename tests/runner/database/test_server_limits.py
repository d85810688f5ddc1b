"""A connection that the server ended by a limit of its own is not just closed: the error says which limit it was."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import job
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.mark.parametrize("limit", [None, "idle_in_transaction_session_timeout"])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_attempt_whose_idle_transaction_the_server_ended_says_what_to_set(
    harness: Harness, limit: str | None, kind: str
) -> None:
    async def closed(session: AsyncSession) -> None:
        connection = await session.connection()
        driver = (await connection.get_raw_connection()).driver_connection
        if limit is None:
            driver.terminate()
        await eventually(driver.is_closed)

    @job(name="async", registry=harness.registry)
    async def waits(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))
        await closed(session)
        await session.execute(text("SELECT 2"))

    @job(name="sync", registry=harness.registry)
    def waits_in_thread(session: Session) -> None:
        session.execute(text("SELECT 1"))
        driver = session.connection().connection.driver_connection
        if limit is None:
            session.connection().exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        while not driver.is_closed():
            time.sleep(0.02)
        session.execute(text("SELECT 2"))

    if limit is not None:
        [[role, name]] = await harness.sql("SELECT current_user, current_database()")
        await harness.sql(f'ALTER ROLE {role} IN DATABASE "{name}" SET {limit} = 300')
        await harness.engine.dispose()
    definition = waits if kind == "async" else waits_in_thread
    [job_id] = await harness.enqueue(definition.new())
    async with harness.runner():
        failed = await harness.becomes(job_id, "retryable")
    [error] = failed.errors
    advice = "idle_in_transaction_session_timeout is 300 ms, and this attempt held its connection for"
    assert (advice in error["error"]) == (limit is not None), error["error"]
