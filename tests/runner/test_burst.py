"""While there is more than can be taken, a fetch begins where the last one ended; nothing is passed over for long."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from oban_sa import Job, clock, enqueue, job
from oban_sa.runner import burst
from oban_sa.runner.burst import Burst
from oban_sa.sql.fetching import BEGINNING, Place
from oban_sa.workers import Registry
from tests.runner.conftest import House
from tests.support import plain_url

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def rows(*ids: int) -> list[Any]:
    return [{"priority": 3, "scheduled_at": NOON, "id": job_id} for job_id in ids]


def test_only_a_second_full_fetch_in_a_row_is_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "LOOKS_BACK_EVERY", 3600.0)
    one, now = Burst(), clock.monotonic()
    one.looked(BEGINNING, rows(1, 2), 2, duration=0.001)
    assert one.place(now) is BEGINNING
    one.looked(BEGINNING, rows(3, 4), 2, duration=0.001)
    assert one.place(now) == Place(3, NOON.replace(tzinfo=None), 4)
    one.looked(one.place(now), rows(5), 2, duration=0.001)
    assert one.place(now) is BEGINNING


def test_a_burst_is_looked_at_from_its_beginning_after_a_while_and_not_for_most_of_the_time() -> None:
    one = Burst()
    for _ in range(2):
        one.looked(BEGINNING, rows(1), 1, duration=1.0)
    now = clock.monotonic()
    assert one.place(now) is not BEGINNING
    assert one.place(now + burst.SHARE - 0.1) is not BEGINNING
    assert one.place(now + burst.SHARE) is BEGINNING


ran: list[str] = []


@pytest.fixture
def urgent_amid(registry: Registry, house: House) -> Any:
    """A job that, when its number comes up, enqueues one that goes before all that wait, and tells nobody."""
    ran.clear()

    @job(registry=registry, priority=0)
    async def urgent() -> None:
        ran.append("urgent")

    @job(registry=registry, priority=5)
    async def amid(number: int) -> None:
        ran.append("amid")
        if number == 50:
            async with house.sessions() as session, session.begin():
                session.info["oban_announce"] = False
                enqueue(session, urgent.new())

    return amid


async def test_what_comes_to_stand_before_a_burst_is_found_amid_it(
    house: House, urgent_amid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burst, "LOOKS_BACK_EVERY", 0.0)
    monkeypatch.setattr(burst, "SHARE", 0)
    await house.enqueue(*(urgent_amid.new(number) for number in range(400)))
    await house.drain(queues={"default": 20}, poll_every=3600)
    assert ran.count("amid") == 400
    assert ran.index("urgent") < 200


@pytest.mark.parametrize("limit", [1, 20])
async def test_nothing_that_came_to_stand_before_a_burst_is_left_when_the_queue_rests(
    house: House, urgent_amid: Any, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(burst, "LOOKS_BACK_EVERY", 3600.0)
    await house.enqueue(*(urgent_amid.new(number) for number in range(100)))
    await house.drain(queues={"default": limit}, poll_every=3600)
    assert ran.count("amid") == 100
    assert ran.index("urgent") >= 100 - limit


async def test_a_fetch_does_not_pass_what_was_fetched_before(
    house: House, registry: Registry, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burst, "LOOKS_BACK_EVERY", 3600.0)

    @job(registry=registry)
    async def nothing(job: Job) -> None: ...

    holding = await asyncpg.connect(plain_url(database_url))
    writing = await asyncpg.connect(plain_url(database_url))
    async with holding.transaction(isolation="repeatable_read"):
        # As long as this looks at the table as it was, no entry that a job leaves in an index can be cleaned away.
        await holding.fetchval("SELECT count(*) FROM oban_jobs")
        await writing.execute("INSERT INTO oban_jobs (worker) SELECT 'done' FROM generate_series(1, 30000)")
        await writing.execute("UPDATE oban_jobs SET state = 'completed', completed_at = now()")
        await house.enqueue(*(nothing.new() for _ in range(1_000)))
        before = await touched(database_url)
        await house.drain(queues={"default": 10}, poll_every=3600)
        after = await touched(database_url)
    await holding.close()
    await writing.close()
    assert await house.states() == {"completed": 31_000}
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
