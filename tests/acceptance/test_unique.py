"""What unique jobs promise, under load: one job for each key whichever way it came, and no change that no job sees.

Both run for longer, or with more, where `OBAN_TEST_RACE_SECONDS` or `OBAN_TEST_CHANGES` say so.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from sqlalchemy import Text, column, insert, select, text, values
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from oban_sa import Job, Oban, Runner, Unique, Worker, enqueue, enqueue_many, enqueue_select
from oban_sa import worker as worker_of
from oban_sa.errors import UniqueBusy
from oban_sa.jobs import values as json
from oban_sa.models import Leader
from oban_sa.sql import cron
from oban_sa.sql.lease import lease_name
from oban_sa.workers import Registry
from tests.support import eventually

RACE_SECONDS = float(os.environ.get("OBAN_TEST_RACE_SECONDS", "8"))
CHANGES = int(os.environ.get("OBAN_TEST_CHANGES", "1500"))
SESSIONS, KEYS = 40, 200
WAYS = ("flush", "copy", "select", "cron")
MADE = (*WAYS, "retry", "rolled back")

RULE = Unique(fields=["args"], keys=["key"], group="incomplete")
TWICE = text(
    "SELECT args->>'key', count(*) FROM oban_jobs WHERE meta ? 'unique' "
    "AND state IN ('available', 'scheduled', 'retryable', 'suspended', 'executing') GROUP BY 1 HAVING count(*) > 1"
)
THERE = text("SELECT args->>'key' FROM oban_jobs WHERE args->>'key' = ANY(:keys)")
DEADLOCKS = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

CRON = cron.claim(unique=True)

REGISTRY = Registry()


@worker_of(registry=REGISTRY, name="app.Index", unique=RULE)
class Index(Worker):
    async def process(self, job: Job) -> None: ...


@pytest.fixture
async def many(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine with a connection for each session."""
    engine = create_async_engine(database_url, pool_size=SESSIONS + 2, max_overflow=SESSIONS)
    yield engine
    await engine.dispose()


class RolledBack(Exception):
    """What a transaction of the race raises to be rolled back."""


