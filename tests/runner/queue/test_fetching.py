"""Which jobs a producer takes, in which order, and that no two ever take the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from oban_sa import Job, job, telemetry
from oban_sa.runner.database.connection import Line
from oban_sa.workers import Registry
from tests.databases import migrate
from tests.runner.conftest import Harness
from tests.support import eventually, plain_url

FAMILY = {"elixir": "elixir_v14.sql", "python": "python_0_7.sql"}
INSERT = "INSERT INTO oban_jobs (worker, args, {column}) VALUES ('worker', '{{}}', {value}) RETURNING id"


@pytest.fixture(params=FAMILY)
async def family(request, empty_database_url: str, registry: Registry) -> AsyncIterator[Harness]:
    """A database whose tables were made by a member of the family, and adopted."""
    ddl = (Path(__file__).parents[2] / "migrations" / FAMILY[request.param]).read_text()
    with psycopg.connect(plain_url(empty_database_url)) as connection:
        connection.execute(ddl)
    await asyncio.to_thread(migrate, empty_database_url)
    engine = create_async_engine(empty_database_url)
    yield Harness(engine, async_sessionmaker(engine, expire_on_commit=False), registry)
    await engine.dispose()


async def test_jobs_start_by_priority_then_schedule_then_id(harness: Harness) -> None:
    order: list[int] = []

    @job(registry=harness.registry)
    async def noted(n: int) -> None:
        order.append(n)

    early, late = (datetime.now(UTC) - timedelta(seconds=back) for back in (100, 50))
    spec = [(2, early, 5), (0, late, 1), (1, early, 3), (0, late, 2), (1, late, 4), (0, early, 0), (2, late, 6)]
    await harness.enqueue(
        *(
            Job(noted.new(n=n).worker, args={"n": n}, priority=p, state="available", scheduled_at=at)
            for p, at, n in spec
        )
    )
    await harness.sql("UPDATE oban_jobs SET state = 'available'")
    await harness.drain(queues={"default": 1})
    assert order == [0, 1, 2, 3, 4, 5, 6]


async def test_jobs_of_one_fetch_start_in_order_too(harness: Harness) -> None:
    order: list[int] = []

    @job(registry=harness.registry)
    async def noted(n: int) -> None:
        order.append(n)

    await harness.enqueue(*(noted.options(priority=9 - n).new(n=n) for n in range(10)))
    await harness.drain(queues={"default": 10})
    assert order == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


async def test_the_limit_is_reached_and_never_exceeded(harness: Harness) -> None:
    running, most = 0, 0
    full = asyncio.Event()

    @job(registry=harness.registry)
    async def counted() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        running -= 1

    await harness.enqueue(*(counted.new() for _ in range(40)))
    await harness.drain(queues={"default": 3})
    assert most == 3
    assert await harness.states() == {"completed": 40}


async def test_a_job_whose_attempts_are_spent_is_not_started(harness: Harness, of) -> None:
    ran: list[int] = []

    @job(registry=harness.registry)
    async def noted(job: Job) -> None:
        ran.append(job.id)

    spent, fresh = await harness.enqueue(noted.new(), noted.new())
    await harness.sql("UPDATE oban_jobs SET attempt = 20 WHERE id = :id", id=spent)
    await harness.drain()
    assert ran == [fresh]
    assert of(telemetry.RunnerRetry) == []


async def test_two_producers_on_one_queue_never_share_a_job(harness: Harness) -> None:
    runs: Counter[int] = Counter()

    @job(registry=harness.registry)
    async def counted(job: Job) -> None:
        runs[job.id] += 1
        await asyncio.sleep(0)

    ids = await harness.enqueue(*(counted.new() for _ in range(300)))
    await asyncio.gather(*(harness.drain(node=f"node.{n}", queues={"default": 7}) for n in range(3)))
    assert runs == dict.fromkeys(ids, 1)
    assert len({node for ((node, *_),) in await harness.sql("SELECT attempted_by FROM oban_jobs")}) > 1


async def test_a_fetch_says_who_holds_the_job_and_since_when(harness: Harness) -> None:
    seen: list[Job] = []

    @job(registry=harness.registry)
    async def noted(job: Job) -> None:
        row = (await harness.sql("SELECT attempted_by, attempt, state::text, attempted_at FROM oban_jobs"))[0]
        seen.append((row, job))

    await harness.enqueue(noted.new())
    async with harness.runner(node="web.1", poll_every=60) as runner:
        await eventually(lambda: seen)
        [producer] = runner._queues.all
    row, job_ = seen[0]
    assert tuple(row)[:3] == (["web.1", str(producer.uuid)], 1, "executing")
    assert job_.attempted_by == ["web.1", str(producer.uuid)]
    assert (job_.attempt, job_.state, job_.queue) == (1, "executing", "default")
    assert job_.attempted_at == row[3].replace(tzinfo=UTC)


async def test_a_job_announced_while_a_fetch_is_under_way_is_not_left_to_polling(harness: Harness, monkeypatch) -> None:
    done: list[int] = []

    @job(registry=harness.registry)
    async def noted(n: int) -> None:
        done.append(n)

    fetch, arrived, name = Line.fetch, [], noted.new(n=1).worker

    async def slow(self: Line, prepared, **values):
        rows = await fetch(self, prepared, **values)
        if "demand" in values and not arrived and not rows:
            # The fetch has looked and found nothing; now a job comes, and its announcement before the answer.
            arrived.append(True)
            await harness.sql("INSERT INTO oban_jobs (worker, args) VALUES (:name, '{\"n\": 1}')", name=name)
            producer.nudge()
        return rows

    async with harness.runner(poll_every=60) as runner:
        [producer] = runner._queues.all
        monkeypatch.setattr(Line, "fetch", slow)
        producer.nudge()
        await eventually(lambda: done == [1])


@pytest.mark.parametrize(
    ("column", "value", "reads"),
    [
        ("meta", "NULL", lambda job: job.meta == {}),
        ("tags", "NULL", lambda job: job.tags == []),
        ("attempted_by", "NULL", lambda job: len(job.attempted_by) == 2),
        ("tags", "'{b,a}'", lambda job: job.tags == ["b", "a"]),
        ("meta", "'{\"n\": 123456789012345678901234567890}'", lambda job: job.meta["n"] > 2**64),
        ("meta", "jsonb_build_object('n', 1e400::numeric)", lambda job: job.meta["n"] == 10**400),
        ("priority", "100", lambda job: job.priority == 100),
        ("id", "4611686018427387904", lambda job: job.id == 2**62),
    ],
)
async def test_whatever_the_family_writes_is_read(family: Harness, column: str, value: str, reads) -> None:
    seen: list[Job] = []

    @job(name="worker", registry=family.registry)
    async def noted(job: Job) -> None:
        seen.append(job)

    insert = INSERT
    if column == "id":
        insert = insert.replace("VALUES", "OVERRIDING SYSTEM VALUE VALUES")
    [(nullable,)] = await family.sql(
        "SELECT is_nullable FROM information_schema.columns WHERE table_name = 'oban_jobs' AND column_name = :column",
        column=column,
    )
    if value == "NULL" and nullable == "NO":
        value = "DEFAULT"  # what this family writes instead
    await family.sql(insert.format(column=column, value=value.replace(":", "\\:")))
    await family.drain()
    [read] = seen
    assert reads(read)
    assert await family.states() == {"completed": 1}


async def test_errors_are_read_and_written_in_either_type(family: Harness) -> None:
    seen: list[list[dict[str, object]]] = []

    @job(name="worker", registry=family.registry)
    async def fails(job: Job) -> None:
        seen.append(job.errors)
        raise ValueError(f"no {job.attempt}")

    [(job_id,)] = await family.sql(INSERT.format(column="attempt", value="0"))
    for _ in range(3):
        await family.sql("UPDATE oban_jobs SET state = 'available'")
        await family.drain()
    read = await family.job(job_id)
    assert [(each["attempt"], str(each["error"]).partition("\n")[0]) for each in read.errors] == [
        (1, "ValueError: no 1"),
        (2, "ValueError: no 2"),
        (3, "ValueError: no 3"),
    ]
    assert seen == [[], read.errors[:1], read.errors[:2]]
    assert all(datetime.fromisoformat(str(each["at"])).tzinfo is not None for each in read.errors)


@pytest.mark.parametrize("args", ["[1, 2]", "7", '"text"', "null"])
async def test_args_that_are_no_object_fail_that_job_alone(harness: Harness, args: str) -> None:
    @job(name="worker", registry=harness.registry)
    async def plain(n: int = 0) -> None: ...

    good = await harness.enqueue(Job("worker"), Job("worker"))
    await harness.sql("UPDATE oban_jobs SET args = CAST(:args AS jsonb) WHERE id = :id", args=args, id=good[0])
    await harness.drain()
    assert (await harness.job(good[1])).state == "completed"
    [(state, error)] = await harness.sql(
        "SELECT state::text, errors[1]->>'error' FROM oban_jobs WHERE id = :id", id=good[0]
    )
    assert state == "retryable"
    assert "args" in error.partition("\n")[0]


@pytest.mark.parametrize(
    "args",
    [
        "jsonb_build_object('n', repeat('9', 5000)::numeric)",  # more digits than Python takes
        "(repeat('[', 5000) || repeat(']', 5000))::jsonb",  # deeper than any reader goes
    ],
)
async def test_a_row_that_can_not_be_read_fails_that_job_alone(harness: Harness, args: str) -> None:
    ran: list[int] = []

    @job(name="worker", registry=harness.registry)
    async def noted(job: Job) -> None:
        ran.append(job.id)

    bad, good = await harness.enqueue(Job("worker", priority=0, max_attempts=1), Job("worker", priority=1))
    await harness.sql(f"UPDATE oban_jobs SET args = {args.replace(':', chr(92) + ':')} WHERE id = :id", id=bad)
    await harness.drain(queues={"default": 1})
    assert ran == [good]
    [(state, error)] = await harness.sql(
        "SELECT state::text, errors[1]->>'error' FROM oban_jobs WHERE id = :id", id=bad
    )
    assert (state, bool(error)) == ("discarded", True)


async def test_what_an_executing_job_of_another_queue_or_state_is_stays_alone(harness: Harness, of) -> None:
    ids = await harness.enqueue(*(Job("worker") for _ in range(7)))
    for job_id, state in zip(
        ids, ["executing", "completed", "cancelled", "discarded", "suspended", "retryable", "available"], strict=True
    ):
        await harness.sql(
            "UPDATE oban_jobs SET state = CAST(:state AS oban_job_state), queue = :queue, attempt = 1, "
            "scheduled_at = now() + interval '1 hour' WHERE id = :id",
            state=state,
            queue="other" if state == "available" else "default",
            id=job_id,
        )
    before = await harness.sql("SELECT * FROM oban_jobs ORDER BY id")
    async with harness.runner() as runner:

        def has_fetched_often() -> bool:
            runner._queues.nudge("default")
            return len(of(telemetry.ProducerFetch)) > 5

        await eventually(has_fetched_often)
    assert await harness.sql("SELECT * FROM oban_jobs ORDER BY id") == before
