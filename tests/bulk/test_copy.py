from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from oban_sa import hooks
from oban_sa.client import Oban
from oban_sa.errors import InvalidArguments, InvalidJob
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from tests.bulk.alive import Alive
from tests.clients import ears, one_row, stored
from tests.support import plain_url, run_python, sync_url

LATER = datetime(2999, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
SCHEMAS = Path(__file__).parent.parent / "migrations"


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
    alive = Alive()
    assert await Oban(engine).enqueue_many(alive.made(10_000)) == 10_000
    assert alive.most <= 4_001


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
        Job("fourth"),
    ]
    assert await Oban(driven).enqueue_many(jobs) == 4
    first, second, fourth, third = await loaded(driven)
    assert (fourth.worker, fourth.id) == ("fourth", second.id + 1)
    assert (first.worker, second.worker, third.id) == ("first", "second", 77_000)
    assert (second.errors, second.attempt, second.attempted_by) == ([entry], 1, ["n", "u"])
    assert third.inserted_at == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("place", [0, 127, 128, 3_217])
async def test_a_refusal_says_which_job_and_where_in_it(driven: AsyncEngine, place: int) -> None:
    def made(bad: Any) -> Iterator[Job]:
        for number in range(4_000):
            yield bad() if number == place else Job("w", args={"items": []})

    def with_price() -> Job:
        return Job("w", args={"items": [1, 2, 3, {"price": float("nan")}]})

    oban = Oban(driven)
    with pytest.raises(InvalidArguments, match=rf"^jobs\[{place}\]\.args\.items\[3\]\.price is nan") as refused:
        await oban.enqueue_many(made(with_price))
    assert (refused.value.index, refused.value.path) == (place, "args.items[3].price")
    with pytest.raises(InvalidJob, match=rf"^jobs\[{place}\]: a job that is completed") as past:
        await oban.enqueue_many(made(lambda: Job("w", state=JobState.COMPLETED)))
    assert past.value.index == place
    with pytest.raises(InvalidJob, match=rf"^jobs\[{place}\]: priority") as made_so:  # refused while it is made
        await oban.enqueue_many(made(lambda: Job("w", priority=10)))
    assert made_so.value.index == place
    with pytest.raises(TypeError, match=rf"^jobs\[{place}\]: a Job is enqueued"):
        await oban.enqueue_many(made(lambda: "w"))
    assert await loaded(driven) == []


async def test_a_refusal_among_jobs_with_a_past_says_which_too(driven: AsyncEngine) -> None:
    jobs = [Job("w"), Job("w", attempt=1), Job("w", meta={"x": {1}})]
    with pytest.raises(InvalidArguments, match=r"^jobs\[2\]\.meta\.x is a set") as refused:
        await Oban(driven).enqueue_many(jobs)
    assert refused.value.index == 2


async def test_what_a_generator_raises_comes_out_and_nothing_is_written(driven: AsyncEngine) -> None:
    async def made() -> AsyncIterator[Job]:
        for _ in range(50_000):
            yield Job("w")
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await Oban(driven).enqueue_many(made())
    assert await Oban(driven).enqueue_many([Job("w")]) == 1  # on the same connection, whatever was under way on it
    assert len(await loaded(driven)) == 1


