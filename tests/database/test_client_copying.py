from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakSet

import asyncpg
import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from oban_sa.client import Oban
from oban_sa.errors import InvalidArguments, InvalidJob
from oban_sa.models import Job
from oban_sa.references import ref
from oban_sa.states import JobState
from tests.database.clients import ears, one_row, stored
from tests.support import plain_url, sync_url

LATER = datetime(2999, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
SCHEMAS = Path(__file__).parent.parent / "migrations"


@pytest.fixture(params=["asyncpg", "psycopg"])
async def driven(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(sync_url(database_url, request.param))
    yield made
    await made.dispose()


async def loaded(engine: AsyncEngine) -> list[Job]:
    async with AsyncSession(engine) as session:
        return list((await session.scalars(select(Job).order_by(Job.id))).all())


def told(jobs: list[Job]) -> list[tuple[Any, ...]]:
    """All that two ways of writing the same jobs must agree in."""
    names = ("worker", "queue", "state", "args", "meta", "tags", "attempt", "max_attempts", "priority", "errors")
    return [tuple(getattr(job, name) for name in names) for job in jobs]


def various() -> list[Job]:
    return [
        Job("a.b.C", args={"é": [1, None, {"x": 1.5}], "q": '"\\'}, meta={"m": True}, tags=["b", "A"], priority=9),
        Job("w", queue="mailers", max_attempts=3, args={"at": LATER}),
        Job("w", schedule_in=3600),
        Job("w", scheduled_at=LATER),
        Job("w", state=JobState.SUSPENDED),
        Job("w", tags=["a,b", "{c}", '"', "null", ""]),
    ]


async def test_jobs_arrive_as_a_session_would_write_them(driven: AsyncEngine, engine: AsyncEngine) -> None:
    assert await Oban(driven).enqueue_many(various()) == 6
    copied = await loaded(driven)
    async with driven.begin() as connection:
        await connection.execute(text("TRUNCATE oban_jobs"))
    await stored(engine, *various())
    flushed = await loaded(driven)
    assert told(copied) == told(flushed)
    assert copied[3].scheduled_at == LATER
    for each in (copied, flushed):
        assert each[0].scheduled_at == each[0].inserted_at
        assert timedelta(seconds=3500) < each[2].scheduled_at - each[2].inserted_at < timedelta(seconds=3700)


async def test_generators_of_both_kinds_are_taken(driven: AsyncEngine) -> None:
    async def later() -> AsyncIterator[Job]:
        for number in range(2_001):
            yield Job("w", args={"number": number})

    oban = Oban(driven)
    assert await oban.enqueue_many(Job("w", args={"number": number}) for number in range(4_001)) == 4_001
    assert await oban.enqueue_many(later()) == 2_001
    assert await oban.enqueue_many([]) == 0
    numbers = [job.args["number"] for job in await loaded(driven)]
    assert numbers == [*range(4_001), *range(2_001)]


async def test_a_generator_is_never_read_far_ahead(engine: AsyncEngine) -> None:
    alive: WeakSet[Job] = WeakSet()
    most = 0

    def made() -> Iterator[Job]:
        nonlocal most
        for _ in range(10_000):
            alive.add(job := Job("w"))
            most = max(most, len(alive))
            yield job

    assert await Oban(engine).enqueue_many(made()) == 10_000
    assert most <= 4_001


async def test_all_or_none_are_stored(driven: AsyncEngine, database_url: str) -> None:
    def made() -> Iterator[Job]:
        for number in range(5_000):
            yield Job("w", args={"number": number if number < 4_500 else float("inf")})

    async with ears(database_url) as listening:
        with pytest.raises(InvalidArguments, match="inf") as refused:
            await Oban(driven).enqueue_many(made())
        assert refused.value.path == "args.number"
        assert await listening.heard() == []
    assert await loaded(driven) == []


async def test_each_queue_is_announced_once_for_all_its_jobs(driven: AsyncEngine, database_url: str) -> None:
    jobs = [Job("w", queue=queue) for queue in "ab" * 1_500]
    jobs += [Job("w", queue="later", schedule_in=60), Job("w", queue="past", attempt=1)]
    async with ears(database_url) as listening:
        assert await Oban(driven).enqueue_many(jobs) == 3_002
        heard = await listening.heard()
    assert heard == [("insert", {"queue": queue}) for queue in ("a", "b", "past")]


async def test_jobs_with_a_past_or_an_id_of_their_own_are_written_too_in_order(driven: AsyncEngine) -> None:
    entry = {"at": "2020-01-01T00:00:00Z", "attempt": 1, "error": "E: e"}
    jobs = [
        Job("first"),
        Job("second", errors=[entry], attempt=1, attempted_at=datetime(2020, 1, 1), attempted_by=["n", "u"]),
        Job("third", id=77_000, inserted_at=datetime(2020, 1, 1)),
    ]
    assert await Oban(driven).enqueue_many(jobs) == 3
    first, second, third = await loaded(driven)
    assert (first.worker, second.worker, third.id) == ("first", "second", 77_000)
    assert (second.errors, second.attempt, second.attempted_by) == ([entry], 1, ["n", "u"])
    assert third.inserted_at == datetime(2020, 1, 1, tzinfo=UTC)


async def test_what_enqueue_refuses_is_refused(driven: AsyncEngine, engine: AsyncEngine) -> None:
    oban = Oban(driven)
    (there,) = await stored(engine, Job("w"))
    user = Job("user")
    with pytest.raises(InvalidJob, match="stored already"):
        await oban.enqueue_many([there])
    with pytest.raises(InvalidJob, match="completed can't be enqueued"):
        await oban.enqueue_many([Job("w", state=JobState.COMPLETED)])
    with pytest.raises(InvalidArguments, match="only a session can write"):
        await oban.enqueue_many([Job("w", args={"user": ref(user)})])
    with pytest.raises(InvalidArguments, match="only a session can write"):
        await oban.enqueue_many([Job("w", attempt=1, meta={"user": ref(user)})])
    with pytest.raises(TypeError, match="make one"):
        await oban.enqueue_many(["w"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"enqueue\(job\)"):
        await oban.enqueue_many(Job("w"))  # type: ignore[arg-type]
    assert len(await loaded(driven)) == 1


@pytest.mark.parametrize("family", ["elixir_v14", "python_0_7"])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_tables_of_either_family_take_them(empty_database_url: str, family: str, driver: str) -> None:
    raw = await asyncpg.connect(plain_url(empty_database_url))
    try:
        await raw.execute((SCHEMAS / f"{family}.sql").read_text())
    finally:
        await raw.close()
    engine = create_async_engine(sync_url(empty_database_url, driver))
    try:
        assert await Oban(engine).enqueue_many(various()) == 6
        row = await one_row(
            engine, "SELECT count(*) AS n, min(jsonb_typeof(args)) AS args, max(priority) AS p FROM public.oban_jobs"
        )
        assert row == {"n": 6, "args": "object", "p": 9}
    finally:
        await engine.dispose()


async def test_a_codec_for_json_on_the_engine_does_not_make_strings_of_args(database_url: str) -> None:
    engine = create_async_engine(database_url)

    @event.listens_for(engine.sync_engine, "connect")
    def _own_codec(connection: Any, _record: Any) -> None:
        connection.run_async(
            lambda raw: raw.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        )

    try:
        assert await Oban(engine).enqueue_many([Job("w", args={"a": 1})]) == 1
        row = await one_row(engine, "SELECT jsonb_typeof(args) AS kind, args ->> 'a' AS a FROM oban_jobs")
        assert row == {"kind": "object", "a": "1"}
    finally:
        await engine.dispose()


async def test_jobs_are_copied_and_not_inserted(driven: AsyncEngine) -> None:
    inserts: list[str] = []

    @event.listens_for(driven.sync_engine, "before_cursor_execute")
    def _noted(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT" in statement:
            inserts.append(statement)

    assert await Oban(driven).enqueue_many(Job("w") for _ in range(2_001)) == 2_001
    assert inserts == []
    assert await Oban(driven).enqueue_many([Job("w"), Job("w", attempt=1)]) == 2
    assert len(inserts) == 1
