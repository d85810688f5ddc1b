"""Tables that another Oban made are taken over as they are: what is missing is added, nothing of theirs is altered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, event, text

from oban_sa.catalog.version import RECORD
from oban_sa.migrations import LATEST, installed, missing
from tests.migrations.project import connecting, query, run_script, snapshot, tables

FOLDER = Path(__file__).parent


@contextmanager
def migrating(url: str) -> Iterator[tuple[Connection, Operations, list[str]]]:
    """An Alembic operations object in a transaction of Alembic's own, and the statements it runs."""
    statements: list[str] = []
    with connecting(url) as connection:
        event.listen(connection, "before_cursor_execute", lambda _c, _cur, statement, *_: statements.append(statement))
        context = MigrationContext.configure(connection)
        with context.begin_transaction():
            yield connection, Operations(context), statements


def upgrade(url: str, version: int = LATEST) -> list[str]:
    with migrating(url) as (_, operations, statements):
        operations.upgrade_oban(version=version)  # type: ignore[attr-defined]
    return statements


def downgrade(url: str) -> None:
    with migrating(url) as (_, operations, _statements):
        operations.downgrade_oban()  # type: ignore[attr-defined]


def sentences(url: str, *, enqueueing: bool = False) -> list[str]:
    with connecting(url) as connection:
        return missing(connection, enqueueing=enqueueing)


@pytest.fixture(params=["elixir_v14.sql", "python_0_7.sql"])
def theirs(request: pytest.FixtureRequest, empty_database_url: str) -> str:
    """A database whose tables another Oban made, with a job in them."""
    run_script(empty_database_url, (FOLDER / request.param).read_text())
    query(empty_database_url, "INSERT INTO public.oban_jobs (worker) VALUES ('Theirs')")
    return empty_database_url


def test_adopting_adds_what_is_missing_and_alters_nothing(theirs: str) -> None:
    before = snapshot(theirs)
    upgrade(theirs)
    after = snapshot(theirs)

    assert set(before) <= set(after)
    assert sentences(theirs) == []
    assert query(theirs, "SELECT worker FROM public.oban_jobs") == ["Theirs"]


def test_a_downgrade_leaves_their_tables_as_they_were(theirs: str) -> None:
    before = snapshot(theirs)
    upgrade(theirs)
    downgrade(theirs)

    assert snapshot(theirs) == before
    assert query(theirs, "SELECT worker FROM public.oban_jobs") == ["Theirs"]


def test_a_table_with_rows_gets_its_indexes_concurrently(empty_database_url: str) -> None:
    run_script(empty_database_url, (FOLDER / "elixir_v14.sql").read_text())
    query(empty_database_url, "INSERT INTO public.oban_jobs (worker) VALUES ('Theirs')")
    built = [statement for statement in upgrade(empty_database_url) if statement.startswith("CREATE INDEX")]

    jobs = [statement for statement in built if ".oban_jobs " in statement]
    assert len(jobs) == 9
    assert all("CONCURRENTLY" in statement for statement in jobs)


def test_a_table_of_ours_with_rows_gets_its_index_concurrently(empty_database_url: str) -> None:
    upgrade(empty_database_url, 5)
    query(
        empty_database_url,
        "INSERT INTO oban_sa_flows (id, root_id, path, kind, lane) "
        "SELECT id, id, ARRAY[id], 'workflow', 1 FROM gen_random_uuid() AS id",
    )
    built = [statement for statement in upgrade(empty_database_url) if statement.startswith("CREATE INDEX")]

    assert [statement.split(" ON ")[0] for statement in built] == [
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS oban_sa_flows_open_index"
    ]


def test_an_empty_table_gets_its_indexes_in_the_transaction(empty_database_url: str) -> None:
    run_script(empty_database_url, (FOLDER / "elixir_v14.sql").read_text())
    built = [statement for statement in upgrade(empty_database_url) if statement.startswith("CREATE INDEX")]

    assert len(built) == 10
    assert not any("CONCURRENTLY" in statement for statement in built)