async def test_a_cancellation_stops_the_stream_and_nothing_is_written(driven: AsyncEngine) -> None:
    asked = asyncio.Event()

    async def made() -> AsyncIterator[Job]:
        for number in range(60_000):
            yield Job("w", args={"number": number})
        asked.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Oban(driven).enqueue_many(made()))
    await asyncio.wait_for(asked.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await Oban(driven).enqueue_many([Job("w")]) == 1
    assert len(await loaded(driven)) == 1


async def test_what_the_database_refuses_comes_out(driven: AsyncEngine) -> None:
    async with driven.begin() as connection:
        await connection.execute(text("ALTER TABLE oban_jobs ADD CHECK (args ->> 'number' <> '30000')"))
    with pytest.raises(Exception, match="violates check constraint"):
        await Oban(driven).enqueue_many(Job("w", args={"number": number}) for number in range(60_000))
    assert await loaded(driven) == []


async def test_what_was_changed_after_a_job_was_made_is_checked_again(driven: AsyncEngine) -> None:
    def changed(name: str, value: Any) -> Job:
        job = Job("w")
        setattr(job, name, value)
        return job

    oban = Oban(driven)
    for name, value, words in (
        ("priority", 12, "priority must be between"),
        ("queue", "", "queue must not be blank"),
        ("max_attempts", 0, "max_attempts must be"),
        ("args", [1], "args must be a dict"),
        ("tags", "mail", "tags must be a list"),
        ("scheduled_at", "tomorrow", "must be a datetime"),
    ):
        with pytest.raises(InvalidJob, match=words):
            await oban.enqueue_many([changed(name, value)])
    later = datetime(2999, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    jobs = [changed("tags", ["B", "a", "b "]), changed("scheduled_at", later), changed("state", "suspended")]
    assert await oban.enqueue_many(jobs) == 3
    tagged, moved, held = await loaded(driven)
    assert (tagged.tags, moved.scheduled_at, held.state) == (["a", "b"], later, JobState.SUSPENDED)


async def test_hooks_see_each_job_once_and_may_change_what_is_written(driven: AsyncEngine) -> None:
    seen: list[Job] = []

    def mark(job: Job) -> None:
        seen.append(job)
        job.meta["trace"] = len(seen)

    remove = hooks.before_insert(mark)
    try:
        assert await Oban(driven).enqueue_many([Job("w"), Job("w", attempt=1), Job("w")]) == 3
    finally:
        remove()
    assert [job.meta for job in await loaded(driven)] == [{"trace": 1}, {"trace": 2}, {"trace": 3}]


async def test_a_table_with_columns_of_other_types_is_written_by_insert(driven: AsyncEngine) -> None:
    async with driven.begin() as connection:
        await connection.execute(text("ALTER TABLE oban_jobs ALTER scheduled_at TYPE timestamptz USING scheduled_at"))
    assert await Oban(driven).enqueue_many(Job("w", args={"number": number}) for number in range(2_500)) == 2_500
    async with driven.connect() as connection:
        found = await connection.scalars(text("SELECT (args ->> 'number')::int FROM oban_jobs ORDER BY id"))
        assert list(found) == list(range(2_500))


@pytest.mark.parametrize("kind", ["smallint", "bigint"])
async def test_numbers_of_any_width_are_written(driven: AsyncEngine, kind: str) -> None:
    async with driven.begin() as connection:
        await connection.execute(
            text(f"ALTER TABLE oban_jobs ALTER max_attempts TYPE {kind}, ALTER priority TYPE {kind}")
        )
    assert await Oban(driven).enqueue_many([Job("w", max_attempts=32_767, priority=9)]) == 1
    if kind == "smallint":
        with pytest.raises(InvalidJob, match="more than this table's column can hold"):
            await Oban(driven).enqueue_many([Job("w", max_attempts=32_768)])
    (job,) = await loaded(driven)
    assert (job.max_attempts, job.priority) == (32_767, 9)


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
    with pytest.raises(InvalidArguments, match=r"args\.x\[0\] is a Fragment"):
        await oban.enqueue_many([Job("w", args={"x": [orjson.Fragment(b"no JSON")]})])
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


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_stays_bounded_however_many_jobs_there_are(database_url: str) -> None:
    """OBAN_TEST_BULK_JOBS says how many; a million take half a minute."""
    count = int(os.environ.get("OBAN_TEST_BULK_JOBS", "60000"))
    done = run_python("-m", "tests.bulk.streaming", database_url, str(count), timeout=600)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    print(
        f"{count:,} jobs: {count / measured['seconds']:,.0f} jobs/s, "
        f"{measured['copying'] / measured['seconds']:.2f} of raw COPY, {measured['grew'] / 1e6:.0f} MB"
    )
    assert measured["grew"] < 100_000_000
