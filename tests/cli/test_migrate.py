"""`migrate` says what it did: made, adopted, mended, or nothing; and what a downgrade left."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from oban_sa.cli import group
from oban_sa.migrations import LATEST
from tests.migrations.project import query, run_script
from tests.support import plain_url

FOLDER = Path(__file__).parents[1] / "migrations"


def says(url: str, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(group, ["migrate", "--database-url", plain_url(url), *words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout + result.stderr


def test_new_tables_are_new_and_then_up_to_date(empty_database_url: str) -> None:
    assert f"The tables in schema 'public' are new, now at version {LATEST}." in says(empty_database_url)
    assert f"were up to date already (version {LATEST})" in says(empty_database_url)
    assert "has no tables of oban_sa any more" in says(empty_database_url, "--downgrade", "--yes")


def test_tables_of_another_oban_are_called_adopted_and_stay(empty_database_url: str) -> None:
    run_script(empty_database_url, (FOLDER / "elixir_v14.sql").read_text())
    said = says(empty_database_url)
    assert f"adopted as they are: oban_jobs, oban_peers. What was missing is added, now at version {LATEST}." in said
    assert "new" not in said
    said = says(empty_database_url, "--downgrade", "--yes")
    assert "What it did not make stays: oban_jobs, oban_peers." in said


def test_what_is_mended_is_named(empty_database_url: str) -> None:
    says(empty_database_url)
    query(empty_database_url, "DROP TABLE public.oban_jobs")
    said = says(empty_database_url)
    assert f"are mended, at version {LATEST}. Before:\n- the table oban_jobs is missing" in said
    assert "were up to date already" in says(empty_database_url)


def test_what_stands_in_the_way_is_said_without_a_traceback(empty_database_url: str) -> None:
    query(empty_database_url, "CREATE TABLE public.oban_leaders (mine text)")
    said = says(empty_database_url, code=1)
    assert "the table oban_leaders has no column name" in said
    assert "give the jobs a schema of their own" in said


def test_what_workflows_need_beside_others_of_the_family_is_made_and_dropped_by_flags(empty_database_url: str) -> None:
    said = says(empty_database_url, "--oban-web", "--flow-trigger")
    assert "The view oban_workflows and its index are made.\nThe trigger on oban_jobs is made.\n" in said
    assert query(empty_database_url, "SELECT count(*) FROM public.oban_workflows") == [0]
    said = says(empty_database_url, "--no-oban-web")
    assert said.endswith("The view oban_workflows and its index are dropped.\n")
    assert "leave --oban-web and --flow-trigger away" in says(
        empty_database_url, "--downgrade", "--yes", "--oban-web", code=2
    )
    script = says(empty_database_url, "--sql", "--oban-web", "--flow-trigger")
    assert "CREATE VIEW" in script
    assert "CREATE TRIGGER" in script
    says(empty_database_url, "--downgrade", "--yes")
    run_script(empty_database_url, script)
    assert query(empty_database_url, "SELECT count(*) FROM public.oban_workflows") == [0]
