"""One tenant has almost all of a million jobs that wait, and may run no more: what a fetch reads, and whom it serves.

Counts, never times. A plain fetch, on the same table, is what it is compared with.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.full.explain import buffers
from oban_sa.jobs.limits import Queue, Rate
from oban_sa.runner.database.prepared import prepared
from oban_sa.sql.lacking_keys import give
from oban_sa.sql.plan import Plan
from oban_sa.sql.sequences import release
from tests.performance.conftest import BATCH
from tests.performance.skew import LATER, LEDGER, PLAIN, QUEUE
from tests.performance.test_million import Plan as Ran
from tests.performance.test_million import walk
from tests.runner.queue.rings import Fetcher, key_of
from tests.support import plain_url

EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
OF_KEY = "SELECT id FROM oban_jobs WHERE queue = $1 AND meta->>'sequence' = $2 AND state <> 'discarded' LIMIT $3"

LIMITS = {
    "each": Queue(50, by="partition", each=5),
    "in order": Queue(50, by="partition", each=5, fair=False),
    "weights": Queue(50, by="partition", each=5, fair={"tenant7": 3}),
    "a rate of each": Queue(50, by="partition", each=5, rate="60/minute"),
    "all together": Queue(50, global_limit=1000, by="partition", each=5, rate=Rate(1000, per=60, shared=True)),
}
CURSORS = [None, "acme", "tenant1", "tenant5", "zzz"]
"""At the beginning, at the large tenant, in between, and behind the last key."""


@pytest.fixture(params=["never analyzed", "analyzed"])
async def engine(request: pytest.FixtureRequest, skewed: str) -> AsyncIterator[AsyncEngine]:
    if request.param == "analyzed":
        with psycopg.connect(plain_url(skewed), autocommit=True) as connection:
            connection.execute("ANALYZE oban_jobs")
    made = create_async_engine(skewed)
    yield made
    await made.dispose()


@pytest.mark.parametrize("name", LIMITS)
async def test_a_fetch_reads_no_more_than_twice_what_a_plain_one_does(engine: AsyncEngine, name: str) -> None:
    async with Fetcher.on(engine, LIMITS[name]) as limited:
        plain = await plain_fetch(limited)
        # Of each key the row of its rate is looked up, locked and written.
        most = 2 * plain + 1_000 + (20 * BATCH if name == "a rate of each" else 0)
        for queue in (QUEUE, LATER):
            numbers: list[int] = []
            for cursor in CURSORS:
                ring = None if cursor is None else json.dumps({"key": cursor, "used": 0})
                number = await limited.buffers(BATCH, queue=queue, ring=ring)
                assert number <= most, (queue, cursor, plain)
                # The less of two: the server may clean pages just then.
                numbers.append(min(number, await limited.buffers(BATCH, queue=queue, ring=ring)))
                plan = await ran(limited, queue=queue, ring=ring)
                assert plan.scanned == []
                # What a condition drops after it was read: nothing may grow with what waits.
                assert dropped(plan) <= 2 * BATCH, plan.nodes
            # Wherever a walk begins: one key that is full costs a probe.
            assert max(numbers) - min(numbers) < 500, numbers


@pytest.mark.parametrize(("queue", "priority"), [(QUEUE, 0), (LATER, 5)])
async def test_a_first_fetch_takes_jobs_of_other_tenants(engine: AsyncEngine, queue: str, priority: int) -> None:
    async with Fetcher.on(engine, LIMITS["each"]) as one:
        transaction = one.connection.transaction()
        await transaction.start()
        rows = await one.fetch(BATCH, queue=queue)
        await transaction.rollback()
    keys = {key_of(row) for row in rows}
    assert len(rows) == len(keys) == BATCH
    assert "acme" not in keys
    # In LATER the large tenant alone has jobs that go before all of these, and it is full.
    assert {row["priority"] for row in rows} == {priority}


async def test_what_finds_jobs_by_their_ids_walks_along_no_index_of_their_state(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, LIMITS["each"]) as one:
        plan = await explained(one, prepared("public", release), of_queue=LEDGER, keys=["18"])
        assert plan.written == 1
        assert plan.buffers <= 100, plan.nodes
        ids = [row["id"] for row in await one.connection.fetch(OF_KEY, LEDGER, "17", 50)]
        plan = await explained(one, prepared("public", give), ids=ids, metas=['{"partition": ""}'] * 50)
        assert plan.written == 50
        assert plan.buffers <= 40 * BATCH, plan.nodes


async def test_plans_that_were_made_on_an_empty_table_are_good_on_a_full_one(
    engine_of_own: AsyncEngine, own: asyncpg.Connection
) -> None:
    async with Fetcher.on(engine_of_own, LIMITS["all together"]) as one:
        for _ in range(8):  # from the sixth time on the server has a plan that it keeps
            assert await one.fetch(BATCH) == []
        await own.execute(
            "INSERT INTO oban_jobs (worker, priority, meta) SELECT 'app.Call', n % 3, jsonb_build_object("
            "'partition', CASE WHEN n % 100 = 0 THEN 'tenant' || n ELSE 'acme' END) FROM generate_series(1, 50000) n"
        )
        await own.execute(
            "UPDATE oban_jobs SET state = 'executing', attempt = 1 WHERE id IN "
            "(SELECT id FROM oban_jobs WHERE meta->>'partition' = 'acme' ORDER BY id LIMIT 5)"
        )
        # A plan that reads all of the large tenant's jobs reads fifty thousand.
        assert await one.buffers(BATCH) <= 3_000


@pytest.fixture
async def engine_of_own(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(database_url)
    yield made
    await made.dispose()


@pytest.fixture
async def own(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(plain_url(database_url))
    yield made
    await made.close()


async def plain_fetch(one: Fetcher) -> int:
    """What a plain fetch of as many jobs reads, of a queue without limits."""
    limited, plan = one.limited, one.plan
    one.plan = Plan()
    try:
        return await one.buffers(BATCH, queue=PLAIN)
    finally:
        one.limited, one.plan = limited, plan


async def ran(one: Fetcher, **given: Any) -> Ran:
    transaction = one.connection.transaction()
    await transaction.start()
    [(answer,)] = await one.fetch(BATCH, before=EXPLAIN, **given)
    await transaction.rollback()
    return read(answer)


async def explained(one: Fetcher, statement: Any, **given: Any) -> Ran:
    transaction = one.connection.transaction()
    await transaction.start()
    [(answer,)] = await one.run(statement, EXPLAIN, **given)
    await transaction.rollback()
    return read(answer)


def read(answer: Any) -> Ran:
    plan = Ran(buffers(answer[0]["Plan"]), None)
    walk(answer[0]["Plan"], plan)
    return plan


def dropped(plan: Ran) -> int:
    """Rows that were read of the table of jobs, and that a condition which no index serves then dropped."""
    return sum(
        node.get("Rows Removed by Filter", 0) * node["Actual Loops"]
        for node in plan.nodes
        if "oban_jobs" in node.get("Relation Name", "")
    )