class Race:
    """Sessions that enqueue jobs of the same keys in all ways, roll back and commit, and look after each commit."""

    def __init__(self, engine: AsyncEngine, seconds: float, seed: int) -> None:
        self.engine = engine
        self.oban = Oban(engine)
        self.chance = random.Random(seed)
        self.end = time.monotonic() + seconds
        self.made: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.pointed_at: dict[int, str] = {}
        """What a job that was not inserted became, and its key."""
        self.commits = 0

    def keys(self, most: int) -> list[str]:
        # New keys again and again, of which there is no job: one that is lost then is missed.
        epoch = self.commits // (4 * KEYS)
        return [f"{epoch}-{self.chance.randrange(KEYS)}" for _ in range(self.chance.randint(1, most))]

    async def run(self) -> None:
        ways: list[Callable[[int], Awaitable[None]]] = [self.flush, self.copy, self.select, self.cron]
        async with asyncio.TaskGroup() as group:
            for number in range(SESSIONS):
                group.create_task(self.repeat(ways[number % len(ways)], number))
            for _ in range(2):
                group.create_task(self.repeat(self.change, SESSIONS))

    async def repeat(self, way: Callable[[int], Awaitable[None]], number: int) -> None:
        # For longer on a slow machine, until each way has come to something.
        while (now := time.monotonic()) < self.end or (now < self.end + 60 and not all(map(self.made.get, MADE))):
            try:
                await way(number)
            except UniqueBusy:
                self.made["busy"] += 1
            except RolledBack:
                self.made["rolled back"] += 1

    async def flush(self, _: int) -> None:
        kept: list[Job] = []
        async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
            for _ in range(self.chance.choice((1, 1, 2))):
                jobs = [Index.new({"key": key}, priority=self.chance.randrange(3)) for key in self.keys(3)]
                if self.chance.random() < 0.3:
                    async with session.begin_nested() as savepoint:
                        enqueue_many(session, jobs)
                        await session.flush()
                        if self.chance.random() < 0.5:
                            await savepoint.rollback()
                            continue
                else:
                    enqueue_many(session, jobs)
                    await session.flush()
                kept += jobs
            self.maybe_roll_back()
        await self.committed("flush", kept)

    async def copy(self, _: int) -> None:
        jobs = [Index.new({"key": key}, priority=self.chance.randrange(3)) for key in self.keys(4)]
        plain = [Job("plain", args={"n": number}) for number in range(3)]
        mixed = [*jobs, *plain]
        self.chance.shuffle(mixed)

        async def streamed() -> AsyncIterator[Job]:
            for job in mixed:
                yield job
                await asyncio.sleep(0)
            self.maybe_roll_back()

        written = await self.oban.enqueue_many(streamed())
        assert written == len(plain) + sum(job.conflict is None for job in jobs)
        await self.committed("copy", jobs)

    async def select(self, _: int) -> None:
        keys = self.keys(6)
        listed = values(column("key", Text), name="listed").data([(key,) for key in keys])
        async with AsyncSession(self.engine) as session, session.begin():
            written = await enqueue_select(session, Index, select(listed.c.key))
            assert written + written.conflicts == len(keys)
            self.maybe_roll_back()
        await self.looked("select", keys, made=written)

    async def cron(self, number: int) -> None:
        keys = self.keys(3)
        jobs = [
            {
                "key": f"entry {number}",
                "at": "2026-01-01T00:00:00",
                "worker": "app.Index",
                "queue": "default",
                "args": {"key": key},
                "meta": RULE.marked({"cron_name": f"entry {number}"}),
                "tags": [],
                "priority": number % 3,
                "max_attempts": 3,
                "number": place,
                **RULE.terms,
                "subject": RULE.subject("app.Index", "default", {"key": key}, {}),
            }
            for place, key in enumerate(keys)
        ]
        async with self.engine.connect() as connection, connection.begin():
            last = await connection.scalar(
                text("SELECT last_at FROM oban_sa_crons WHERE name = :name"), {"name": f"entry {number}"}
            )
            until = await connection.scalar(text("SELECT timezone('UTC', clock_timestamp())"))
            claim = {
                "key": f"entry {number}",
                "name": f"entry {number}",
                "overlap": True,
                "seen": None if last is None else last.isoformat(),
                "until": until.isoformat(),
            }
            given = {"claims": json.dumps([claim]), "jobs": json.dumps(jobs), "channel": None}
            answer = await connection.execute(CRON, {**given, "lease": lease_name("Oban"), "node": "one"})
            made = answer.mappings().one()["jobs"]
            self.maybe_roll_back()
        await self.looked("cron", keys, made=made)

    async def change(self, _: int) -> None:
        """Cancel some jobs, and retry some that were."""
        async with self.engine.connect() as connection:
            found = list((await connection.execute(text("SELECT id, state::text FROM oban_jobs"))).all())
        if not found:
            return
        waiting = [row[0] for row in found if row[1] == "available"]
        await self.oban.cancel_jobs(self.chance.sample(waiting, min(len(waiting), 4)))
        ended = [row[0] for row in found if row[1] == "cancelled"][-40:]
        ended = self.chance.sample(ended, min(len(ended), 6))
        async with AsyncSession(self.engine) as session, session.begin():
            retried = await self.oban.retry_jobs(ended, session=session)
            assert retried + len(retried.conflicts) <= len(ended)
            self.maybe_roll_back()
        await self.looked("retry", (), made=0)
        self.made["retry"] += retried

    def maybe_roll_back(self) -> None:
        if self.chance.random() < 0.25:
            raise RolledBack

    async def committed(self, way: str, jobs: Sequence[Job]) -> None:
        self.pointed_at.update((job.id, job.args["key"]) for job in jobs)
        await self.looked(way, [job.args["key"] for job in jobs], made=sum(job.conflict is None for job in jobs))

    async def looked(self, way: str, keys: Sequence[str], *, made: int) -> None:
        self.commits += 1
        self.made[way] += made
        self.asked[way] += len(keys)
        async with self.engine.connect() as connection:
            assert (await connection.execute(TWICE)).all() == []
            if keys:
                there = set((await connection.execute(THERE, {"keys": list(keys)})).scalars())
                assert there == set(keys), "a job was lost"


