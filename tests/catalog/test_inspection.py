"""What is missing is said precisely, and the migration to add can be pasted as it is printed."""

from __future__ import annotations

from textwrap import dedent

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations

from oban_sa.errors import InvalidOption
from oban_sa.migrations import LATEST, installed, instructions, missing
from oban_sa.migrations.history import VERSIONS
from tests.migrations.project import connecting, query, tables


def sentences(url: str, schema: str = "public") -> list[str]:
    with connecting(url) as connection:
        return missing(connection, schema)


def version(url: str, schema: str = "public") -> int:
    with connecting(url) as connection:
        return installed(connection, schema)


def test_a_migrated_database_lacks_nothing(database_url: str) -> None:
    assert sentences(database_url) == []
    assert version(database_url) == LATEST == len(VERSIONS)


def test_an_empty_database_has_no_version_and_says_so_once(empty_database_url: str) -> None:
    assert version(empty_database_url) == 0
    assert sentences(empty_database_url) == ["the schema 'public' has no table oban_jobs"]
    assert sentences(empty_database_url, "nowhere") == ["the schema 'nowhere' has no table oban_jobs"]


def test_each_thing_that_is_missing_gets_its_sentence(database_url: str) -> None:
    for statement in (
        "ALTER TABLE oban_jobs DROP COLUMN meta",
        "ALTER TABLE oban_jobs ALTER COLUMN discarded_at TYPE timestamp with time zone",
        "DROP INDEX oban_jobs_staging_index",
        "DROP TABLE oban_sa_crons",
        "DROP TABLE oban_peers",
        "COMMENT ON TABLE oban_sa_queues IS NULL",
    ):
        query(database_url, statement)

    assert sorted(sentences(database_url)) == [
        "the column oban_jobs.discarded_at is timestamp with time zone, not timestamp without time zone",
        "the index oban_jobs_halting_index is missing",
        "the index oban_jobs_partition_index is missing",
        "the index oban_jobs_running_index is missing",
        "the index oban_jobs_sequence_index is missing",
        "the index oban_jobs_sequence_running_index is missing",
        "the index oban_jobs_staging_index is missing",
        "the table oban_jobs has no column meta",
        "the table oban_peers is missing",
        "the table oban_sa_crons is missing",
        f"the tables are at version 0; this release works with version {LATEST}",
    ]


def test_a_state_that_an_older_oban_did_not_know_is_named(empty_database_url: str) -> None:
    query(empty_database_url, "CREATE TYPE oban_job_state AS ENUM ('available', 'scheduled', 'executing')")
    query(empty_database_url, "CREATE TABLE oban_jobs (state oban_job_state)")

    found = "\n".join(sentences(empty_database_url))
    assert "the type oban_job_state lacks 'suspended', 'retryable'" in found


@pytest.mark.parametrize("schema", ["public", "jobs"])
def test_the_migration_that_is_printed_works_when_pasted(empty_database_url: str, schema: str) -> None:
    printed = instructions(schema)
    code = dedent("\n".join(line for line in printed.splitlines() if not line or line.startswith("    ")))
    with connecting(empty_database_url) as connection, connection.begin():
        pasted = {"op": Operations(MigrationContext.configure(connection))}
        exec(code, pasted)
        pasted["upgrade"]()  # type: ignore[operator]
        assert missing(connection, schema) == []
        pasted["downgrade"]()  # type: ignore[operator]
    assert tables(empty_database_url) == set()


def test_a_downgrade_goes_back_to_the_version_that_was_found() -> None:
    assert "op.downgrade_oban(version=0)" in instructions()
    assert "op.downgrade_oban(version=1, schema='jobs')" in instructions("jobs", found=1)


@pytest.mark.parametrize("schema", ["  ", "a\0b", "s" * 49])
def test_a_schema_that_could_not_be_notified_is_refused(database_url: str, schema: str) -> None:
    with pytest.raises(InvalidOption, match="write a name of 1 to 48"):
        version(database_url, schema)


def test_the_longest_schema_fits_into_the_longest_channel() -> None:
    assert len("s" * 48 + ".oban_cronitor") <= 63
