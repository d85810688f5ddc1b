"""From each version to each other one and back, online and by scripts, on tables that have rows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from oban_sa.errors import SchemaError
from oban_sa.migrations import LATEST, installed, migrate, write_sql
from tests.migrations.project import Project, connecting, down, lacking, query, run_script, snapshot, up

FOLDER = Path(__file__).parent


def online(url: str, version: int, *, downward: bool = False) -> None:
    with connecting(url) as connection:
        migrate(connection, version=version, down=downward)


def by_script(url: str, version: int, *, downward: bool = False) -> None:
    written = io.StringIO()
    write_sql(written, "public", version=version, down=downward)
    run_script(url, written.getvalue())


OUTDATED = """
CREATE OR REPLACE FUNCTION oban_sa_free(of_queue text, global_limit integer) RETURNS integer
LANGUAGE plpgsql AS '-- Made by oban_sa
BEGIN RETURN 1; END'
"""
WAYS = {"online": online, "sql": by_script}


def version(url: str) -> int:
    with connecting(url) as connection:
        return installed(connection)


FLOW = "CAST('01890a5d-ac96-774b-bcce-b302099a8057' AS uuid)"
ROWS = {
    1: (
        "INSERT INTO oban_jobs (worker, args, state) VALUES ('w', '{\"n\": 1}', 'completed'), ('w', '{}', 'available')",
        "INSERT INTO oban_sa_queues (name, meta) VALUES ('default', '{\"Oban\": {\"paused\": true}}')",
        "INSERT INTO oban_sa_crons (name, expression, worker) VALUES ('tick', '* * * * *', 'w')",
    ),
    2: (
        "INSERT INTO oban_sa_uniques (key, job_id) SELECT gen_random_uuid(), min(id) FROM oban_jobs",
        "INSERT INTO oban_sa_rates (name) VALUES ('calls')",
        "INSERT INTO oban_sa_leases (name, holder, expires_at) VALUES ('l', gen_random_uuid(), 'infinity')",
    ),
    3: (
        f"INSERT INTO oban_sa_flows (id, root_id, path, kind, lane) VALUES ({FLOW}, {FLOW}, ARRAY[{FLOW}], 'group', 3)",
        f"INSERT INTO oban_sa_members (job_id, flow_id, name) SELECT min(id), {FLOW}, 'first' FROM oban_jobs",
        "INSERT INTO oban_sa_edges (parent_id, child_id) VALUES (1, 2)",
        "INSERT INTO oban_sa_gates (flow_id, child_id) SELECT id, 2 FROM oban_sa_flows",
        "INSERT INTO oban_sa_endings (lane, job_id) VALUES (3, 1)",
    ),
    4: (
        "INSERT INTO oban_sa_journal (job_id, name, code, attempt) VALUES (1, 'charge', 'charge', 1)",
        "INSERT INTO oban_sa_signals (job_id, name) VALUES (1, 'paid')",
    ),
    5: (
        "INSERT INTO oban_sa_metrics (step, at, node, queue, worker) VALUES (60, now(), 'n', 'default', '*')",
        "INSERT INTO oban_sa_cron_pauses (name) VALUES ('tick')",
    ),
}


def fill(url: str, upto: int) -> dict[str, list[str]]:
    """Write rows into the tables up to a version, and return all of them, as texts by table."""
    for statements in list(ROWS.values())[:upto]:
        for statement in statements:
            query(url, statement)
    return rows(url)


def rows(url: str) -> dict[str, list[str]]:
    tables = query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename ~ '^oban_'")
    return {table: sorted(query(url, f"SELECT CAST(t.* AS text) FROM {table} t")) for table in tables}


def kept(before: dict[str, list[str]], after: dict[str, list[str]]) -> bool:
    return all(after[table] == before[table] for table in before.keys() & after.keys())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("start", [1, 2, 4])
def test_a_version_with_rows_goes_up_to_the_latest_and_back(empty_database_url: str, start: int, way: str) -> None:
    move, url = WAYS[way], empty_database_url
    move(url, start)
    assert version(url) == start
    shape, before = snapshot(url), fill(url, start)

    move(url, LATEST)
    assert version(url) == LATEST
    assert lacking(url) == []
    assert kept(before, rows(url))
    full = fill(url, 0)
    for statements in list(ROWS.values())[start:]:
        for statement in statements:
            query(url, statement)

    move(url, start, downward=True)
    assert version(url) == start
    assert snapshot(url) == shape  # also without an index or a function of a later version
    assert rows(url) == before
    assert kept(before, full)

    move(url, LATEST)
    assert lacking(url) == []
    assert rows(url)["oban_jobs"] == before["oban_jobs"]
    move(url, 0, downward=True)
    assert [line for line in snapshot(url) if not line.startswith("column alembic")] == []


def test_a_script_and_a_migration_make_the_very_same(empty_database_url: str) -> None:
    by_script(empty_database_url, LATEST)
    scripted = snapshot(empty_database_url)
    down(empty_database_url)
    up(empty_database_url)
    assert snapshot(empty_database_url) == scripted


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("theirs", ["elixir_v14.sql", "python_0_7.sql"])
def test_beside_another_oban_s_tables_each_version_goes_up_and_back(
    empty_database_url: str, theirs: str, way: str
) -> None:
    move, url = WAYS[way], empty_database_url
    run_script(url, (FOLDER / theirs).read_text())
    query(url, "INSERT INTO public.oban_jobs (worker, state) VALUES ('Theirs', 'completed'), ('Theirs', 'available')")
    shapes, jobs = [snapshot(url)], rows(url)["oban_jobs"]
    for number in range(1, LATEST + 1):
        move(url, number)
        shapes.append(snapshot(url))
    assert lacking(url) == []
    assert set(shapes[0]) <= set(shapes[-1])
    for number in reversed(range(LATEST)):
        move(url, number, downward=True)
        assert snapshot(url) == shapes[number], number
    assert rows(url)["oban_jobs"] == jobs


@pytest.mark.parametrize("way", WAYS)
def test_an_index_of_another_program_that_has_a_name_of_ours_outlives_each_downgrade(
    empty_database_url: str, way: str
) -> None:
    move, url = WAYS[way], empty_database_url
    move(url, 1)
    query(url, "DROP INDEX oban_jobs_staging_index")
    for name in ("staging", "running"):
        query(url, f"CREATE INDEX oban_jobs_{name}_index ON oban_jobs (worker)")
    shape = snapshot(url)
    move(url, LATEST)
    indexes = "SELECT indexdef FROM pg_indexes WHERE indexname ~ '(staging|_jobs_running)_index' ORDER BY 1"
    theirs = query(url, indexes)
    move(url, 1, downward=True)
    assert snapshot(url) == shape
    assert query(url, indexes) == theirs


def test_a_script_builds_an_index_again_that_a_failed_build_left_invalid(empty_database_url: str) -> None:
    url = empty_database_url
    by_script(url, 1)
    shape = snapshot(url)
    query(
        url,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.oban_jobs_staging_index'::regclass",
    )
    by_script(url, LATEST)
    assert lacking(url) == []
    by_script(url, 1, downward=True)
    assert snapshot(url) == shape


def test_what_a_session_forgot_is_not_claimed(empty_database_url: str) -> None:
    url = empty_database_url
    by_script(url, 1)
    written = io.StringIO()
    write_sql(written, "public", version=LATEST)
    before, built, after = written.getvalue().partition("CREATE INDEX CONCURRENTLY IF NOT EXISTS oban_jobs_partition")
    run_script(url, before.rpartition("COMMIT;")[0] + "COMMIT;")
    run_script(url, built + after)  # in another session, as a pooler may have it
    assert lacking(url) == []
    by_script(url, 1, downward=True)
    assert "the index oban_jobs_partition_index is missing" not in lacking(url)


@pytest.mark.parametrize("start", ["oban_v01", "oban_v02", "oban_v04"])
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_project_with_our_branch_goes_up_from_each_revision_and_back(
    tmp_path: Path, empty_database_url: str, start: str, driver: str
) -> None:
    project = Project(tmp_path, empty_database_url, branch=True, driver=driver)
    number = int(start.removeprefix("oban_v"))
    project.upgrade(start)
    shape, before = snapshot(project.url), fill(project.url, number)
    latest = f"oban_v{LATEST:02}"
    project.upgrade()
    assert lacking(project.url) == []
    assert kept(before, rows(project.url))
    project.downgrade(start)
    assert snapshot(project.url) == shape

    run_script(project.url, project.sql(f"{start}:{latest}"))
    assert lacking(project.url) == []
    run_script(project.url, project.sql(f"{latest}:{start}", down=True))
    assert snapshot(project.url) == shape
    assert rows(project.url)["oban_jobs"] == before["oban_jobs"]


@pytest.mark.parametrize("way", WAYS)
def test_an_outdated_function_of_ours_is_replaced_and_keeps_its_grants(empty_database_url: str, way: str) -> None:
    move, url = WAYS[way], empty_database_url
    move(url, LATEST)
    shape = snapshot(url)
    query(url, OUTDATED)
    query(url, "REVOKE EXECUTE ON FUNCTION oban_sa_free(text, integer) FROM PUBLIC")
    rights = query(url, "SELECT CAST(proacl AS text) FROM pg_proc WHERE proname = 'oban_sa_free'")
    assert lacking(url) == ["the function oban_sa_free(text, integer) is not the one that this release makes"]
    move(url, LATEST)
    assert lacking(url) == []
    assert snapshot(url) == shape
    assert query(url, "SELECT CAST(proacl AS text) FROM pg_proc WHERE proname = 'oban_sa_free'") == rights


@pytest.mark.parametrize("number", [LATEST, LATEST + 1])
def test_a_newer_release_may_have_other_functions(empty_database_url: str, number: int) -> None:
    url = empty_database_url
    up(url)
    query(url, OUTDATED)
    query(url, f"COMMENT ON TABLE oban_sa_queues IS 'oban_sa {number}'")
    assert bool(lacking(url)) == (number == LATEST)


def test_a_function_of_another_program_in_the_place_of_ours_is_said_and_stays(empty_database_url: str) -> None:
    url = empty_database_url
    query(url, "CREATE FUNCTION oban_sa_free(text, integer) RETURNS integer LANGUAGE sql AS 'SELECT 7'")
    before = snapshot(url)
    with pytest.raises(SchemaError, match=r"oban_sa_free\(text, integer\) is not the one (.|\n)*left alone"):
        up(url)
    assert snapshot(url) == before
    by_script(url, LATEST)
    by_script(url, 0, downward=True)
    assert snapshot(url) == before


def test_an_overload_with_other_parameters_is_not_taken_for_ours(empty_database_url: str) -> None:
    url = empty_database_url
    up(url)
    query(url, "DROP FUNCTION oban_sa_free(text, integer)")
    query(url, "CREATE FUNCTION oban_sa_free(text) RETURNS integer LANGUAGE sql AS 'SELECT 7'")
    assert lacking(url) == ["the function oban_sa_free(text, integer) is missing"]
    up(url)
    assert lacking(url) == []
    down(url)
    assert query(url, "SELECT oban_sa_free('any')") == [7]
