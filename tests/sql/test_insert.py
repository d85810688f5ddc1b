"""The statements that insert jobs from values, on every driver and in the tables of the whole family."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.orm import Session

from oban_sa.models import Job
from oban_sa.sql import insert, notify
from oban_sa.sql.insert import Kind
from oban_sa.wire.messages import News
from tests.places import AppDatabase
from tests.support import plain_url, sync_url

SCHEMAS = Path(__file__).parent.parent / "migrations"
PLAIN = Kind("app.Work", "default", "available", 20, 0, "{}", "{}", None, None)
TAGS = ['"', "a,b", "\\", "null", "é"]
RICH = Kind("ünï", 'a"b', "suspended", 3, 9, insert.array_text(TAGS), '{"m":[1]}', None, None)
ONCE = PLAIN._replace(state="scheduled", scheduled_at="2999-01-02T03:04:05.000678")
SOON = PLAIN._replace(state="scheduled", span=3600.5)


def one(kind: Kind, args: str) -> dict[str, Any]:
    return {**kind._asdict(), "args": args}


FORMS: dict[str, Any] = {
    "one": lambda kind, args: one(kind, args[0]),
    "alike": insert.alike,
    "different": lambda kind, args: insert.different((kind, each) for each in args),
}


def written(connection: Connection, form: Any, parameters: dict[str, Any]) -> list[Any]:
    return list(connection.execute(insert.inserting_values(form, returning=True, notifying=False), parameters))


@pytest.mark.parametrize("form", FORMS)
def test_each_column_is_as_it_was_given(app_db: AppDatabase, form: Any) -> None:
    def work(session: Session) -> list[Job]:
        for kind in (RICH, ONCE, SOON):
            written(session.connection(), form, FORMS[form](kind, ['{"é":[1,null,"\'"]}']))
        return list(session.query(Job).order_by(Job.id))

    rich, once, soon = app_db.run(work)

    assert (rich.worker, rich.queue, rich.state, rich.max_attempts, rich.priority) == ("ünï", 'a"b', "suspended", 3, 9)
    assert (rich.args, rich.meta, rich.tags) == ({"é": [1, None, "'"]}, {"m": [1]}, TAGS)
    assert (rich.attempt, rich.attempted_by, rich.errors, rich.completed_at) == (0, [], [], None)
    assert rich.scheduled_at == rich.inserted_at
    assert once.scheduled_at == datetime(2999, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert timedelta(seconds=3600.5) <= soon.scheduled_at - soon.inserted_at < timedelta(seconds=3700)


@pytest.mark.parametrize("form", ["alike", "different"])
def test_ids_and_moments_come_back_in_the_order_that_was_given(app_db: AppDatabase, form: Any) -> None:
    def work(session: Session) -> None:
        args = [f'{{"n":{number}}}' for number in range(500)]
        rows = written(session.connection(), form, FORMS[form](SOON, args))
        found = session.query(Job).order_by(Job.id).all()
        assert [job.args["n"] for job in found] == list(range(500))
        assert [(job.id, job.inserted_at, job.scheduled_at) for job in found] == [
            (row.id, row.inserted_at.replace(tzinfo=UTC), row.scheduled_at.replace(tzinfo=UTC)) for row in rows
        ]

    app_db.run(work)


def test_jobs_that_differ_keep_their_order_too(app_db: AppDatabase) -> None:
    kinds = [PLAIN, RICH, ONCE, SOON] * 50

    def work(session: Session) -> None:
        parameters = insert.different((kind, "{}") for kind in kinds)
        written(session.connection(), "different", parameters)
        found = [job.state for job in session.query(Job).order_by(Job.id)]
        assert found == [kind.state for kind in kinds]

    app_db.run(work)


@pytest.mark.parametrize("returning", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_each_queue_is_announced_once_by_the_same_statement(app_db: AppDatabase, form: Any, returning: bool) -> None:
    queues = "a" if form == "one" else "ab"
    notice = notify.counted({queue: News(None) for queue in queues}, "public")

    def work(session: Session) -> None:
        statement = insert.inserting_values(form, returning=returning, notifying=True)
        told = notice.parameters_of_one() if form == "one" else notice.parameters()
        session.connection().execute(statement, FORMS[form](PLAIN, ["{}", "{}"]) | told)
        session.commit()

    with app_db.counting() as sent:
        app_db.run(work)

    assert len(sent) == 1
    assert len(app_db.jobs()) == (1 if form == "one" else 2)
    assert app_db.heard() == [("public.oban_insert", f'{{"queue":"{queue}"}}') for queue in queues]


@pytest.mark.parametrize("form", FORMS)
def test_a_statement_without_rows_and_notifications_inserts_too(app_db: AppDatabase, form: Any) -> None:
    def work(session: Session) -> None:
        statement = insert.inserting_values(form, returning=False, notifying=False)
        session.connection().execute(statement, FORMS[form](PLAIN, ['{"a":1}']))
        session.commit()

    app_db.run(work)

    assert [job["args"] for job in app_db.jobs()] == [{"a": 1}]
    assert app_db.heard() == []


@pytest.mark.parametrize("family", ["elixir_v14", "python_0_7"])
async def test_the_tables_of_either_family_take_them_and_choose_the_ids(empty_database_url: str, family: str) -> None:
    raw = await asyncpg.connect(plain_url(empty_database_url))
    try:
        await raw.execute((SCHEMAS / f"{family}.sql").read_text())
    finally:
        await raw.close()
    engine = create_engine(sync_url(empty_database_url))
    with engine.begin() as connection:
        rows = [row for form in FORMS for row in written(connection, form, FORMS[form](RICH, ['{"a":1}']))]
        rows += written(connection, "one", one(SOON, "{}"))
    engine.dispose()
    assert [row.id for row in rows] == [1, 2, 3, 4]
