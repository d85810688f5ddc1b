"""A migration looks at what is there, not only at the version: what is missing comes back, what is not ours stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from oban_sa.errors import SchemaError
from oban_sa.migrations import LATEST, installed, migrate
from tests.migrations.project import OURS, connecting, down, lacking, query, run_script, snapshot, tables, up

FOLDER = Path(__file__).parent
ELIXIR_GOES_DOWN = """
DROP TABLE public.oban_peers;
DROP TABLE public.oban_jobs;
DROP TYPE public.oban_job_state;
"""
REMADE = {
    "dropped": "DROP TABLE public.oban_jobs;",
    "dropped with its type": "DROP TABLE public.oban_jobs; DROP TYPE public.oban_job_state;",
    "an index dropped": "DROP INDEX public.oban_jobs_staging_index;",
    "a table of ours dropped": "DROP TABLE public.oban_sa_crons;",
    "the function dropped": "DROP FUNCTION public.oban_count_estimate(text, text);",
    "made by Elixir": ELIXIR_GOES_DOWN + (FOLDER / "elixir_v14.sql").read_text(),
    "made by oban-py": ELIXIR_GOES_DOWN + "DROP TABLE public.oban_leaders; DROP TABLE public.oban_producers;\n"
    "DROP FUNCTION public.oban_count_estimate(text, text);\n" + (FOLDER / "python_0_7.sql").read_text(),
}


@pytest.mark.parametrize("how", REMADE)
def test_what_was_dropped_or_made_anew_is_mended_by_the_next_migration(database_url: str, how: str) -> None:
    run_script(database_url, REMADE[how].replace("; ", ";\n"))
    query(database_url, "DO $$ BEGIN INSERT INTO oban_jobs (worker) VALUES ('w'); EXCEPTION WHEN others THEN END $$")
    before = {table: len(query(database_url, f"SELECT 1 FROM {table}")) for table in tables(database_url)}
    up(database_url)

    assert lacking(database_url) == []
    assert query(database_url, "SELECT oban_count_estimate('available', 'default') >= 0") == [True]
    for table, rows in before.items():
        assert len(query(database_url, f"SELECT 1 FROM {table}")) == rows


@pytest.mark.parametrize("how", ["made by Elixir", "made by oban-py"])
def test_a_table_that_another_made_in_the_place_of_ours_outlives_our_downgrade(database_url: str, how: str) -> None:
    run_script(database_url, REMADE[how].replace("; ", ";\n"))
    query(database_url, "INSERT INTO oban_jobs (worker) VALUES ('Theirs')")
    theirs = query(
        database_url, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'oban_jobs'::regclass"
    )
    up(database_url)
    down(database_url)

    assert query(database_url, "SELECT worker FROM oban_jobs") == ["Theirs"]
    assert (
        query(database_url, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'oban_jobs'::regclass")
        == theirs
    )
    assert "public.oban_sa_queues" not in tables(database_url)


def test_a_table_that_uses_our_type_keeps_it(database_url: str) -> None:
    query(database_url, "DROP TABLE oban_jobs")
    query(database_url, "CREATE TABLE oban_jobs (id int, state oban_job_state, seen oban_job_state[])")
    query(database_url, "CREATE TABLE mine (seen oban_job_state[])")
    down(database_url)
    assert tables(database_url) >= {"public.oban_jobs", "public.mine"}
    query(database_url, "DROP TABLE oban_jobs")
    query(database_url, "DROP TABLE mine")
    down(database_url)
    assert query(database_url, "SELECT to_regtype('public.oban_job_state')") == [None]


@pytest.mark.parametrize("table", OURS)
def test_a_stranger_s_table_with_a_name_of_ours_is_said_and_never_touched(empty_database_url: str, table: str) -> None:
    query(empty_database_url, f"CREATE TABLE public.{table} (mine text)")
    query(empty_database_url, f"INSERT INTO public.{table} VALUES ('mine')")
    before = snapshot(empty_database_url)
    with pytest.raises(SchemaError, match=rf"the table {table} has no column .*(.|\n)*left alone"):
        up(empty_database_url)
    assert snapshot(empty_database_url) == before

    down(empty_database_url)
    assert snapshot(empty_database_url) == before
    assert query(empty_database_url, f"SELECT mine FROM public.{table}") == ["mine"]


def test_tables_that_fit_but_that_we_did_not_make_are_adopted_and_stay(empty_database_url: str) -> None:
    up(empty_database_url)
    for table in set(OURS) - {"oban_jobs"}:
        query(empty_database_url, f"COMMENT ON TABLE {table} IS NULL")
    query(empty_database_url, "COMMENT ON CONSTRAINT oban_jobs_pkey ON oban_jobs IS NULL")
    before = tables(empty_database_url)
    assert lacking(empty_database_url) == [f"the tables are at version 0; this release works with version {LATEST}"]
    up(empty_database_url)
    with connecting(empty_database_url) as connection:
        assert installed(connection) == LATEST
    assert lacking(empty_database_url) == []
    up(empty_database_url)

    down(empty_database_url)
    assert tables(empty_database_url) == before
    with connecting(empty_database_url) as connection:
        assert installed(connection) == 0


def test_a_comment_of_somebody_else_s_where_the_version_is_kept_is_not_overwritten(database_url: str) -> None:
    query(database_url, "COMMENT ON TABLE oban_sa_queues IS 'ask Ada'")
    with pytest.raises(SchemaError, match=rf"COMMENT ON TABLE .public.\.oban_sa_queues IS 'oban_sa {LATEST}'"):
        up(database_url)
    assert query(database_url, "SELECT obj_description('oban_sa_queues'::regclass)") == ["ask Ada"]


def test_an_index_of_that_name_on_another_table_is_not_taken_for_ours(database_url: str) -> None:
    query(database_url, "DROP INDEX oban_jobs_staging_index")
    query(database_url, "CREATE TABLE mine (id int)")
    query(database_url, "CREATE INDEX oban_jobs_staging_index ON mine (id)")
    assert lacking(database_url) == ["the index oban_jobs_staging_index is missing"]
    with pytest.raises(SchemaError, match="the name oban_jobs_staging_index is taken"):
        up(database_url)
    down(database_url)
    assert query(database_url, "SELECT to_regclass('oban_jobs_staging_index') IS NOT NULL") == [True]


@pytest.mark.parametrize("schema", ["public", "a\"b'c\\ %s $oban$"])
def test_the_estimate_counts_the_jobs_of_its_own_schema(empty_database_url: str, schema: str) -> None:
    quoted = '"' + schema.replace('"', '""') + '"'
    with connecting(empty_database_url) as connection:
        migrate(connection, schema)
    query(
        empty_database_url,
        f"INSERT INTO {quoted}.oban_jobs (worker, queue) SELECT 'w', 'it''s' FROM generate_series(1, 3000)",
    )
    query(empty_database_url, f"ANALYZE {quoted}.oban_jobs")
    counted = query(empty_database_url, f"SELECT {quoted}.oban_count_estimate('available', 'it''s')")
    assert counted == [3000]


# As the leader of Oban Met does at run time; the body is none.
METS = """
CREATE OR REPLACE FUNCTION public.oban_count_estimate(state text, queue text) RETURNS integer AS 'BEGIN RETURN 7; END'
LANGUAGE plpgsql
"""


def test_another_s_estimate_may_replace_ours_and_is_neither_replaced_nor_dropped(database_url: str) -> None:
    query(database_url, METS)
    query(database_url, "DROP TABLE oban_sa_crons")
    up(database_url)
    down(database_url)
    assert query(database_url, "SELECT public.oban_count_estimate('available', 'default')") == [7]


def test_our_estimate_goes_with_our_tables(database_url: str) -> None:
    assert query(database_url, "SELECT oban_count_estimate('completed', 'none')") == [1]
    down(database_url)
    assert query(database_url, "SELECT to_regprocedure('oban_count_estimate(text, text)')") == [None]
