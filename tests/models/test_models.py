"""The models against a database, through every driver and on the tables of every Oban."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Engine,
    ForeignKey,
    MetaData,
    any_,
    create_engine,
    event,
    func,
    insert,
    inspect,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from oban_sa.errors import InvalidJob
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Cron, Job, Leader, Peer, Producer, Queue, metadata, schema_map
from tests.databases import Databases
from tests.support import sync_url

DDL = Path(__file__).parent.parent / "migrations"
ENTRY = {"at": "2030-01-02T12:00:00Z", "attempt": 1, "error": "ValueError: boom"}


@dataclass
class Home:
    """A schema with tables of one make, reached through one driver."""

    engine: Engine
    statements: list[str]


def open_engine(url: str, driver: str) -> Home:
    engine = create_engine(sync_url(url, driver))
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cur, statement, *_: statements.append(statement))
    return Home(engine, statements)


@pytest.fixture(scope="module")
def ours(databases: Databases) -> Iterator[str]:
    with databases.fresh() as url:
        yield url


@pytest.fixture(scope="module")
def elixirs(databases: Databases) -> Iterator[str]:
    with databases.fresh(migrated=False) as url:
        run_script(url, "elixir_v14.sql")
        yield url


@pytest.fixture(scope="module")
def pythons(databases: Databases) -> Iterator[str]:
    with databases.fresh(migrated=False) as url:
        run_script(url, "python_0_7.sql")
        yield url


def run_script(url: str, name: str) -> None:
    engine = create_engine(sync_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql((DDL / name).read_text().replace("%", "%%"))
    engine.dispose()


@pytest.fixture(params=["psycopg", "psycopg2", "pg8000"])
def home(request: pytest.FixtureRequest, ours: str) -> Iterator[Home]:
    made = open_engine(ours, request.param)
    yield made
    made.engine.dispose()


@pytest.fixture(params=["ours", "elixirs", "pythons"])
def make(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


def test_thousands_of_jobs_are_a_few_inserts_with_ids_in_order(home: Home) -> None:
    with Session(home.engine) as session:
        # Every other one has a schedule: they still share a statement.
        jobs = [Job("w", args={"n": n}, schedule_in=60 if n % 2 else None) for n in range(2500)]
        session.connection()
        home.statements.clear()
        session.add_all(jobs)
        session.flush()
        inserts = [statement for statement in home.statements if "INSERT" in statement]
        home.statements.clear()

        assert len(inserts) == 1
        assert [job.id for job in jobs] == sorted(job.id for job in jobs)
        assert [job.state for job in jobs[:2]] == [JobState.AVAILABLE, JobState.SCHEDULED]
        assert jobs[0].scheduled_at == jobs[0].inserted_at
        assert (jobs[1].scheduled_at - jobs[1].inserted_at).total_seconds() > 50
        assert jobs[0].errors == []
        assert home.statements == []
        assert not inspect(jobs[0]).expired_attributes
        now = session.scalar(select(func.timezone("UTC", func.now())))
        assert jobs[0].inserted_at == now.replace(tzinfo=UTC)
        stored = session.execute(select(Job.__table__.c.scheduled_at).where(Job.id == jobs[0].id)).scalar()
        assert stored == jobs[0].scheduled_at


async def test_asyncpg_sets_what_the_database_decided_without_another_query(engine: AsyncEngine) -> None:
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda _c, _cur, s, *_: statements.append(s))
    async with AsyncSession(engine, expire_on_commit=False) as session:
        jobs = [Job("w", args={"n": n}, schedule_in=None if n % 3 else 60) for n in range(2500)]
        broken = Job("w", errors=[ENTRY])
        session.add_all([*jobs, broken])
        statements.clear()
        await session.commit()

        assert 1 <= len([statement for statement in statements if statement.startswith("INSERT")]) <= 4
        assert all(job.id and job.inserted_at and job.scheduled_at for job in jobs)
        assert broken.errors == [ENTRY]
    async with AsyncSession(engine) as session:
        loaded = await session.get_one(Job, jobs[0].id)
        assert (loaded.args, loaded.state, loaded.meta, loaded.tags) == ({"n": 0}, JobState.SCHEDULED, {}, [])
        assert loaded.scheduled_at == jobs[0].scheduled_at
        assert (await session.get_one(Job, broken.id)).errors == [ENTRY]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_jobs_round_trip_on_the_tables_of_every_oban(make: str, driver: str) -> None:
    home = open_engine(make, driver)
    with Session(home.engine, expire_on_commit=False) as session, session.begin():
        jobs = [
            Job(
                "w", args={"n": 1}, tags=["a"], meta={"m": [1]}, priority=9, attempted_by=["n", "u"], errors=[ENTRY] * 2
            ),
            Job("w", errors=[ENTRY]),
            Job("w", errors=[ENTRY]),
            Job("w", inserted_at=datetime(2020, 1, 1), attempt=3),
        ]
        session.add_all(jobs)
    with Session(home.engine) as session:
        first, second, third, last = (session.get_one(Job, job.id) for job in jobs)
        assert (first.args, first.tags, first.meta, first.priority) == ({"n": 1}, ["a"], {"m": [1]}, 9)
        assert (first.attempted_by, first.errors) == (["n", "u"], [ENTRY, ENTRY])
        assert second.errors == third.errors == [ENTRY]
        assert (last.errors, last.attempt) == ([], 3)
        assert last.inserted_at == last.scheduled_at == datetime(2020, 1, 1, tzinfo=UTC)
        first.errors = []
        second.errors = [ENTRY, {**ENTRY, "attempt": 2}]
        session.flush()
        session.expire_all()
        assert first.errors == []
        assert [entry["attempt"] for entry in second.errors] == [1, 2]
        same = Job.from_row(session.execute(select(Job.__table__).where(Job.id == second.id)).mappings().one())
        assert (same.errors, same.scheduled_at, same.state) == (second.errors, second.scheduled_at, second.state)
    home.engine.dispose()


def test_looking_at_the_errors_of_a_job_that_has_none_writes_none(make: str) -> None:
    home = open_engine(make, "psycopg")
    with Session(home.engine) as session:
        jobs = [Job("looked-at") for _ in range(3)]
        assert [job.errors for job in jobs] == [[], [], []]
        session.add_all(jobs)
        session.flush()
        session.expire_all()
        assert [job.errors for job in jobs] == [[], [], []]
    home.engine.dispose()


def test_nulls_that_elixir_allows_come_out_empty(elixirs: str) -> None:
    home = open_engine(elixirs, "psycopg")
    with Session(home.engine) as session:
        statement = text(
            "INSERT INTO oban_jobs (worker, tags, meta, attempted_by) VALUES ('w', NULL, NULL, NULL) RETURNING id"
        )
        job = session.get_one(Job, session.scalar(statement))
        assert (job.tags, job.meta, job.attempted_by) == ([], {}, [])
        row = session.execute(select(Job.__table__).where(Job.id == job.id)).mappings().one()
        assert Job.from_row(row).meta == {}
    home.engine.dispose()


def test_another_schema_is_a_matter_of_the_engine(empty_database_url: str) -> None:
    home = open_engine(empty_database_url, "psycopg")
    with home.engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA jobs"))
    elsewhere = home.engine.execution_options(schema_translate_map=schema_map("jobs"))
    metadata.create_all(elsewhere)
    with Session(elsewhere) as session, session.begin():
        job = Job("w", errors=[ENTRY])
        session.add_all([job, Job("w"), Job("w", schedule_in=5)])
        session.flush()
        job.errors = [ENTRY, ENTRY]
        session.flush()
        assert session.scalars(select(Job).where(Job.state == JobState.SCHEDULED)).one().worker == "w"
    assert not [statement for statement in home.statements if "public." in statement]
    with home.engine.connect() as connection:
        assert connection.scalar(text("SELECT cardinality(errors) FROM jobs.oban_jobs ORDER BY id LIMIT 1")) == 2
        assert connection.scalar(text("SELECT to_regclass('public.oban_jobs')")) is None
        options = connection.scalar(text("SELECT reloptions FROM pg_class WHERE oid = 'jobs.oban_jobs'::regclass"))
        assert "fillfactor=85" in options
    home.engine.dispose()


def test_no_table_has_options_that_only_later_versions_of_sqlalchemy_know() -> None:
    """With 2.0 the package could not be imported."""
    tables = metadata.tables.values()
    assert {name: dict(table.dialect_kwargs) for table in tables if (name := table.name) and table.dialect_kwargs} == {}


def test_create_all_stores_tables_as_the_migrations_do(home: Home) -> None:
    with home.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA IF EXISTS made CASCADE"))
        connection.execute(text("CREATE SCHEMA made"))
    metadata.create_all(home.engine.execution_options(schema_translate_map=schema_map("made")))
    with home.engine.connect() as connection:
        migrated, made = (
            {
                name: sorted(options)
                for name, options in connection.execute(
                    text(
                        "SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'oban%' AND relkind = 'r' "
                        "AND relnamespace = CAST(:schema AS regnamespace) AND reloptions IS NOT NULL"
                    ),
                    {"schema": schema},
                )
            }
            for schema in ("public", "made")
        )
    assert made == migrated
    assert made["oban_sa_flows"] == ["fillfactor=50"]


def test_values_json_has_no_word_for_are_converted(home: Home) -> None:
    key = uuid.uuid4()
    with Session(home.engine) as session:
        job = Job("w", args={"at": datetime(2030, 1, 2, tzinfo=UTC), "id": key, "price": Decimal("1.50")})
        session.add(job)
        session.flush()
        session.expire(job)

        assert job.args["id"] == str(key)
        assert job.args["at"].startswith("2030-01-02T00:00:00")
        assert str(job.args["price"]) in {"1.50", "1.5"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"args": {"items": [{"price": {1}}]}}, r"args\.items\[0\]\.price"),
        ({"args": {"x": "a\0b"}}, r"args\.x"),
        ({"meta": {"x": float("nan")}}, r"meta\.x"),
        ({"args": {"user": ref(object())}}, "args"),
    ],
)
def test_values_json_can_not_hold_are_refused_by_the_column_itself(
    home: Home, changes: dict[str, Any], words: str
) -> None:
    # Core statements pass by everything that watches sessions.
    with home.engine.connect() as connection, pytest.raises(StatementError, match=words) as refused:
        connection.execute(insert(Job).values(worker="w", **changes))
    assert isinstance(refused.value.orig, InvalidJob)


def test_args_that_are_no_object_never_reach_the_table(home: Home) -> None:
    with Session(home.engine) as session:
        job = Job("w")
        session.add(job)
        vars(job)["args"] = [1]  # past what looks at assignments
        with pytest.raises((StatementError, InvalidJob), match="args must be a dict"):
            session.flush()


def test_args_can_be_searched_as_json(home: Home) -> None:
    with Session(home.engine) as session:
        session.add_all([Job("search", args={"user": {"id": n}, "n": n}) for n in range(3)])
        session.flush()

        found = select(Job.args["n"], Job.args["none"], Job.args["user"]["id"]).where(Job.worker == "search")
        assert session.execute(found.where(Job.args["n"].as_integer() == 2)).all() == [(2, None, 2)]
        assert session.execute(found.where(Job.args.contains({"user": {"id": 1}}))).all() == [(1, None, 1)]
        assert session.execute(found.where(Job.args["n"].astext == "0")).all() == [(0, None, 0)]


def test_moments_are_compared_in_utc_whatever_the_sessions_time_zone(home: Home) -> None:
    with Session(home.engine) as session:
        session.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
        moment = datetime(2031, 5, 6, 7, tzinfo=UTC)
        session.add(Job("moments", scheduled_at=moment))
        session.flush()
        session.expire_all()

        job = session.scalars(select(Job).where(Job.scheduled_at == moment)).one()
        assert job.scheduled_at == moment
        raw = literal_column("scheduled_at::text")
        assert session.scalar(select(raw).select_from(Job).where(Job.id == job.id)) == "2031-05-06 07:00:00"


def test_showing_a_job_never_queries_even_when_it_was_expired(home: Home) -> None:
    with Session(home.engine) as session:
        job = Job("app.Worker")
        session.add(job)
        session.flush()
        session.expire(job)
        home.statements.clear()

        assert (
            str(job)
            == f"Job(id={job.__dict__.get('id', inspect(job).identity[0])}, worker=?, args=?, queue=?, state=?)"
        )
        assert "worker=?" in repr(job)
        assert home.statements == []
        session.rollback()


def test_a_flush_that_fails_leaves_the_errors_of_a_job_readable(home: Home) -> None:
    with Session(home.engine) as session:
        broken, plain = Job("w", errors=[ENTRY], id=1), Job("w", id=1)
        session.add_all([broken, plain])
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()

        assert broken.errors == [ENTRY]
        assert plain.errors == []


def test_bulk_updates_find_the_type_of_errors_themselves(make: str) -> None:
    home = open_engine(make, "psycopg")
    with Session(home.engine) as session:
        session.add(Job("w"))
        session.flush()
        session.execute(update(Job).values(errors=[ENTRY]).execution_options(synchronize_session=False))
        session.expire_all()
        assert session.scalars(select(Job)).first().errors == [ENTRY]  # type: ignore[union-attr]
    home.engine.dispose()


def test_the_other_tables_round_trip(home: Home) -> None:
    moment = datetime(2030, 1, 2, tzinfo=UTC)
    key = uuid.uuid4()
    with Session(home.engine) as session:
        session.add_all(
            [
                Producer(uuid=key, node="n", queue="q", meta={"limit": 5}),
                Leader(node="n", elected_at=moment, expires_at=moment),
                Peer(name="Oban", node="n", started_at=moment, expires_at=moment),
                Queue(name="q", meta={"Oban": {"paused": True}}),
                Cron(name="c", expression="* * * * *", worker="w", last_at=moment),
            ]
        )
        session.flush()
        session.expire_all()
        producer = session.get_one(Producer, key)

        assert (producer.name, producer.meta, producer.started_at.tzinfo) == ("Oban", {"limit": 5}, UTC)
        assert session.get_one(Leader, "Oban").expires_at == moment
        assert session.get_one(Peer, "Oban").started_at == moment
        assert session.get_one(Queue, "q").meta == {"Oban": {"paused": True}}
        assert session.get_one(Cron, "c").last_at == moment
        assert session.get_one(Cron, "c").timezone == "Etc/UTC"


class Own(DeclarativeBase):
    """An application's base, with a MetaData of its own."""

    metadata = MetaData()


