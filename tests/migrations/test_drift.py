"""The models and what the migrations make are the same, and stay so."""

from __future__ import annotations

import re
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Enum, MetaData, create_mock_engine, text

from oban_sa.migrations import LATEST
from oban_sa.models import Base, Job, Queue, schema_map
from tests.migrations.project import connecting, query, snapshot


def differences(url: str, schema: str, metadata: MetaData) -> list[Any]:
    """Compare a schema with models; the search path lies elsewhere, so that the schema has a name to be compared."""
    with connecting(url, connect_args={"options": "-csearch_path=elsewhere"}) as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS elsewhere"))
        connection.commit()
        connection.dialect.default_schema_name = "elsewhere"
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, type_, _: name == schema if type_ == "schema" else "alembic" not in name,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        return list(compare_metadata(context, metadata))


def in_schema(schema: str) -> MetaData:
    metadata = MetaData()
    for table in Base.metadata.sorted_tables:
        for column in table.to_metadata(metadata, schema=schema).columns:
            if isinstance(column.type, Enum):
                column.type = column.type.copy()
                column.type.schema = schema
    return metadata


@pytest.fixture
def migrated(empty_database_url: str, schema: str) -> str:
    with connecting(empty_database_url) as connection, connection.begin():
        Operations(MigrationContext.configure(connection)).upgrade_oban(schema=schema)  # type: ignore[attr-defined]
    return empty_database_url


@pytest.mark.parametrize("schema", ["public", "jobs"])
def test_autogenerate_finds_nothing_to_change(migrated: str, schema: str) -> None:
    assert differences(migrated, schema, in_schema(schema)) == []


@pytest.mark.parametrize("schema", ["public"])
def test_autogenerate_would_find_a_difference(migrated: str, schema: str) -> None:
    query(migrated, "ALTER TABLE oban_sa_queues ADD COLUMN surprise text")
    query(migrated, "DROP INDEX oban_jobs_staging_index")
    found = str(differences(migrated, schema, in_schema(schema)))
    assert "surprise" in found
    assert "oban_jobs_staging_index" in found


@pytest.mark.parametrize("schema", ["public"])
def test_create_all_makes_the_very_same(migrated: str, schema: str) -> None:
    query(migrated, "CREATE SCHEMA modelled")
    with connecting(migrated) as connection, connection.begin():
        Base.metadata.create_all(connection.execution_options(schema_translate_map=schema_map("modelled")))

    def described(schema: str) -> list[str]:
        # Only the migrations mark indexes as theirs. The code of functions has the name of the schema.
        lines = [re.sub(r"^(relation \w+_index i p.*) oban_sa$", r"\1", line) for line in snapshot(migrated, schema)]
        return sorted(re.sub(rf"\b{schema}\b", "theirs", line) for line in lines)

    assert described("modelled") == described("public")


def test_drop_all_leaves_nothing_and_create_all_brings_functions_back(empty_database_url: str) -> None:
    def functions() -> list[str]:
        return query(empty_database_url, "SELECT proname FROM pg_proc WHERE proname ~ '^oban_' ORDER BY 1")

    with connecting(empty_database_url) as connection, connection.begin():
        Base.metadata.create_all(connection)
    made = functions()
    assert made == ["oban_count_estimate", "oban_sa_free", "oban_sa_rate", "oban_sa_ring", "oban_sa_slot"]
    query(empty_database_url, "DROP FUNCTION oban_sa_free(text, integer)")
    with connecting(empty_database_url) as connection, connection.begin():
        Base.metadata.create_all(connection)
    assert functions() == made
    with connecting(empty_database_url) as connection, connection.begin():
        Base.metadata.drop_all(connection)
    assert functions() == []


def test_create_all_and_drop_all_leave_the_function_of_another_program_alone(empty_database_url: str) -> None:
    query(
        empty_database_url,
        "CREATE FUNCTION oban_sa_free(text, integer) RETURNS integer LANGUAGE sql AS 'SELECT 7'",
    )
    with connecting(empty_database_url) as connection, connection.begin():
        Base.metadata.create_all(connection)
        Base.metadata.drop_all(connection)
    assert query(empty_database_url, "SELECT oban_sa_free('any', 1)") == [7]


def test_what_create_all_would_make_can_be_printed() -> None:
    printed: list[str] = []
    engine = create_mock_engine(
        "postgresql://", lambda each, *_: printed.append(str(each.compile(dialect=engine.dialect)))
    )
    Base.metadata.create_all(engine, checkfirst=False)
    assert sum('FUNCTION "public".oban_sa_free' in each for each in printed) == 1


def test_the_model_carries_the_version_that_the_migrations_record() -> None:
    assert Queue.__table__.comment == f"oban_sa {LATEST}"  # type: ignore[attr-defined]
    assert Job.__table__.comment == "14"  # type: ignore[attr-defined]
