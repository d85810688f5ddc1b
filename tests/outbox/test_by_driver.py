"""A flush whose INSERT of jobs the driver runs by itself: when it may, and that nothing differs but what it costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from oban_sa.models import Job
from oban_sa.models.base import schema_map
from oban_sa.outbox import rows as outbox_rows
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from oban_sa.outbox.rows import rows, written
from tests.factories import a_job, announced
from tests.places import AppDatabase


@pytest.fixture
def by_driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that a driver has run by itself."""
    ran: list[str] = []
    run = outbox_rows._by_driver

    def note(connection: Connection, statement: str, parameters: Any) -> Any:
        ran.append(statement)
        return run(connection, statement, parameters)

    monkeypatch.setattr(outbox_rows, "_by_driver", note)
    return ran


def ignore(*_: Any, **__: Any) -> None: ...


@contextmanager
def listening(target: Any, name: str, listener: Callable[..., Any], **options: Any) -> Iterator[None]:
    event.listen(target, name, listener, **options)
    try:
        yield
    finally:
        event.remove(target, name, listener)


@pytest.fixture(params=["driver", "SQLAlchemy"])
def either(request: pytest.FixtureRequest, app_db: AppDatabase) -> Iterator[AppDatabase]:
    """A database whose jobs are written in each of the two ways."""
    if request.param == "driver":
        yield app_db
    else:
        with listening(app_db.engine, "after_cursor_execute", ignore):
            yield app_db


def test_the_driver_alone_writes_jobs_of_every_form(app_db: AppDatabase, by_driver: list[str]) -> None:
    def work(session: Session) -> None:
        for jobs in [a_job()], [a_job("a"), a_job("a")], [a_job("a"), a_job("b", schedule_in=60)]:
            enqueue_many(session, jobs)
            session.flush()
            assert all(job in session and job.id and job.scheduled_at.tzinfo for job in jobs)
            assert [job.errors for job in jobs] == [[] for _ in jobs]
        session.commit()

    app_db.run(work)
    assert len(by_driver) == 3
    assert [job["queue"] for job in app_db.jobs()] == ["default", "a", "a", "a", "b"]
    assert sorted(set(app_db.heard())) == announced("a", "default")


@pytest.mark.parametrize("name", ["before_cursor_execute", "after_cursor_execute", "before_execute", "after_execute"])
def test_who_listens_to_an_engine_or_to_all_is_told_as_ever(
    app_db: AppDatabase, by_driver: list[str], name: str
) -> None:
    told: list[Any] = []

    def note(*given: Any) -> None:
        told.append(str(given[2] if "cursor" in name else given[1]))

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()

    for target in app_db.engine, Engine:
        with listening(target, name, note):
            app_db.run(work)
        assert len([each for each in told if "INSERT INTO" in each]) == 1
        told.clear()
    assert by_driver == []
    app_db.run(work)
    assert len(by_driver) == 1
    assert len(app_db.jobs()) == 3


@pytest.mark.parametrize("name", ["do_execute", "handle_error"])
def test_who_listens_to_a_dialect_is_told_as_ever(app_db: AppDatabase, by_driver: list[str], name: str) -> None:
    told: list[Any] = []

    def note(*given: Any) -> None:
        told.append(given)

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        vars(enqueue(session, a_job()))["worker"] = ""
        session.flush()

    with listening(app_db.engine.dialect, name, note), pytest.raises(DBAPIError):
        app_db.run(work)
    assert told
    assert by_driver == []


def test_statements_are_logged_where_the_program_asks_for_it(
    app_db: AppDatabase, by_driver: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()

    with caplog.at_level(logging.INFO, logger="sqlalchemy.engine.Engine"):
        app_db.run(work)
    assert any("INSERT INTO public.oban_jobs" in each for each in caplog.messages)
    assert by_driver == []


def test_what_the_database_refuses_is_the_same_error_and_the_session_goes_on(either: AppDatabase) -> None:
    def work(session: Session) -> tuple[Any, ...]:
        enqueue(session, a_job("kept"))
        session.flush()
        refused = a_job("refused")
        vars(refused)["worker"] = ""  # which a constraint of the table refuses
        with pytest.raises(DBAPIError) as caught, session.begin_nested():
            enqueue(session, refused)
        assert refused not in session
        enqueue(session, a_job("after"))
        session.commit()
        error = caught.value
        assert not error.connection_invalidated
        return type(error), type(error.orig), "oban_jobs" in (error.statement or ""), bool(error.params)

    kind, cause, *rest = either.run(work)
    assert issubclass(kind, DBAPIError)
    assert isinstance(either.engine.dialect.loaded_dbapi.Error, type) and issubclass(
        cause, either.engine.dialect.loaded_dbapi.Error
    )
    assert rest == [True, True]
    assert [job["queue"] for job in either.jobs()] == ["kept", "after"]


def test_a_connection_that_was_ended_is_given_up(either: AppDatabase) -> None:
    def work(session: Session) -> None:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        either.execute(f"SELECT pg_terminate_backend({pid})")
        enqueue(session, a_job())
        with pytest.raises(DBAPIError) as caught:
            session.commit()
        assert caught.value.connection_invalidated
        session.rollback()
        enqueue(session, a_job("after"))
        session.commit()

    either.run(work)
    assert [job["queue"] for job in either.jobs()] == ["after"]


def test_where_no_transaction_is_open_sqlalchemy_begins_one_that_it_can_commit(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        connection = session.connection()
        connection.get_transaction().rollback()  # type: ignore[union-attr]
        for answer, _ in written(connection, rows([a_job()]) or [], None, returning=True):
            assert len(answer) == 1
        connection.commit()

    app_db.run(work)
    assert len(app_db.jobs()) == 1


def test_the_schema_is_the_one_in_which_the_session_reads(either: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()
        assert session.scalars(select(Job.queue)).all() == ["default"]

    # None is the schema that the connections have by default.
    either.run(work, bind=either.bind.execution_options(schema_translate_map={"public": None}))
    other = either.bind.execution_options(schema_translate_map=schema_map("elsewhere"))
    with pytest.raises(DBAPIError, match=r"elsewhere\.oban_jobs"):
        either.run(work, bind=other)
    assert len(either.jobs()) == 1
