"""`oban_crons`, `oban_queues` and `oban_workflows` are Oban Pro's; ours have names of their own."""

from __future__ import annotations

from oban_sa.migrations import LATEST, TABLES, installed
from tests.migrations.project import connecting, down, lacking, query, run_script, snapshot, tables, up

PRO = """
CREATE TABLE public.oban_crons (
    name text PRIMARY KEY, expression text, worker text, opts jsonb, paused boolean, lock_version int
);
CREATE TABLE public.oban_queues (name text PRIMARY KEY, opts jsonb, "only" jsonb, lock_version int);
CREATE TABLE public.oban_workflows (id text PRIMARY KEY);
INSERT INTO public.oban_crons (name) VALUES ('theirs');
INSERT INTO public.oban_queues (name) VALUES ('theirs');
"""
FORMER = """
ALTER TABLE oban_sa_queues RENAME TO oban_queues;
ALTER TABLE oban_queues RENAME CONSTRAINT oban_sa_queues_pkey TO oban_queues_pkey;
ALTER TABLE oban_sa_crons RENAME TO oban_crons;
ALTER TABLE oban_crons RENAME CONSTRAINT oban_sa_crons_pkey TO oban_crons_pkey;
COMMENT ON CONSTRAINT oban_jobs_pkey ON oban_jobs IS NULL;
"""


def test_beside_pro_s_tables_ours_are_made_and_dropped_and_theirs_stay(empty_database_url: str) -> None:
    run_script(empty_database_url, PRO)
    before = snapshot(empty_database_url)
    up(empty_database_url)
    assert lacking(empty_database_url) == []
    assert set(before) <= set(snapshot(empty_database_url))
    assert {f"public.{table}" for table in TABLES if "alembic" not in table} <= tables(empty_database_url)

    down(empty_database_url)
    assert snapshot(empty_database_url) == before
    for table in ("oban_crons", "oban_queues"):
        assert query(empty_database_url, f"SELECT name FROM public.{table}") == ["theirs"]


def test_tables_that_bear_the_former_names_are_renamed_with_their_rows(database_url: str) -> None:
    fresh = snapshot(database_url)
    query(database_url, "INSERT INTO oban_sa_queues (name) VALUES ('paused')")
    run_script(database_url, FORMER)
    assert "the table oban_sa_queues is missing" in lacking(database_url)

    up(database_url)
    assert snapshot(database_url) == fresh
    assert query(database_url, "SELECT name FROM oban_sa_queues") == ["paused"]
    down(database_url)
    assert {table for table in tables(database_url) if "alembic_version" not in table} == set()


def test_tables_that_bear_the_former_names_are_dropped_by_a_downgrade(database_url: str) -> None:
    run_script(database_url, FORMER)
    down(database_url)
    assert {table for table in tables(database_url) if "alembic_version" not in table} == set()


def test_a_table_of_pro_on_which_an_early_version_was_written_is_neither_renamed_nor_dropped(
    empty_database_url: str,
) -> None:
    run_script(empty_database_url, PRO)
    query(empty_database_url, "COMMENT ON TABLE public.oban_queues IS 'oban_sa 1'")
    up(empty_database_url)
    with connecting(empty_database_url) as connection:
        assert installed(connection) == LATEST
    down(empty_database_url)
    assert query(empty_database_url, "SELECT name FROM public.oban_queues") == ["theirs"]
