"""A database whose encoding can't hold a text of an outcome takes the outcome without it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Record, Snooze, enqueue, job
from oban_sa.migrations import migrate
from oban_sa.workers import Registry
from tests.databases import Databases
from tests.runner.conftest import Harness
from tests.support import eventually, plain_url

ENCODINGS = ["LATIN1", "SQL_ASCII"]


@asynccontextmanager
async def encoded(databases: Databases, encoding: str, registry: Registry) -> AsyncIterator[Harness]:
    """A house on a fresh database with this encoding."""
    name = f"oban_test_encoded_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(plain_url(databases.server.url))
    try:
        # The template's own locale may come from a provider that has one encoding only.
        provider = "LOCALE_PROVIDER libc" if admin.get_server_version().major >= 15 else ""
        await admin.execute(
            f"CREATE DATABASE {name} {provider} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
    finally:
        await admin.close()
    url = databases.server.url_of(name)
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate, "public")
            await connection.execute(text("CREATE TABLE notes (job_id bigint)"))
        yield Harness(engine, async_sessionmaker(engine, expire_on_commit=False), registry)
    finally:
        await engine.dispose()
        databases.server.drop_database(name)


def shown(encoding: str, written: str) -> str:
    """How the text of an outcome is kept in such a database."""
    return written if encoding == "SQL_ASCII" else written.encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_attempts_that_are_left_stay_left_when_an_error_can_not_be_written(
    databases: Databases, registry: Registry, encoding: str
) -> None:
    @job(registry=registry)
    async def fails() -> None:
        raise ValueError("costs 5 € too much")

    @job(registry=registry)
    async def cancels() -> Cancel:
        return Cancel("costs 7 €")

    @job(registry=registry)
    async def snoozes() -> Snooze:
        return Snooze(600, meta={"price": "9 €", "list": [{"€": "é"}]})

    @job(registry=registry)
    async def records() -> Record:
        return Record({"price": "11 €"})

    @job(registry=registry, max_attempts=1)
    async def last() -> None:
        raise ValueError("€")

    async with encoded(databases, encoding, registry) as harness:
        ids = await harness.enqueue(*(each.new() for each in (fails, cancels, snoozes, records, last)))

        async def all_ended() -> bool:
            return await harness.sql("SELECT 1 FROM oban_jobs WHERE state IN ('available', 'executing')") == []

        async with harness.runner():
            await eventually(all_ended)
        failed, cancelled, snoozed, recorded, discarded = [await harness.job(job_id) for job_id in ids]
        assert (failed.state, failed.attempt, failed.max_attempts) == ("retryable", 1, 20)
        assert shown(encoding, "ValueError: costs 5 € too much\n") in failed.errors[0]["error"]
        [[delay]] = await harness.sql(
            "SELECT extract(epoch FROM scheduled_at - attempted_at)::float FROM oban_jobs WHERE id = :id", id=ids[0]
        )
        assert 14 < delay < 25
        assert (cancelled.state, cancelled.errors[0]["error"]) == (
            "cancelled",
            shown(encoding, "AttemptCancelled: costs 7 €"),
        )
        assert (snoozed.state, snoozed.attempt, snoozed.errors) == ("scheduled", 0, [])
        price, key, value = (shown(encoding, each) for each in ("9 €", "€", "é"))
        assert snoozed.meta == {"snoozed": 1, "price": price, "list": [{key: value}]}
        assert (recorded.state, recorded.recorded(), recorded.errors) == ("completed", {"price": "11 €"}, [])
        assert (discarded.state, shown(encoding, "ValueError: €") in discarded.errors[0]["error"]) == (
            "discarded",
            True,
        )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_what_a_session_worker_wrote_is_kept_when_its_outcome_is_spelled_otherwise(
    databases: Databases, registry: Registry, encoding: str, kind: str
) -> None:
    note = text("INSERT INTO notes VALUES (:id)")
    answers: dict[str, Any] = {
        "cancel": Cancel("costs 7 €"),
        "snooze": Snooze(600, meta={"price": "9 €"}),
        "plain": Cancel("no coin"),
    }

    if kind == "async":

        @job(name="writes", registry=registry)
        async def writes(job: Job, session: AsyncSession, answer: str) -> Any:
            await session.execute(note, {"id": job.id})
            if answer == "fail":
                raise ValueError("5 €")
            return answers[answer]
    else:

        @job(name="writes", registry=registry)
        def writes_sync(job: Job, session: Session, answer: str) -> Any:
            session.execute(note, {"id": job.id})
            if answer == "fail":
                raise ValueError("5 €")
            return answers[answer]

    async with encoded(databases, encoding, registry) as harness:
        ids = await harness.enqueue(
            *(Job("writes", args={"answer": answer}) for answer in ("cancel", "snooze", "plain", "fail"))
        )

        async def all_ended() -> bool:
            return await harness.sql("SELECT 1 FROM oban_jobs WHERE state IN ('available', 'executing')") == []

        async with harness.runner():
            await eventually(all_ended)
        cancelled, snoozed, plain, failed = [await harness.job(job_id) for job_id in ids]
        assert (cancelled.state, cancelled.errors[0]["error"]) == (
            "cancelled",
            shown(encoding, "AttemptCancelled: costs 7 €"),
        )
        assert (snoozed.state, snoozed.meta) == ("scheduled", {"snoozed": 1, "price": shown(encoding, "9 €")})
        assert (plain.state, plain.errors[0]["error"]) == ("cancelled", "AttemptCancelled: no coin")
        assert (failed.state, failed.attempt) == ("retryable", 1)
        assert shown(encoding, "ValueError: 5 €\n") in failed.errors[0]["error"]
        assert await harness.sql("SELECT job_id FROM notes ORDER BY 1") == [(job_id,) for job_id in ids[:3]]


async def test_args_that_the_encoding_can_not_hold_are_refused_where_they_are_written(
    databases: Databases, registry: Registry
) -> None:
    async with encoded(databases, "LATIN1", registry) as harness:
        with pytest.raises(DBAPIError, match='has no equivalent in encoding "LATIN1"'):
            async with harness.sessions.begin() as session:
                enqueue(session, Job("worker", args={"price": "5 €"}))
        assert await harness.states() == {}
        [job_id] = await harness.enqueue(Job("worker", args={"name": "José"}))
        assert (await harness.job(job_id)).args == {"name": "José"}
