"""The command line on a database of this test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Job, enqueue_many
from oban_sa.cli import group
from tests.factories import Row
from tests.support import isolate, plain_url


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and an environment without settings."""
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    return isolate(monkeypatch, tmp_path)


class Shell:
    """Runs commands as at a terminal, and reads and writes the tables beside them."""

    def __init__(self, url: str, engine: Engine, sessions: sessionmaker[Session]) -> None:
        self.url = url
        self._engine = engine
        self._sessions = sessions

    def run(self, *words: str, answer: str | None = None) -> Result:
        environment = {"OBAN_DATABASE_URL": plain_url(self.url)}
        return CliRunner().invoke(group, words, env=environment, input=answer, prog_name="python -m oban_sa")

    def says(self, *words: str, answer: str | None = None) -> str:
        """What a command that succeeds prints on stdout."""
        result = self.run(*words, answer=answer)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.says(*words, "--json"))

    def refuses(self, *words: str, code: int) -> str:
        """What stands on stderr after a refusal, and nothing on stdout, and no traceback."""
        result = self.run(*words)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return result.stderr

    def enqueue(self, *jobs: Job) -> list[int]:
        with self._sessions.begin() as session:
            enqueue_many(session, jobs)
        return [job.id for job in jobs]

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self._engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    def add(self, row: Row) -> str:
        """Write a row of `tests.factories`; return the uuid of a producer."""
        self.sql(row.statement, **row.values)
        return str(row.values.get("uuid"))

    def states(self) -> dict[int, str]:
        return {row[0]: row[1] for row in self.sql("SELECT id, state::text FROM oban_jobs ORDER BY id")}


@pytest.fixture
def shell(database_url: str, sync_engine: Engine, sync_sessions: sessionmaker[Session]) -> Iterator[Shell]:
    return Shell(database_url, sync_engine, sync_sessions)