class Report(Own):
    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey(Job.id, ondelete="SET NULL"))
    title: Mapped[str]
    job: Mapped[Job | None] = relationship(Job)


def test_an_application_s_tables_point_to_jobs_and_join_them(database_url: str) -> None:
    home = open_engine(database_url, "psycopg")
    Own.metadata.create_all(home.engine)
    with Session(home.engine) as session:
        report = Report(title="sales", job=Job("app.Export", args={"year": 2030}))
        session.add(report)
        session.commit()

        assert report.job_id is not None
        joined = select(Report.title, Job.state).join(Job, Report.job_id == Job.id)
        assert session.execute(joined).all() == [("sales", JobState.AVAILABLE)]
        assert session.scalars(select(Job).join(Report, Report.job_id == Job.id)).one().args == {"year": 2030}
        session.delete(report.job)
        session.flush()
        session.expire_all()
        assert report.job is None
    home.engine.dispose()


def test_elements_of_arrays_are_reached_in_every_table_of_the_family(make: str) -> None:
    entries = [{"at": "1", "attempt": 1, "error": "first"}, {"at": "2", "attempt": 2, "error": "second"}]
    engine = create_engine(sync_url(make))
    with Session(engine) as session:
        kept = Job("w", tags=["x", "y"], attempted_by=["node", "uuid"], errors=entries, attempt=2)
        session.add(kept)
        session.flush()

        def answer(*asked: Any) -> tuple[Any, ...]:
            return tuple(session.execute(select(*asked).where(Job.id == kept.id)).one())

        assert answer(Job.tags[1], Job.tags[Job.attempt], Job.attempted_by[2]) == ("x", "y", "uuid")
        assert answer(Job.tags[3], Job.tags[1:1], Job.tags.concat(["z"])) == (None, ["x"], ["x", "y", "z"])
        assert answer(Job.errors[1], Job.errors[Job.attempt], Job.errors[3]) == (entries[0], entries[1], None)
        assert answer(Job.errors[2]["error"].astext, Job.errors[1]["attempt"].as_integer()) == ("second", 1)
        assert answer(Job.errors[2:], Job.errors[:1], Job.errors[:0]) == ([entries[1]], [entries[0]], [])
        found = select(Job.id).where(Job.tags.contains(["y"]), Job.tags.overlap(["x", "q"]), any_(Job.tags) == "x")
        assert session.scalar(found.where(Job.errors.contains([{"error": "second"}]))) == kept.id
        assert session.scalar(found.where(Job.errors.contains([{"error": "third"}]))) is None
        session.rollback()
    engine.dispose()


