"""What all commands for people have in common: errors, help, and machines as readers."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from oban_sa.cli import group
from tests.cli.conftest import Shell
from tests.support import plain_url

LOOKING = (["jobs", "list"], ["queues", "list"], ["cron", "list"], ["status"])


@pytest.mark.parametrize("words", LOOKING)
def test_without_a_database_all_ways_to_give_one_are_named(words: list[str]) -> None:
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 2
    for way in ("--database-url", "OBAN_DATABASE_URL", "oban.toml", "--embedded"):
        assert way in result.stderr


@pytest.mark.parametrize("words", [*LOOKING, ["jobs", "retry", "1"], ["queues", "pause", "a"]])
def test_without_tables_the_migration_is_named(words: list[str], empty_database_url: str) -> None:
    result = CliRunner().invoke(group, [*words, "--database-url", plain_url(empty_database_url)])
    assert result.exit_code == 1
    assert "upgrade_oban" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("words", LOOKING)
def test_a_database_that_is_not_there_is_said_in_words(words: list[str]) -> None:
    result = CliRunner().invoke(group, [*words, "--database-url", "postgresql://u:secret@127.0.0.1:1/d"])
    assert result.exit_code == 1
    assert "Nothing listens at 127.0.0.1:1" in result.stderr
    assert "secret" not in result.output


@pytest.mark.parametrize("words", LOOKING)
def test_an_empty_database_is_no_mistake(shell: Shell, words: list[str]) -> None:
    assert shell.says(*words)
    assert isinstance(shell.json(*words), dict)


@pytest.mark.parametrize("words", LOOKING)
def test_another_schema_is_looked_into(shell: Shell, words: list[str]) -> None:
    assert "schema 'elsewhere'" in shell.refuses(*words, "--schema", "elsewhere", code=1)


@pytest.mark.parametrize("command", ["jobs", "queues", "cron", "status", "bench", "migrate"])
def test_help_teaches_with_examples(command: str) -> None:
    text = CliRunner().invoke(group, [command, "--help"], prog_name="python -m oban_sa").output
    assert "Examples:" in text
    assert f"python -m oban_sa {command}" in text
    assert command in CliRunner().invoke(group, ["--help"]).output


@pytest.mark.parametrize(
    "words",
    [
        *(f"jobs {verb}" for verb in ("list", "show", "enqueue", "update", "retry", "cancel", "delete")),
        *(f"queues {verb}" for verb in ("pause", "resume", "scale")),
    ],
)
def test_help_of_each_thing_to_do_teaches_with_examples(words: str) -> None:
    shown = CliRunner().invoke(group, [*words.split(), "--help"], prog_name="python -m oban_sa").output
    assert "Examples:" in shown
    assert f"\n    python -m oban_sa {words} " in shown
    assert max(map(len, shown.splitlines())) <= 120
