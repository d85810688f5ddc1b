"""The promises of conftest that every other test leans on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from tests.support import Process, eventually, forked, process, run_python, sync_url

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("turn", [1, 2])
async def test_every_test_gets_a_database_that_no_other_test_wrote_to(engine: AsyncEngine, turn: int) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE left_behind ()"))


async def test_sync_and_async_fixtures_share_one_database(
    sessions: async_sessionmaker[AsyncSession], sync_engine: Engine
) -> None:
    with sync_engine.begin() as connection:
        connection.execute(text("CREATE TABLE shared AS SELECT 7 AS n"))
    async with sessions() as session:
        assert await session.scalar(text("SELECT n FROM shared")) == 7


async def test_the_fresh_database_has_the_tables_for_jobs(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT to_regclass('public.oban_jobs') IS NOT NULL"))


async def test_the_empty_database_has_no_tables(empty_database_url: str) -> None:
    engine = create_async_engine(empty_database_url)
    async with engine.connect() as connection:
        count = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        assert await connection.scalar(text(count)) == 0
    await engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_sync_url_names_the_same_database_for_another_driver(database_url: str, driver: str) -> None:
    assert sync_url(database_url, driver) == database_url.replace("+asyncpg", f"+{driver}")


async def test_eventually_waits_for_a_truthy_answer_and_returns_it() -> None:
    answers = iter([0, [], "ready"])
    assert await eventually(lambda: next(answers)) == "ready"


async def test_eventually_raises_the_last_assertion_when_the_time_is_over() -> None:
    def never() -> None:
        raise AssertionError("not yet")

    with pytest.raises(AssertionError, match="not yet"):
        await eventually(never, within=0.05)


async def test_eventually_lets_other_errors_through_at_once() -> None:
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 / 0)


STARTS = pytest.mark.parametrize("start", [process, forked])
Start = Callable[..., AbstractContextManager[Process]]


@STARTS
async def test_a_process_can_be_watched_and_ended(start: Start) -> None:
    with start(["-c", "import time; print('up'); time.sleep(60)"]) as running:
        assert await running.says("up") == "up"
        running.terminate()
        assert await running.ended() == -15


@STARTS
def test_a_process_does_not_outlive_its_block(start: Start) -> None:
    with start(["-c", "import time; time.sleep(60)"]) as running:
        assert running.returncode is None
    assert running.returncode == -9


WHO = """
import atexit, os, random, signal, sys
atexit.register(print, "over", flush=True)
print(sys.argv, os.getcwd(), os.environ.get("MINE"), os.environ.get("OBAN_URL"), sys.path[0], __name__)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, random.random())
print(sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else "")
print("oh", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_forked_process_is_what_python_would_have_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    monkeypatch.setenv("OBAN_URL", "postgresql://real")
    said = []
    for start in (process, forked, forked):
        with start(["-c", WHO, str(code)], env={"MINE": "7"}, cwd=tmp_path) as running:
            assert running.wait() == code
        assert running.stderr == "oh\n"
        *same, chance = running.stdout.partition("True ")
        said.append((same, chance.partition("\n")))
    assert said[0][0] == said[1][0] == said[2][0]
    assert said[0][1][2] == said[1][1][2]  # what is open, and what is done in the end
    assert len({chance for _, (chance, _, _) in said}) == 3


@STARTS
def test_an_error_that_a_process_ends_with_is_told_on_stderr(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("import sys\nprint(__name__, sys.argv[1:])\nraise ValueError('boo')\n")
    with start(["-m", "fails", "--now"], cwd=tmp_path) as running:
        assert running.wait() == 1
    assert running.stdout == "__main__ ['--now']\n"
    assert running.stderr.endswith("ValueError: boo\n")


def test_processes_do_not_see_the_settings_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBAN_DATABASE_URL", "postgresql://real")
    found = run_python("-c", "import os, oban_sa; print(os.environ.get('OBAN_DATABASE_URL'))")
    assert found.stdout == "None\n"