@pytest.mark.parametrize("options", [{}, {"use_insertmanyvalues": False}, {"insertmanyvalues_page_size": 1}])
def test_every_way_of_inserting_leaves_the_jobs_with_all_that_the_database_has_set(
    database_url: str, options: dict[str, Any]
) -> None:
    entries = [{"at": "1", "attempt": 1, "error": "e"}]
    engine = create_engine(sync_url(database_url), **options)
    with Session(engine) as session:
        jobs = [Job("w"), Job("w", id=2**40), Job("w", schedule_in=60), Job("w", schedule_in=90), Job("w")]
        jobs[4] = Job("w", errors=entries, inserted_at=datetime(2024, 1, 1, tzinfo=UTC))
        session.add_all(jobs)
        session.flush()

        loaded = [dict(vars(job)) for job in jobs]  # what needs no query
        assert all({column.key for column in Job.__table__.columns} <= each.keys() for each in loaded)
        began = session.scalar(select(func.timezone("UTC", func.now()))).replace(tzinfo=UTC)
        assert [each["inserted_at"] for each in loaded[:4]] == [began] * 4
        assert loaded[0]["scheduled_at"] == loaded[1]["scheduled_at"] == began
        assert 60 <= (loaded[2]["scheduled_at"] - began).total_seconds() < 90
        assert loaded[4]["inserted_at"] == loaded[4]["scheduled_at"] == datetime(2024, 1, 1, tzinfo=UTC)
        assert [each["errors"] for each in loaded] == [[], [], [], [], entries]
        session.expire_all()
        assert [each["scheduled_at"] for each in loaded] == [job.scheduled_at for job in jobs]
        assert jobs[4].errors == entries
    engine.dispose()
