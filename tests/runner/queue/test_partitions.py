"""Jobs are taken key by key: never more of one than it may have, and none hides the others."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, select
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.catalog.functions.partitions import KEYS
from oban_sa.jobs.limits import Queue, Rate
from oban_sa.runner.queue.partitions import LAPS_END, Ring
from oban_sa.sql.expressions import inline
from oban_sa.sql.fetch import Filter
from oban_sa.sql.functions import call
from oban_sa.sql.plan import Plan
from oban_sa.sql.unknown_workers import only_known
from tests.runner.queue.rings import Fetcher, fill, key_of, keys
from tests.support import eventually

BY: Any = {"by": "partition"}
RUNNING = "SELECT count(*) FROM oban_jobs WHERE state = 'executing' AND meta ->> 'partition' = $1"


NO_UNKNOWN: Any = {"unknown": [], "overdue": [], "unknown_after": 3600.0}
"""With which a fetch asks for unknown workers, and walks: there are none."""


# Fairness


async def test_weights_are_exact_whatever_is_asked_for_at_once(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, fair={"a": 3})) as one:
        for key, count in (("a", 700), ("b", 300), ("c", 300)):
            await fill(one.connection, key, count)
            await fill(one.connection, key, count, priority=4)
        found: Counter[str] = Counter()
        for demand in (20, 20, 7, 1, 1, 1, 13, 2, 35, 20, 20, 60):
            rows = await one.fetch(demand)
            assert len(rows) == demand
            found += keys(rows)
        assert found == {"a": 120, "b": 40, "c": 40}


async def test_each_key_has_its_turn_before_one_has_two(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY)) as one:
        await fill(one.connection, "huge", 500)
        await fill(one.connection, "k", 30, numbered=True)
        await fill(one.connection, "k", 30, numbered=True)
        first = keys(await one.fetch(31))
        assert set(first.values()) == {1}
        assert len(first) == 31
        turns = [keys(await one.fetch(demand)) for demand in (5, 5, 5, 5, 5, 6)]
        assert sum(turns, Counter()) == first
        # All others are done: the rest is that of the one.
        assert keys(await one.fetch(50)) == {"huge": 50}


async def test_priorities_go_first_between_keys_and_within_one(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=4)) as one:
        await fill(one.connection, "a", 10, priority=5)
        await fill(one.connection, "b", 10)
        await fill(one.connection, "a", 3)
        await fill(one.connection, "c", 10, priority=9)
        rows = await one.fetch(6)
        assert Counter((row["priority"], key_of(row)) for row in rows) == {(0, "b"): 3, (0, "a"): 3}
        # What a key may have is for the jobs of all priorities together.
        rows = await one.fetch(50)
        assert Counter((row["priority"], key_of(row)) for row in rows) == {(0, "b"): 1, (5, "a"): 1, (9, "c"): 4}
        assert await one.fetch(50) == []


async def test_a_heavy_key_has_its_weight_where_fewer_jobs_are_wanted_than_there_are_keys(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, fair={"c": 3})) as one:
        for key in "abcde":
            await fill(one.connection, key, 5)
        assert keys(await one.fetch(4)) == {"a": 1, "b": 1, "c": 2}
        assert keys(await one.fetch(2)) == {"c": 1, "d": 1}


async def test_all_jobs_of_a_priority_go_before_keys_of_the_next(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY)) as one:
        await fill(one.connection, "a", 2)
        await fill(one.connection, "b", priority=1)
        assert keys(await one.fetch(2)) == {"a": 2}


async def test_without_turns_the_oldest_are_taken(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=3, fair=False)) as one:
        for priority in (1, 0):
            for key in "zabz":
                await fill(one.connection, key, priority=priority)
        rows = sorted(await one.fetch(12), key=lambda row: (row["priority"], row["id"]))
        assert [(row["priority"], key_of(row)) for row in rows] == [
            *((0, key) for key in "zabz"),
            *((1, key) for key in "zab"),
        ]
        assert await one.fetch(5) == []
        assert one.limited.skipped == 0


async def test_without_turns_a_key_has_two_before_others_have_one(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, fair=False)) as one:
        for key in "aabc":
            await fill(one.connection, key)
        assert keys(await one.fetch(2)) == {"a": 2}


async def test_of_many_keys_without_turns_all_are_looked_at_in_time(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, fair=False)) as one:
        await fill(one.connection, "k", 40, numbered=True)
        found = [keys(await one.fetch(7)) for _ in range(8)]
        assert sum(found, Counter()) == {f"k{n}": 1 for n in range(1, 41)}


# Limits


async def test_a_key_has_never_more_than_it_may(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=3)) as one:
        for priority in (9, 0, 1):
            await fill(one.connection, "a", 5, priority=priority)
            await fill(one.connection, "b", 1, priority=priority)
        rows = await one.fetch(50)
        assert keys(rows) == {"a": 3, "b": 3}
        assert Counter(row["priority"] for row in rows) == {0: 4, 1: 1, 9: 1}
        assert await one.fetch(50) == []
        # With the outcomes of the same statement.
        ended = [row for row in rows if key_of(row) == "a"][:2]
        assert keys(await one.fetch(50, ended)) == {"a": 2}


async def test_a_slot_is_an_executing_row(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=2)) as one:
        await fill(one.connection, "a", 9, priority=1)
        rows = await one.fetch(50)
        assert len(rows) == 2
        await one.connection.execute("DELETE FROM oban_jobs WHERE id = $1", rows[0]["id"])
        assert len(await one.fetch(50)) == 1
        await one.connection.execute("UPDATE oban_jobs SET state = 'cancelled' WHERE state = 'executing'")
        assert len(await one.fetch(50)) == 2


async def test_a_key_that_another_fetch_has_locked_is_passed_and_not_waited_for(engine: AsyncEngine) -> None:
    queue = Queue(50, **BY, each=3)
    async with Fetcher.on(engine, queue) as one, Fetcher.on(engine, queue) as other:
        await fill(one.connection, "a", 9, priority=1)
        await fill(one.connection, "b", 1, priority=2)
        async with one.connection.transaction():
            assert keys(await one.fetch(1)) == {"a": 1}
            async with asyncio.timeout(5):
                assert keys(await other.fetch(3)) == {"b": 1}
            assert other.limited.skipped == 1
        assert keys(await other.fetch(3)) == {"a": 2}
        assert other.limited.skipped == 0


async def test_what_was_committed_since_a_statement_began_counts(engine: AsyncEngine) -> None:
    """The count is made with a snapshot of its own, and that of the statement is older than the lock."""

    def waits(before: Any) -> Any:
        lock = call("pause", Integer(), inline("1"))
        return select(lock.label("at_most")).select_from(before).cte("waits")

    queue = Queue(50, **BY, each=3)
    async with Fetcher.on(engine, queue) as one, Fetcher.on(engine, queue, Plan((Filter(looks=(waits,)),))) as other:
        await one.connection.execute(
            "CREATE FUNCTION pause(n integer) RETURNS integer LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_advisory_xact_lock(n); RETURN NULL; END'"
        )
        await fill(one.connection, "a", 4, priority=7)
        await one.connection.execute("SELECT pg_advisory_lock(1)")
        waiting = asyncio.create_task(other.fetch(10))

        async def is_waiting() -> None:
            found = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            assert await one.connection.fetchval(found) == 1

        await eventually(is_waiting)
        # Jobs that the waiting statement can't see: it would find three others of the key that nobody took.
        await fill(one.connection, "a", 2)
        assert len(await one.fetch(2)) == 2
        await one.connection.execute("SELECT pg_advisory_unlock(1)")
        assert len(await waiting) == 1
        assert await one.connection.fetchval(RUNNING, "a") == 3


GATE = """
CREATE FUNCTION pg_try_advisory_xact_lock(key bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(1);
    RETURN pg_catalog.pg_try_advisory_xact_lock(key);
END $$
"""
"""In the place of the function that locks a key, for those who look here first: it waits at a gate before."""


@pytest.mark.parametrize("way", ["usual", "walk"])
async def test_what_was_committed_before_a_key_was_locked_counts(engine: AsyncEngine, way: str) -> None:
    """Whether a key is full is asked before it is locked, and once more after that."""
    queue, more = Queue(50, **BY, each=1), NO_UNKNOWN if way == "walk" else {}
    plan = Plan().with_filter(only_known()) if way == "walk" else None
    async with Fetcher.on(engine, queue) as one, Fetcher.on(engine, queue, plan) as other:
        await one.connection.execute(GATE)
        await fill(one.connection, "a", 4)
        await other.connection.execute("SET search_path = public, pg_catalog")
        await one.connection.execute("SELECT pg_advisory_lock(1)")
        waiting = asyncio.create_task(other.fetch(1, **more))

        async def is_waiting() -> None:
            found = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            assert await one.connection.fetchval(found) == 1

        await eventually(is_waiting)
        # One that goes before those that the waiting statement knows: it would find all of these available.
        await fill(one.connection, "a")
        await one.connection.execute(
            "UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '1 hour' WHERE id = 5"
        )
        assert [row["id"] for row in await one.fetch(1)] == [5]
        await one.connection.execute("SELECT pg_advisory_unlock(1)")
        assert await waiting == []
        assert await one.connection.fetchval(RUNNING, "a") == 1


async def test_a_key_may_burst_while_no_other_one_waits(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=2, burst=True)) as one:
        await fill(one.connection, "a", 20, priority=3)
        await fill(one.connection, "b", 3, priority=8)
        # Those below their share first, whatever their priority.
        assert keys(await one.fetch(4)) == {"a": 2, "b": 2}
        assert keys(await one.fetch(6)) == {"a": 6}
        await fill(one.connection, "c", 2, priority=9)
        assert keys(await one.fetch(2)) == {"c": 2}


async def test_no_key_bursts_while_one_that_is_locked_waits(engine: AsyncEngine) -> None:
    queue = Queue(50, **BY, each=1, burst=True)
    async with Fetcher.on(engine, queue) as one, Fetcher.on(engine, queue) as other:
        for key in "ab":
            await fill(one.connection, key, 5, priority=3)
        assert keys(await one.fetch(1)) == {"a": 1}
        async with one.connection.transaction():
            assert keys(await one.fetch(1)) == {"b": 1}
            assert await other.fetch(3) == []
            assert other.limited.skipped == 1
        assert len(await other.fetch(3)) == 3


async def test_without_burst_a_full_key_gets_nothing(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=2)) as one:
        await fill(one.connection, "a", 20)
        assert len(await one.fetch(10)) == 2
        assert await one.fetch(10) == []
        assert one.limited.skipped == 0


async def test_a_key_starts_no_more_than_its_rate(engine: AsyncEngine) -> None:
    queue = Queue(50, **BY, each=8, rate=Rate(5, per=60))
    async with Fetcher.on(engine, queue) as one, Fetcher.on(engine, queue) as other:
        for priority in (0, 6):
            await fill(one.connection, "a", 4, priority=priority)
            await fill(one.connection, "b", 1, priority=priority)
        found = [*await one.fetch(4), *await other.fetch(50), *await one.fetch(50)]
        assert Counter((row["priority"], key_of(row)) for row in found) == {
            (0, "a"): 4,
            (0, "b"): 1,
            (6, "a"): 1,
            (6, "b"): 1,
        }
        assert await one.fetch(50) == []
        assert one.limited.skipped == 0
        assert one.limited.resume_at < float("inf")


async def test_rates_of_keys_hold_where_fewer_jobs_are_wanted_than_there_are_keys(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, rate=Rate(1, per=60))) as one:
        for _ in range(2):
            await fill(one.connection, "k", 3, numbered=True)
        found = [await one.fetch(1, ring="{}") for _ in range(4)]
        assert [[key_of(row) for row in rows] for rows in found] == [["k1"], ["k2"], ["k3"], []]


@pytest.mark.parametrize("fair", [True, False])
async def test_the_rate_of_a_key_counts_weights(engine: AsyncEngine, fair: bool) -> None:
    queue = Queue(50, **BY, fair=fair, rate=Rate(10, per=60, weight="args.points"))
    async with Fetcher.on(engine, queue) as one, Fetcher.on(engine, queue) as other:
        await weigh(one.connection, "a", 4, 1, "5", 9, 1, 2.5)
        await weigh(one.connection, "b", 50, 1)
        await weigh(one.connection, "c", *[1] * 12)
        rows = [*await one.fetch(30), *await other.fetch(30)]
        # Of a 4, 1, and one that says no number: the one of 9 waits, and those behind it. The one of 50 takes all.
        assert keys(rows) == {"a": 3, "b": 1, "c": 10}
        assert [points(row) for row in rows if key_of(row) == "a"] == [4, 1, "5"]
        assert [points(row) for row in rows if key_of(row) == "b"] == [50]
        assert 0 < one.limited.resume_at - time.monotonic() < 62
        assert await one.fetch(30) == []
        await one.connection.execute("DELETE FROM oban_sa_rates WHERE key = 'a'")
        rows = await one.fetch(30)
        assert [(key_of(row), points(row)) for row in rows] == [("a", 9), ("a", 1)]


async def test_a_key_whose_next_job_is_too_heavy_is_asked_when_it_is_not(engine: AsyncEngine) -> None:
    queue = Queue(50, **BY, rate=Rate(10, per=3600, algorithm="bucket", weight="args.points"))
    async with Fetcher.on(engine, queue) as one:
        await weigh(one.connection, "a", 8, 8)
        assert [points(row) for row in await one.fetch(5)] == [8]
        # 2 are left, and 6 more come at one each 360 seconds.
        for _ in range(2):
            resume_in = one.limited.resume_at - time.monotonic()
            assert 2100 < resume_in <= 2160
            assert await one.fetch(5) == []


async def test_a_key_whose_next_job_is_too_heavy_holds_up_no_other(engine: AsyncEngine) -> None:
    queue = Queue(50, **BY, rate=Rate(10, per=3600, weight="args.points"))
    async with Fetcher.on(engine, queue) as one:
        for key in "abc":
            await weigh(one.connection, key, 8, 8)
        await weigh(one.connection, "d", 1, 1)
        found: list[Any] = []
        while (rows := await one.fetch(1)) or one.limited.skipped:
            found += rows
        assert keys(found) == {"a": 1, "b": 1, "c": 1, "d": 2}


async def weigh(connection: asyncpg.Connection, key: str, *weights: object) -> None:
    """Write available jobs of a key that say how much they count."""
    for number, each in enumerate(weights):
        await connection.execute(
            "INSERT INTO oban_jobs (worker, args, meta, scheduled_at) VALUES ('worker', $1, "
            "jsonb_build_object('partition', $2::text), timezone('UTC', now()) - interval '1 minute' "
            "+ $3 * interval '1 ms')",
            json.dumps({"points": each}),
            key,
            float(number),
        )


def points(row: Any) -> object:
    return json.loads(row["args"])["points"]


async def test_no_job_of_another_priority_is_taken_while_more_may_wait_before_it(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY)) as one:
        await fill(one.connection, "a", 9)
        await fill(one.connection, "b", 1)
        await fill(one.connection, "c", 9, priority=1)
        found: list[int] = []
        while rows := await one.fetch(4):
            # A share of two for each of two keys, of which one has no second job.
            assert len(rows) == 4 or one.limited.skipped or len(found) > 10
            found += sorted(row["priority"] for row in rows)
        assert found == [0] * 10 + [1] * 9


async def test_partitions_stand_within_the_limit_of_the_queue(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=3, global_limit=4, rate=Rate(50, per=60, shared=True))) as one:
        await fill(one.connection, "k", 9, priority=2, numbered=True)
        rows = await one.fetch(50)
        assert len(rows) == 4
        assert len(await one.fetch(50, rows[:3])) == 3


# The usual case, which has statements of its own


LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"


@pytest.mark.parametrize("way", ["usual", "walk"])
async def test_a_fetch_locks_no_more_keys_than_jobs_are_wanted(engine: AsyncEngine, way: str) -> None:
    plan, more = (Plan().with_filter(only_known()), NO_UNKNOWN) if way == "walk" else (None, {})
    async with Fetcher.on(engine, Queue(50, **BY, each=1), plan) as one:
        for _ in range(2):
            await one.connection.execute("UPDATE oban_jobs SET state = 'executing'")
            await fill(one.connection, "full", 20, numbered=True)
        await fill(one.connection, "k", 40, numbered=True)
        async with one.connection.transaction():
            assert len(await one.fetch(5, **more)) == 5
            assert await one.connection.fetchval(LOCKED) == 5


@pytest.mark.parametrize(("spent", "others"), [(10, 5), (8, 4)])
async def test_a_walk_passes_no_key_that_it_had_no_room_to_ask(engine: AsyncEngine, spent: int, others: int) -> None:
    """Where keys were in vain it looks at more of them at once than it asks, and at fewer near the last key."""
    async with Fetcher.on(engine, Queue(50, **BY, rate=Rate(1, per=3600))) as one:
        for key in range(spent):
            await fill(one.connection, f"a{key}", 2)
        assert len(await one.fetch(spent)) == spent
        for key in range(others):
            await fill(one.connection, f"b{key}")
        assert keys(await one.fetch(5, ring="{}")) == {f"b{key}": 1 for key in range(others)}


@pytest.mark.parametrize("key", ["", "a", "b", "c"])
async def test_no_key_is_met_twice_where_there_are_fewer_than_jobs_are_wanted(engine: AsyncEngine, key: str) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=5)) as one:
        await fill(one.connection, "a", 2)
        await fill(one.connection, "b", 2)
        assert len(await one.fetch(3, ring=json.dumps({"key": key, "used": 0}))) == 3


async def test_the_usual_case_passes_full_and_locked_keys_and_comes_round(engine: AsyncEngine) -> None:
    async with AsyncExitStack() as stack:
        one, other, walk = [
            await stack.enter_async_context(Fetcher.on(engine, Queue(50, **BY, each=1), plan))
            for plan in (None, None, Plan().with_filter(only_known()))
        ]
        for key in "abcdefgh":
            await fill(one.connection, key)
        await one.connection.execute("UPDATE oban_jobs SET state = 'executing' WHERE id IN (6, 7)")
        await fill(one.connection, "f", 2)
        async with other.connection.transaction():
            assert keys(await other.fetch(1, ring=json.dumps({"key": "g", "used": 0}))) == {"h": 1}
            for fetcher, more in ((walk, NO_UNKNOWN), (one, {})):
                async with asyncio.timeout(5):
                    transaction = fetcher.connection.transaction()
                    await transaction.start()
                    assert keys(await fetcher.fetch(3, ring=json.dumps({"key": "d", "used": 0}), **more)) == {
                        "a": 1,
                        "b": 1,
                        "e": 1,
                    }
                    assert json.loads(fetcher.limited.given()["ring"])["key"] == "b"
                    await transaction.rollback()


@pytest.mark.parametrize(("each", "fair"), [(None, True), (1, True), (3, True), (None, {"c": 3}), (3, {"c": 3})])
async def test_the_usual_case_takes_what_a_walk_would(engine: AsyncEngine, each: int | None, fair: Any) -> None:
    queue, chance = Queue(50, **BY, each=each, fair=fair), random.Random(each or 0)
    async with Fetcher.on(engine, queue) as usual, Fetcher.on(engine, queue, Plan().with_filter(only_known())) as walk:
        for key in "abcdefghij":
            for priority in (0, 0, 0, 1):
                await fill(usual.connection, key, chance.randrange(6), priority=priority)
        await usual.connection.execute("UPDATE oban_jobs SET attempt = max_attempts WHERE id % 9 = 0")
        await usual.connection.execute("UPDATE oban_jobs SET state = 'executing' WHERE id % 7 = 0")
        cursor, taken = "{}", -1
        while taken:
            demand = chance.randrange(1, 8)
            found: list[tuple[list[int], str | None, bool]] = []
            for one, more in ((usual, {}), (walk, NO_UNKNOWN)):
                transaction = one.connection.transaction()
                await transaction.start()
                rows = await one.fetch(demand, ring=cursor, **more)
                found.append(
                    (sorted(row["id"] for row in rows), one.limited.given()["ring"], bool(one.limited.skipped))
                )
                await transaction.rollback()
            assert found[0] == found[1], (cursor, demand)
            rows = await usual.fetch(demand, ring=cursor)
            cursor, taken = usual.limited.given()["ring"], len(rows) + usual.limited.skipped


async def test_a_fetch_locks_no_more_keys_than_the_server_has_room_for(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(500, **BY, each=5)) as one:
        await fill(one.connection, "k", 300, numbered=True)
        async with one.connection.transaction():
            assert len(await one.fetch(260)) == KEYS
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert await one.connection.fetchval(held) == KEYS


async def test_a_job_is_left_to_others_or_given_up_in_each_key(engine: AsyncEngine) -> None:
    """The function and the statement around it both ask; what one of them refuses is not taken."""
    known: Any = {"unknown": ["odd\n2", "stranger"], "overdue": ["stranger"], "unknown_after": 3600.0}
    async with Fetcher.on(engine, Queue(50, **BY, each=9), Plan().with_filter(only_known())) as one:
        await fill(one.connection, "a", 6)
        await one.connection.execute(
            "UPDATE oban_jobs SET worker = CASE id % 3 WHEN 0 THEN 'odd' WHEN 1 THEN 'stranger' ELSE worker END, "
            "meta = meta || CASE WHEN id = 3 THEN '{\"args_version\": 2}' ELSE '{}' END::jsonb, "
            "scheduled_at = scheduled_at - CASE WHEN id = 1 THEN interval '2 hours' ELSE interval '0' END"
        )
        # 3 has args of another version, and 4 is not due for long enough.
        found = [await one.fetch(1, ring="{}", **known) for _ in range(4)]
        assert [[row["id"] for row in rows] for rows in found] == [[1], [2], [5], [6]]
        assert await one.fetch(50, **known) == []
        assert one.limited.skipped == 0


async def test_producers_begin_at_different_keys(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=5)) as one:
        await fill(one.connection, "k", 500, numbered=True)
        begun: set[str] = set()
        for _ in range(12):
            transaction = one.connection.transaction()
            await transaction.start()
            begun |= {key_of(row) for row in await one.fetch(1, ring=None)}
            await transaction.rollback()
        assert len(begun) > 3
        # Wherever it begins, it comes round.
        found = await one.fetch(2, ring=None)
        while rows := await one.fetch(40, ring=one.limited.given()["ring"]):
            found += rows
        assert len(found) == len(keys(found)) == 500


# Keys of which nothing can be taken


async def test_a_walk_that_was_not_finished_goes_on_with_the_next_fetch(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=1)) as one:
        for priority in (0, 1):
            await fill(one.connection, "full", 900, priority=priority, numbered=True)
        await one.connection.execute("UPDATE oban_jobs SET state = 'executing' WHERE priority = 1")
        await fill(one.connection, "last", priority=7)
        fetches = 0
        while not (rows := await one.fetch(5)):
            assert one.limited.skipped > 0
            fetches += 1
        assert keys(rows) == {"last": 1}
        assert fetches == 2
        assert await one.fetch(5) == []


async def test_jobs_that_are_left_to_others_hide_none(engine: AsyncEngine) -> None:
    known: Any = {"unknown": ["stranger"], "overdue": [], "unknown_after": 3600.0}
    plan = Plan().with_filter(only_known())
    async with Fetcher.on(engine, Queue(50, **BY, each=9), plan) as one:
        await fill(one.connection, "k", 60, numbered=True)
        await fill(one.connection, "k1", 60)
        await one.connection.execute("UPDATE oban_jobs SET worker = 'stranger'")
        await fill(one.connection, "k1", 2)
        await fill(one.connection, "z", 2, priority=3)
        found: Counter[str] = Counter()
        for _ in range(60):
            found += keys(await one.fetch(5, **known))
            if not one.limited.skipped:
                break
        assert found == {"k1": 2, "z": 2}


def test_a_producer_stops_fetching_what_it_finds_in_vain() -> None:
    ring = Ring()
    assert [ring.hear("{}", skipped=1, taken=0) for _ in range(LAPS_END + 1)] == [1] * LAPS_END + [0]
    assert ring.hear(None, skipped=1, taken=0) == 1
    assert ring.cursor == "{}"
    for _ in range(2 * LAPS_END):
        assert ring.hear("{}", skipped=1, taken=1) == 1


# What it costs


@pytest.mark.parametrize("known", ["empty", "fresh", "analyzed"])
async def test_no_bound_is_a_filter_wherever_the_cursor_stands(engine: AsyncEngine, known: str) -> None:
    """With one that is, the last step of a walk would read the rest of the index."""
    plain = Plan()
    async with Fetcher.on(engine, Queue(50, **BY, each=5)) as one:
        await one.connection.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
        if known == "empty":
            await one.connection.execute("VACUUM ANALYZE oban_jobs")
            await one.fetch(5)
        for priority in (0, 1, 9):
            await fill(one.connection, "m", 6_500, priority=priority)
        await fill(one.connection, "k", 150, priority=1, numbered=True)
        await fill(one.connection, "z", 50, priority=9, numbered=True)
        if known == "analyzed":
            await one.connection.execute("ANALYZE oban_jobs")
        # Saturated.
        await one.fetch(5)
        usual = one.plan
        one.plan = plain
        most = 2 * await one.buffers(50) + 1000
        one.plan = usual
        for key in ("", "k5", "l", "m", "n", "zz"):
            for used in (0, 1):
                read = await one.buffers(50, ring=json.dumps({"key": key, "used": used}))
                assert read <= most, (key, used)
        assert await one.buffers(1) < 400


async def test_a_walk_ends_at_its_cursor_and_not_behind_the_jobs_of_the_next_key(engine: AsyncEngine) -> None:
    async with Fetcher.on(engine, Queue(50, **BY, each=5)) as one:
        await one.connection.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
        for priority in (0, 1, 9):
            await fill(one.connection, "m", 6_500, priority=priority)
        await one.fetch(5)
        await fill(one.connection, "b", 2, numbered=True)
        read = {
            key: await one.buffers(50, ring=json.dumps({"key": key, "used": 0})) for key in ("", "b1", "b2", "l", "n")
        }
        assert max(read.values()) - min(read.values()) < 100, read


# Several fetchers


async def test_four_fetchers_never_exceed_and_never_deadlock(engine: AsyncEngine) -> None:
    queue = Queue(50, **BY, each=2, rate=Rate(1000, per=60), global_limit=30)
    async with AsyncExitStack() as stack:
        fetchers = [await stack.enter_async_context(Fetcher.on(engine, queue)) for _ in range(4)]
        watch = await stack.enter_async_context(Fetcher.on(engine, queue))
        for priority in (0, 1, 9):
            await fill(watch.connection, "hot", 60, priority=priority)
            await fill(watch.connection, "k", 40, priority=priority, numbered=True)
            await fill(watch.connection, "k", 40, priority=priority, numbered=True)
        done: list[int] = []

        async def work(fetcher: Fetcher) -> None:
            held: list[Any] = []
            while len(done) < 420:
                rows = await fetcher.fetch(6, held)
                done.extend(row["id"] for row in held)
                held = rows

        async def look() -> None:
            over = (
                "SELECT meta ->> 'partition', count(*) FROM oban_jobs WHERE state = 'executing' "
                "GROUP BY 1 HAVING count(*) > 2"
            )
            while len(done) < 420:
                assert await watch.connection.fetch(over) == []
                await asyncio.sleep(0)

        async with asyncio.timeout(60):
            await asyncio.gather(look(), *map(work, fetchers))
        assert sorted(done) == sorted(set(done))
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert await watch.connection.fetchval(deadlocks) == 0
