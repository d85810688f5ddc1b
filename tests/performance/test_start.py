"""What a start says to the database until its first fetch: counted, so that it does not grow unnoticed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Runner
from oban_sa.errors import SchemaMissing
from oban_sa.runner.database import prepared
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.engine import create_engine, dispose
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.queues import CONNECT_AT_ONCE
from tests.performance.test_counts import Sent
from tests.support import eventually, plain_url

FETCH = "FOR UPDATE SKIP LOCKED"


async def started(engine: AsyncEngine, queues: dict[str, int]) -> list[str]:
    """What a runner has sent by the time that it has sent its first fetch, the fetch included."""
    sent = Sent()
    with sent.watching(engine):
        async with Runner(engine, queues=queues):

            def fetched() -> list[str]:
                number = next(number for number, each in enumerate(sent.statements) if FETCH in each)
                return sent.statements[: number + 1]

            return await eventually(fetched)


async def test_a_start_sends_few_statements_before_its_first_fetch(database_url: str) -> None:
    engine = create_engine(plain_url(database_url))
    statements = await started(engine, {"default": 10})
    await dispose(engine)
    # Settings of three connections, the check of the tables, LISTEN, a probe of two; what was decided; then the row of
    # the producer, how it plans, and the fetch.
    assert len(statements) <= 15, "\n---\n".join(statements)
    first = {word: number for number, each in reversed([*enumerate(statements)]) for word in each.split()[:2]}
    asked = next(number for number, each in enumerate(statements) if "FROM public.oban_sa_queues" in each)
    # A decision that is made in between is either read or heard.
    assert first["LISTEN"] < asked


async def test_what_a_first_fetch_says_is_compiled_before(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared._compiled.cache_clear()
    compiled: list[int] = []
    exchange = Tables.exchange

    async def watched(self: Tables, *given: Any, **more: Any) -> Any:
        before = prepared._compiled.cache_info().misses
        answer = exchange(self, *given, **more)
        asking = asyncio.ensure_future(answer)
        await asyncio.sleep(0)
        compiled.append(prepared._compiled.cache_info().misses - before)
        return await asking

    monkeypatch.setattr(Tables, "exchange", watched)
    engine = create_engine(plain_url(database_url))
    async with Runner(engine, queues={"default": 10}):
        pass
    await dispose(engine)
    assert compiled[0] == 0


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many connections were being made, each time that one more was asked for."""
    counts: list[int] = []
    under_way = 0
    connect = Database.connect

    async def watched(self: Database, **given: Any) -> Any:
        nonlocal under_way
        under_way += 1
        counts.append(under_way)
        try:
            return await connect(self, **given)
        finally:
            under_way -= 1

    monkeypatch.setattr(Database, "connect", watched)
    return counts


async def test_queues_connect_side_by_side_and_a_few_at_a_time(database_url: str, connecting: list[int]) -> None:
    engine = create_engine(plain_url(database_url))
    async with Runner(engine, queues={f"queue {number}": 1 for number in range(12)}):
        pass
    await dispose(engine)
    assert connecting[0] == 1
    # The one that listens is made beside those of the queues, and so may be the one of the heartbeat.
    assert CONNECT_AT_ONCE <= max(connecting) <= CONNECT_AT_ONCE + 2


async def test_a_start_that_finds_no_tables_makes_no_more_connections_than_any_other(
    empty_database_url: str, connecting: list[int]
) -> None:
    engine = create_engine(plain_url(empty_database_url))
    with pytest.raises(SchemaMissing):
        await Runner(engine, queues={"one": 1, "two": 1}).run()
    await dispose(engine)
    # They are made while the tables are looked for, and given up.
    assert connecting[0] == 1
    assert len(connecting) <= 4
