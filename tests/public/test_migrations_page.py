"""What docs/migrations.md says about test databases works as it stands there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import create_engine

from oban_sa.migrations import migrate, missing
from tests.migrations.project import connecting, query
from tests.public import pages
from tests.support import environment, sync_url

TEST = """
import pytest
from sqlalchemy import select
from oban_sa import Job, enqueue

@pytest.mark.parametrize("time", [1, 2])
def test_a_job_is_there_for_its_own_test_alone(session, time):
    assert session.scalars(select(Job)).all() == []
    enqueue(session, Job("w"))
    session.commit()
    assert len(session.scalars(select(Job)).all()) == 1
"""


def block(beginning: str) -> str:
    (found,) = [each.text for each in pages.blocks("docs/migrations.md") if each.text.startswith(beginning)]
    return found


def test_the_fixtures_give_each_test_a_database_with_the_tables(tmp_path: Path, empty_database_url: str) -> None:
    (tmp_path / "conftest.py").write_text(block("# conftest.py"))
    (tmp_path / "test_jobs.py").write_text(TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:asyncio"],
        cwd=tmp_path,
        env=environment({"TEST_DATABASE_URL": sync_url(empty_database_url)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert query(empty_database_url, "SELECT count(*) FROM oban_jobs") == [0]


def test_tables_made_from_the_models_are_complete(empty_database_url: str) -> None:
    page: dict[str, object] = {}
    exec(block("from sqlalchemy import Engine"), page)
    engine = create_engine(sync_url(empty_database_url))
    page["make_tables"](engine)  # type: ignore[operator]
    engine.dispose()
    with connecting(empty_database_url) as connection:
        assert missing(connection) == []
        migrate(connection)
        assert missing(connection) == []
