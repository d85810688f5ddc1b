"""The benchmarks run, and refuse figures of work that was not done. How fast anything is, no test says."""

from __future__ import annotations

import asyncpg
import pytest

from benchmarks.ground import ground
from oban_sa import Job, Oban
from tests.databases import Server
from tests.support import plain_url, run_python

TINY = {
    "drain": ("--jobs", "40", "--concurrency", "5", "60", "--finished", "30"),
    "enqueue": ("--jobs", "40", "--singles", "5"),
    "latency": ("--lone", "3", "--scheduled", "20", "--over", "0.2"),
}


@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_runs(name: str, server: Server) -> None:
    common = ("--rounds", "1", "--database-url", server.url)
    ran = run_python("-m", f"benchmarks.{name}", *TINY[name], *common)
    assert ran.returncode == 0, ran.stderr
    assert "floor" in ran.stdout
    assert {"drain": "oban_sa", "latency": "oban_sa", "enqueue": "Oban.enqueue_many"}[name] in ran.stdout


async def test_the_database_of_a_benchmark_is_dropped(server: Server) -> None:
    async with ground(plain_url(server.url)) as made:
        name = made.engine.url.database
        connection = await asyncpg.connect(plain_url(server.url))
        assert await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name) == 1
    assert await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name) == 0
    await connection.close()


async def test_a_figure_is_refused_where_the_jobs_were_not_done(server: Server) -> None:
    async with ground(plain_url(server.url)) as made:
        await Oban(made.engine).enqueue_many([Job("nobody")])
        with pytest.raises(SystemExit, match="not what was to be measured"):
            await made.check(completed=1)
