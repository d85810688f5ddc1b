"""What others wrote is read exactly where Python has a value for it, and as the nearest where it has none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, select, text, union_all, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, aliased

from oban_sa import Job, Oban
from oban_sa.models import Cron, Leader, Peer, Producer, Queue
from tests.support import sync_url

FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
MOMENTS = {
    "-infinity": FIRST,
    "4713-01-01 00:00:00 BC": FIRST,
    "0001-01-01 00:00:00": FIRST,
    "0001-01-01 00:00:00.000001": FIRST.replace(microsecond=1),
    "2024-05-06 07:08:09.123456": datetime(2024, 5, 6, 7, 8, 9, 123456, UTC),
    "9999-12-31 23:59:59.999998": LAST.replace(microsecond=999998),
    "9999-12-31 23:59:59.999999": LAST,
    "10000-01-01 00:00:00": LAST,
    "294276-12-31 23:59:59.999999": LAST,
    "infinity": LAST,
}
COLUMNS = ("inserted_at", "scheduled_at", "attempted_at", "completed_at", "cancelled_at", "discarded_at")
HUGE = "9" * 4_300
HUGER = "9" * 5_000
DEEP = '{"a":[' * 1_500 + "12345678901234567890" + "]}" * 1_500


@pytest.fixture(params=["psycopg", "psycopg2", "pg8000"])
def driven(request: pytest.FixtureRequest, database_url: str) -> Iterator[Engine]:
    made = create_engine(sync_url(database_url, request.param))
    yield made
    made.dispose()


def inserted(engine: Engine, **columns: str) -> int:
    """A job with columns as SQL says."""
    columns = {"worker": "'w'", **columns}
    with engine.begin() as connection:
        # Elixir's table allows NULL for these.
        for name in ("tags", "meta", "attempted_by"):
            connection.execute(text(f"ALTER TABLE oban_jobs ALTER {name} DROP NOT NULL"))
        statement = f"INSERT INTO oban_jobs ({', '.join(columns)}) VALUES ({', '.join(columns.values())}) RETURNING id"
        found: int = connection.exec_driver_sql(statement).scalar_one()
        return found


def read(engine: Engine, job_id: int) -> Job:
    with Session(engine, expire_on_commit=False) as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def depth(value: Any) -> tuple[int, Any]:
    """How many containers of one element stand inside each other, and what is innermost."""
    levels = 0
    while isinstance(value, (dict, list)):
        levels += 1
        value = value["a"] if isinstance(value, dict) else value[0]
    return levels, value


@pytest.mark.parametrize("written", MOMENTS)
def test_a_moment_that_python_has_no_datetime_for_is_the_nearest_it_has(driven: Engine, written: str) -> None:
    job_id = inserted(driven, **dict.fromkeys(COLUMNS, f"'{written}'"))
    job = read(driven, job_id)
    assert [getattr(job, name) for name in COLUMNS] == [MOMENTS[written]] * 6
    with Session(driven) as session:
        latest = session.scalar(select(func.max(Job.completed_at)))
        labelled = session.execute(select(Job.scheduled_at.label("at")).order_by("at")).scalar_one()
        of_subquery = session.scalars(select(aliased(Job, select(Job).subquery()))).one()
        returned = session.scalars(update(Job).values(priority=3).returning(Job.discarded_at)).one()
        united = session.scalars(union_all(select(Job.scheduled_at), select(Job.inserted_at))).all()
    assert {latest, labelled, of_subquery.scheduled_at, returned, *united} == {MOMENTS[written]}


@pytest.mark.parametrize("written", MOMENTS)
async def test_the_same_is_read_by_the_runner_s_driver_and_the_client(
    engine: AsyncEngine, sync_engine: Engine, written: str
) -> None:
    job_id = inserted(sync_engine, **dict.fromkeys(COLUMNS, f"'{written}'"))
    async with AsyncSession(engine) as session:
        job = (await session.scalars(select(Job))).one()
    assert [getattr(job, name) for name in COLUMNS] == [MOMENTS[written]] * 6
    assert (await Oban(engine).get_job(job_id)).completed_at == MOMENTS[written]


async def test_all_tables_are_read_whatever_their_moments_are(engine: AsyncEngine, sync_engine: Engine) -> None:
    for written in ("infinity", "-infinity", "10000-01-01", "0044-03-15 BC"):
        with sync_engine.begin() as connection:
            for statement in (
                "INSERT INTO oban_producers VALUES (gen_random_uuid(), 'Oban', 'n', 'q', '[1]', :at, :at)",
                "INSERT INTO oban_leaders (name, node, elected_at, expires_at) VALUES (:at, 'n', :at, :at)",
                "INSERT INTO oban_peers (name, node, started_at, expires_at) VALUES (:at, 'n', :at, :at)",
                "INSERT INTO oban_sa_queues (name, meta, updated_at) VALUES (:at, '[1]', :at)",
                "INSERT INTO oban_sa_crons VALUES (:at, 'x', 'w', 'Etc/UTC', '7', :at, :at, :at)",
            ):
                connection.exec_driver_sql(statement.replace(":at", f"'{written}'"))
    async with AsyncSession(engine) as session:
        for entity, meta in ((Producer, "meta"), (Leader, None), (Peer, None), (Queue, "meta"), (Cron, "opts")):
            rows: list[Any] = list((await session.scalars(select(entity))).all())
            assert len(rows) == 4
            assert all(meta is None or getattr(row, meta) == {} for row in rows)
    assert len(await Oban(engine).check_queues()) == 4


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", 2**63),
        ("18446744073709551616", 2**64),
        ("-9223372036854775809", -(2**63) - 1),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("1e25", 10**25),
        ("1e400", 10**400),
        (HUGE, 10**4_300 - 1),
        (HUGER, Decimal(HUGER)),
        ("1e20", 10**20),
        ("0.1", 0.1),
        ("0.12345678901234567890", 0.12345678901234568),
        ("1e-400", 0.0),
        ("9" * 400 + ".5", Decimal("9" * 400 + ".5")),
        ('"12345678901234567890"', "12345678901234567890"),
    ],
)
def test_a_number_is_read_as_it_was_written(driven: Engine, written: str, expected: Any) -> None:
    document = f"""'{{"n": {written}, "in": [{{"n": {written}}}]}}'"""
    job_id = inserted(driven, args=document, meta=document, errors=f"ARRAY[{document}::jsonb]")
    job = read(driven, job_id)
    for held in (job.args, job.meta, job.errors[0]):
        assert held["n"] == expected
        assert type(held["n"]) is type(expected)
        assert held["in"] == [{"n": expected}]


async def test_a_number_is_read_by_the_client_as_it_was_written(engine: AsyncEngine, sync_engine: Engine) -> None:
    job_id = inserted(sync_engine, args=f"""'{{"n": 12345678901234567890, "m": {HUGER}}}'""")
    assert (await Oban(engine).get_job(job_id)).args == {"n": 12345678901234567890, "m": Decimal(HUGER)}


async def test_what_is_nested_thousands_deep_is_read(driven: Engine, engine: AsyncEngine) -> None:
    job_id = inserted(driven, args=f"'{DEEP}'", meta=f"'{DEEP}'", errors=f"ARRAY['{DEEP}'::jsonb]")
    for job in (read(driven, job_id), await Oban(engine).get_job(job_id)):
        for held in (job.args, job.meta, job.errors[0]):
            assert depth(held) == (3_000, 12345678901234567890)
        assert f"id={job_id}" in str(job)


@pytest.mark.parametrize(
    ("column", "written", "expected"),
    [
        ("args", "'[1, 2]'", [1, 2]),
        ("args", "'\"12\"'", "12"),
        ("args", "'null'", {}),
        ("meta", "'[1, 2]'", {}),
        ("meta", "'\"12\"'", {}),
        ("meta", "'null'", {}),
        ("meta", "NULL", {}),
        ("tags", "NULL", []),
        ("tags", "'{NULL,a}'", ["a"]),
        ("tags", "'{{a,b},{c,NULL}}'", ["a", "b", "c"]),
        ("attempted_by", "NULL", []),
        ("attempted_by", "'{one}'", ["one"]),
        ("attempted_by", "'{NULL,u}'", ["u"]),
        ("errors", "ARRAY[NULL, '\"12\"', '[]', '{}']::jsonb[]", [None, "12", [], {}]),
    ],
)
def test_what_is_of_another_shape_is_read_too(driven: Engine, column: str, written: str, expected: Any) -> None:
    assert getattr(read(driven, inserted(driven, **{column: written})), column) == expected


def test_a_query_may_still_be_distinct_and_sorted_by_what_it_selects(driven: Engine) -> None:
    inserted(driven, args="""'{"n": 12}'""")
    with Session(driven) as session:
        (job,) = session.scalars(select(Job).distinct().order_by(Job.scheduled_at)).all()
        assert job.args == {"n": 12}
        united = union_all(select(Job.args, Job.scheduled_at), select(Job.meta, Job.inserted_at)).order_by(
            "scheduled_at"
        )
        assert [row.args for row in session.execute(united)] in ([{"n": 12}, {}], [{}, {"n": 12}])
        grouped = select(Job.args, Job.scheduled_at, func.count()).group_by(Job.args, Job.scheduled_at)
        assert session.execute(grouped).one()[0] == {"n": 12}
