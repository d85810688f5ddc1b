"""What the database refuses is said in a sentence, never as a traceback."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from oban_sa import Job
from tests.cli.conftest import Shell


def test_a_missing_right_is_said(shell: Shell) -> None:
    role = f"reader_{make_url(shell.url).database}"
    shell.enqueue(Job("a"))
    shell.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data")
    try:
        url = make_url(shell.url).set(drivername="postgresql", username=role, password="x")
        there = ("--database-url", url.render_as_string(hide_password=False))
        for words in (
            ("jobs", "cancel", "1"),
            ("jobs", "update", "1", "--priority", "3"),
            ("jobs", "enqueue", "a"),
            ("queues", "pause", "default"),
            ("bench", "--jobs", "100"),
            ("migrate", "--schema", "elsewhere"),
        ):
            said = shell.refuses(*words, *there, code=1)
            assert "permission denied" in said, said
        assert shell.run("jobs", "list", *there).exit_code == 0
    finally:
        shell.sql(f"DROP OWNED BY {role}")
        shell.sql(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("rule", "words", "said"),
    [
        ("ALTER TABLE oban_jobs ADD CHECK (queue <> 'no')", "jobs enqueue a --queue no", "violates check constraint"),
        ("CREATE UNIQUE INDEX ON oban_jobs (queue)", "jobs update 1 2 --queue no", "A unique index of the table"),
        ("ALTER TABLE oban_jobs ADD CHECK (priority <> 5)", "jobs update 1 --priority 5", "A rule of the tables"),
    ],
)
def test_a_rule_of_the_tables_is_said(shell: Shell, rule: str, words: str, said: str) -> None:
    shell.enqueue(Job("a", queue="one"), Job("a", queue="two"))
    shell.sql(rule)
    assert said in shell.refuses(*words.split(), code=1)
    assert shell.sql("SELECT queue, priority FROM oban_jobs ORDER BY id") == [("one", 0), ("two", 0)]


def test_a_database_that_only_reads_is_said(shell: Shell) -> None:
    name = make_url(shell.url).database
    shell.enqueue(Job("a"))
    shell.sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    said = shell.refuses("jobs", "cancel", "1", code=1)
    assert "This database is read-only, as a standby is; name the primary" in said
    assert shell.run("jobs", "list", "--worker", "a").exit_code == 0


def test_a_statement_that_took_too_long_is_said(shell: Shell) -> None:
    shell.enqueue(Job("a"))
    shell.sql(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END'"
    )
    shell.sql("CREATE TRIGGER late BEFORE UPDATE ON oban_jobs FOR EACH ROW EXECUTE FUNCTION late()")
    shell.sql(f'ALTER DATABASE "{make_url(shell.url).database}" SET statement_timeout = 2000')
    assert "The server ended the statement, which took too long" in shell.refuses("jobs", "cancel", "1", code=1)


def test_what_json_holds_and_postgresql_does_not_is_said(shell: Shell) -> None:
    shell.enqueue(Job("a"))
    said = shell.refuses("jobs", "list", "--args", '{"x": "\\u0000"}', code=1)
    assert "The database can't take a value that was given" in said