async def test_all_ways_at_once_leave_one_job_for_each_key_and_lose_none(many: AsyncEngine) -> None:
    engine = many
    async with engine.begin() as connection:
        now = await connection.scalar(text("SELECT timezone('UTC', clock_timestamp())"))
        lease = {"elected_at": now, "expires_at": now.replace(year=now.year + 1, day=1)}
        await connection.execute(insert(Leader).values(name=lease_name("Oban"), node="one", **lease))
        await connection.execute(
            text(
                "INSERT INTO oban_sa_crons (name, expression, worker, timezone, opts, inserted_at, updated_at) "
                f"SELECT 'entry ' || n, '* * * * *', 'app.Index', 'UTC', '{{}}', now(), now() "
                f"FROM generate_series(0, {SESSIONS}) n"
            )
        )
        before = await connection.scalar(DEADLOCKS)
    race = Race(engine, RACE_SECONDS, seed=7)
    await race.run()
    print(f"commits {race.commits}, made {dict(race.made)}, asked {dict(race.asked)}")
    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT id, args->>'key' FROM oban_jobs WHERE meta ? 'unique'"))).all()
        there = {row[0]: row[1] for row in rows}
        assert len(there) == sum(race.made[way] for way in WAYS)
        assert race.pointed_at.items() <= there.items()
        assert all(map(race.made.get, MADE)), race.made
        assert await connection.scalar(DEADLOCKS) == before


async def test_no_change_is_missed_by_the_run_that_it_was_joined_to(many: AsyncEngine, engine: AsyncEngine) -> None:
    """Each transaction makes a change and enqueues; the job reads the changes that it sees. Six are about one key."""
    registry = Registry()
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE changes (id bigint PRIMARY KEY, doc bigint NOT NULL)"))
        await connection.execute(text("CREATE TABLE seen (id bigint PRIMARY KEY)"))
        await connection.execute(text("CREATE INDEX ON changes (doc)"))

    @worker_of(registry=registry, queue="search", unique=Unique(keys=["doc"], group="waiting"))
    class Reindex(Worker):
        async def process(self, job: Job, session: AsyncSession) -> None:
            await session.execute(
                text("INSERT INTO seen SELECT id FROM changes WHERE doc = :doc ON CONFLICT DO NOTHING"), job.args
            )

    chance, left = random.Random(11), iter(range(CHANGES))
    joined = 0

    async def write() -> None:
        nonlocal joined
        for number in left:
            async with AsyncSession(many) as session, session.begin():
                await session.execute(
                    text("INSERT INTO changes VALUES (:id, :doc)"), {"id": number, "doc": number // 6}
                )
                job = enqueue(session, Reindex.new({"doc": number // 6}, priority=number % 3))
                await session.flush()
                joined += job.conflict is not None
                # What others of the same key commit meanwhile is started by the runner.
                await asyncio.sleep(chance.random() * 0.02)

    async def ended() -> None:
        async with engine.connect() as connection:
            unfinished = text("SELECT count(*) FROM oban_jobs WHERE state <> 'completed'")
            assert await connection.scalar(unfinished) == 0

    async with Runner(engine, queues={"search": 4}, registry=registry, poll_every=0.2, stage_every=0.2):
        await asyncio.gather(*(write() for _ in range(16)))
        await eventually(ended, 120)
    async with engine.connect() as connection:
        unseen = await connection.scalar(text("SELECT count(*) FROM changes WHERE id NOT IN (SELECT id FROM seen)"))
        changes = await connection.scalar(text("SELECT count(*) FROM changes"))
        runs = await connection.scalar(text("SELECT count(*) FROM oban_jobs"))
    print(f"changes {changes}, runs {runs}, joined {joined}, unseen {unseen}")
    assert (changes, unseen) == (CHANGES, 0)
    assert joined > 0 and runs < CHANGES