def test_a_transaction_of_the_caller_is_not_committed_for_the_sake_of_an_index(empty_database_url: str) -> None:
    run_script(empty_database_url, (FOLDER / "elixir_v14.sql").read_text())
    query(empty_database_url, "INSERT INTO public.oban_jobs (worker) VALUES ('Theirs')")
    with connecting(empty_database_url) as connection, connection.begin() as transaction:
        Operations(MigrationContext.configure(connection)).upgrade_oban()  # type: ignore[attr-defined]
        assert installed(connection) == LATEST
        transaction.rollback()
    with connecting(empty_database_url) as connection:
        assert installed(connection) == 0


def test_an_index_that_a_failed_build_left_invalid_is_made_anew(empty_database_url: str) -> None:
    run_script(empty_database_url, (FOLDER / "elixir_v14.sql").read_text())
    query(
        empty_database_url,
        "CREATE INDEX oban_jobs_staging_index ON public.oban_jobs (scheduled_at, id)",
    )
    query(
        empty_database_url,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.oban_jobs_staging_index'::regclass",
    )
    query(empty_database_url, "INSERT INTO public.oban_jobs (worker) VALUES ('Theirs')")
    assert "the index oban_jobs_staging_index was left invalid" in "\n".join(sentences(empty_database_url))

    upgrade(empty_database_url)
    assert sentences(empty_database_url) == []


def test_our_tables_satisfy_what_the_others_look_for(database_url: str) -> None:
    # Elixir's migration compares this comment with its own newest version.
    assert query(database_url, "SELECT obj_description('public.oban_jobs'::regclass, 'pg_class')") == ["14"]
    # Both write explicit column lists and leave out what has a default.
    query(database_url, "INSERT INTO oban_jobs (id, worker, errors) VALUES (5, 'w', '{}')")
    query(database_url, "UPDATE oban_jobs SET errors = errors || CAST('{\"at\": 1}' AS jsonb)")
    assert query(database_url, "SELECT cardinality(errors) FROM oban_jobs") == [1]


def test_enqueueing_needs_nothing_but_their_table(theirs: str) -> None:
    assert sentences(theirs, enqueueing=True) == []
    found = sentences(theirs)
    assert "the table oban_sa_queues is missing" in found
    assert "the table oban_sa_crons is missing" in found


def test_upgrading_again_does_nothing(database_url: str) -> None:
    before = snapshot(database_url)
    assert [statement for statement in upgrade(database_url) if "CREATE" in statement] == []
    # Even a schema that forgot its version comes out the same.
    query(database_url, f"COMMENT ON TABLE {RECORD} IS 'oban_sa'")
    upgrade(database_url)
    assert snapshot(database_url) == before


def test_a_downgrade_drops_everything_that_was_ours(database_url: str) -> None:
    downgrade(database_url)
    assert {table for table in tables(database_url) if "alembic_version" not in table} == set()
    assert query(database_url, "SELECT to_regtype('public.oban_job_state')") == [None]
    downgrade(database_url)


def test_the_schema_may_come_from_the_connection(empty_database_url: str) -> None:
    with connecting(empty_database_url) as connection, connection.begin():
        translated = connection.execution_options(schema_translate_map={"public": "jobs"})
        Operations(MigrationContext.configure(translated)).upgrade_oban()  # type: ignore[attr-defined]
    assert {table.partition(".")[0] for table in tables(empty_database_url)} == {"jobs"}


def test_a_schema_that_exists_needs_no_right_to_make_one(empty_database_url: str) -> None:
    role = "oban_limited_" + empty_database_url.rpartition("/")[2]
    query(empty_database_url, f"CREATE ROLE {role}")
    try:
        query(empty_database_url, f"CREATE SCHEMA jobs AUTHORIZATION {role}")
        with migrating(empty_database_url) as (connection, operations, _):
            connection.execute(text(f"SET LOCAL ROLE {role}"))
            operations.upgrade_oban(schema="jobs")  # type: ignore[attr-defined]
        assert "jobs.oban_jobs" in tables(empty_database_url)
    finally:
        query(empty_database_url, f"DROP OWNED BY {role} CASCADE")
        query(empty_database_url, f"DROP ROLE {role}")
