"""While there is more than can be taken, a fetch begins where the last one ended; nothing is passed over for long."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from oban_sa import Job, enqueue, job
from oban_sa.runner.queue import cursor
from oban_sa.runner.queue.cursor import Cursor
from oban_sa.runner.queue.exchange import Tables
from oban_sa.schedule import clock
from oban_sa.sql.fetch import BEGINNING, Position
from oban_sa.workers import Registry
from tests.runner.conftest import Harness
from tests.support import plain_url

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def rows(*ids: int) -> list[Any]:
    return [{"priority": 3, "scheduled_at": NOON, "id": job_id} for job_id in ids]


def test_only_a_second_full_fetch_in_a_row_moves_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "REWIND_EVERY", 3600.0)
    one, now = Cursor(), clock.monotonic()
    one.advance(BEGINNING, rows(1, 2), 2, duration=0.001)
    assert one.position(now) is BEGINNING
    one.advance(BEGINNING, rows(3, 4), 2, duration=0.001)
    assert one.position(now) == Position(3, NOON.replace(tzinfo=None), 4)
    one.advance(one.position(now), rows(5), 2, duration=0.001)
    assert one.position(now) is BEGINNING


def test_a_fetch_begins_at_the_beginning_after_a_while_and_not_most_of_the_time() -> None:
    one = Cursor()
    for _ in range(2):
        one.advance(BEGINNING, rows(1), 1, duration=1.0)
    now = clock.monotonic()
    assert one.position(now) is not BEGINNING
    assert one.position(now + cursor.SHARE - 0.1) is not BEGINNING
    assert one.position(now + cursor.SHARE) is BEGINNING


ran: list[str] = []


@pytest.fixture
def urgent_amid(registry: Registry, harness: Harness) -> Any:
    """A job that, when its number comes up, enqueues one that goes before all that wait, and tells nobody."""
    ran.clear()

    @job(registry=registry, priority=0)
    async def urgent() -> None:
        ran.append("urgent")

    @job(registry=registry, priority=5)
    async def amid(number: int) -> None:
        ran.append("amid")
        if number == 50:
            async with harness.sessions() as session, session.begin():
                session.info["oban_announce"] = False
                enqueue(session, urgent.new())

    return amid


async def test_what_comes_to_stand_before_the_cursor_is_found_amid_a_burst(
    harness: Harness, urgent_amid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursor, "REWIND_EVERY", 0.0)
    monkeypatch.setattr(cursor, "SHARE", 0)
    await harness.enqueue(*(urgent_amid.new(number) for number in range(400)))
    await harness.drain(queues={"default": 20}, poll_every=3600)
    assert ran.count("amid") == 400
    assert ran.index("urgent") < 200


@pytest.mark.parametrize("limit", [1, 20])
async def test_nothing_that_came_to_stand_before_the_cursor_is_left_when_the_queue_rests(
    harness: Harness, urgent_amid: Any, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(cursor, "REWIND_EVERY", 3600.0)
    await harness.enqueue(*(urgent_amid.new(number) for number in range(100)))
    await harness.drain(queues={"default": limit}, poll_every=3600)
    assert ran.count("amid") == 100
    assert ran.index("urgent") >= 100 - limit


@pytest.mark.parametrize("lost", [1, 4])
async def test_jobs_of_a_fetch_whose_answer_was_lost_are_found_behind_the_cursor(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """They are given back by the next cycle, and stand where they stood; no fetch from the beginning is due by time."""
    monkeypatch.setattr(cursor, "REWIND_EVERY", 3600.0)
    exchange, begun = Tables.exchange, []

    async def cut(self: Tables, outcomes: Any, demand: int, position: Position = BEGINNING, *more: Any) -> Any:
        answer = await exchange(self, outcomes, demand, position, *more)
        if demand:
            begun.append(position)
            if len(begun) == lost:
                raise ConnectionResetError("the answer was lost")
        return answer

    @job(registry=registry)
    async def nothing(job: Job) -> None:
        ran.append(str(job.attempt))

    ran.clear()
    monkeypatch.setattr(Tables, "exchange", cut)
    await harness.enqueue(*(nothing.new() for _ in range(100)))
    await harness.drain(queues={"default": 10}, poll_every=3600)
    assert await harness.states() == {"completed": 100}
    assert ran == ["1"] * 100
    assert (begun[lost - 1] is BEGINNING) is (lost == 1)


async def test_a_fetch_does_not_pass_what_was_fetched_before(
    harness: Harness, registry: Registry, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursor, "REWIND_EVERY", 3600.0)

    @job(registry=registry)
    async def nothing(job: Job) -> None: ...

    holding = await asyncpg.connect(plain_url(database_url))
    writing = await asyncpg.connect(plain_url(database_url))
    async with holding.transaction(isolation="repeatable_read"):
        # As long as this looks at the table as it was, no entry that a job leaves in an index can be cleaned away.
        await holding.fetchval("SELECT count(*) FROM oban_jobs")
        await writing.execute("INSERT INTO oban_jobs (worker) SELECT 'done' FROM generate_series(1, 30000)")
        await writing.execute("UPDATE oban_jobs SET state = 'completed', completed_at = now()")
        await harness.enqueue(*(nothing.new() for _ in range(1_000)))
        before = await touched(database_url)
        await harness.drain(queues={"default": 10}, poll_every=3600)
        after = await touched(database_url)
    await holding.close()
    await writing.close()
    assert await harness.states() == {"completed": 31_000}
    assert (after - before) / 1_000 < 50


async def touched(database_url: str) -> int:
    """Pages of the table and of its indexes that were looked at so far."""
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    found: int = await connection.fetchval(
        "SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read FROM pg_statio_user_tables "
        "WHERE relname = 'oban_jobs'"
    )
    await connection.close()
    return found
