"""What the pages of the dashboard read, beside a million rows of jobs that are over. Counts, never times."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.full.explain import buffers, explaining
from oban_sa import Oban
from oban_sa.cli import _database
from oban_sa.cli._database import dispose
from oban_sa.client.metrics import MOST_OF_WORKERS
from oban_sa.client.read import read_session
from oban_sa.client.search import LATEST, NEWEST, PLACES
from oban_sa.sql.pulse import pulse
from oban_sa.sql.sparklines import MINUTES, ended
from oban_sa.sql.suggestions import NEWEST as SUGGESTED
from oban_sa.sql.suggestions import workers
from oban_sa.web import Dashboard
from tests.performance.conftest import ROWS
from tests.performance.test_million import Plan, walk
from tests.support import plain_url

BY_INDEX = 4_000
"""Buffers that a statement reads that an index leads to what it shows, the counts of states and queues among them."""
BY_ID = NEWEST // 15
"""The same for one that looks at the newest jobs."""
BY_METRICS = 4 * MOST_OF_WORKERS
"""The same for one that adds up what was done by the workers there are."""
BY_PLACE = 6 * LATEST
"""The same for one that looks at jobs of a state or a queue."""


async def read(url: str, *paths: str, also: Any = None, given: Any = None) -> list[tuple[str, Plan]]:
    """Ask for pages, and run a statement beside them; returns what each statement took."""
    found: list[tuple[str, Plan]] = []

    def keep(statement: str, top: dict[str, Any]) -> None:
        plan = Plan(buffers(top), None)
        walk(top, plan)
        found.append((statement, plan))

    with explaining(keep):
        engine = _database.create_engine(plain_url(url), application_name="t", connections=2, pooler=False)  # type: ignore[attr-defined]
        try:
            dashboard = Dashboard(Oban(engine))
            if also is not None:
                async with read_session(dashboard.instances[0].reader) as session:
                    await session.execute(also, given)
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app=dashboard), base_url="http://test")
            for path in paths:
                assert (await client.get(path)).status_code == 200, path
        finally:
            await dispose(engine)  # type: ignore[attr-defined]
    assert found
    return found


def assert_bounded(found: list[tuple[str, Plan]], bound: int) -> None:
    for statement, plan in found:
        assert plan.buffers <= bound, (plan.buffers, plan.indexes, plan.scanned, statement[:4000])
        assert "oban_jobs" not in plan.scanned or ROWS < NEWEST, statement


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?q=state:discarded",
        "/?q=state:discarded queue:hooks",
        "/?q=queue:nosuch",
        "/?q=-state:completed",
        "/?q=priority:3 since:2h",
        "/?q=id:1,2,3 worker:Nope",
        "/?before=500000",
        "/?q=state:completed&before=17,2030-01-01T00:00:00",
        "/jobs/7",
        "/jobs/7/raw",
        "/queues",
        "/nodes",
        "/health",
        "/metrics",
        "/workflows",
    ],
)
async def test_a_page_reads_no_more_however_many_jobs_have_ended(table: str, path: str) -> None:
    assert_bounded(await read(table, path), BY_INDEX)


@pytest.mark.parametrize("path", ["/?q=worker:Nope", "/?q=error:Nope", "/?q=-tag:x node:nosuch", "/crons"])
async def test_what_no_index_serves_is_looked_for_among_the_newest(table: str, path: str) -> None:
    assert_bounded(await read(table, path), BY_ID)


@pytest.mark.parametrize("path", ["/?q=state:completed worker:Nope", "/?q=queue:queue1 error:Nope"])
async def test_jobs_of_a_state_or_queue_are_looked_at_up_to_a_bound(table: str, path: str) -> None:
    assert_bounded(await read(table, path), BY_PLACE)


async def test_of_many_places_no_more_entries_are_read_than_of_one(table: str) -> None:
    found = await read(table, "/?q=state:completed worker:Nope", "/?q=state:completed worker:Nope since:60d")
    windows = [plan for statement, plan in found if "top AS MATERIALIZED" in statement]
    assert len(windows) == 2
    for plan in windows:
        assert plan.read("oban_jobs_state_queue_priority_scheduled_at_id_index") <= LATEST + PLACES, plan.indexes


async def test_what_is_estimated_is_one_statement_however_many_queues_there_are(table: str) -> None:
    engine = create_async_engine(table)
    sent: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda _c, _u, statement, *_: sent.append(statement))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=Dashboard(Oban(engine))), base_url="http://test")
    assert (await client.get("/queues")).status_code == 200
    await engine.dispose()
    assert sum(statement.startswith("EXPLAIN") for statement in sent) == 1
    # Also how long the first job of each queue has waited.
    assert sum("attempted_by" not in statement and "waiting_for" in statement for statement in sent) == 1
    assert len(sent) <= 20


@pytest.mark.parametrize(
    "path", ["?span=1h", "?span=7d", "?span=1h&worker=w7", "?span=1h&queue=q3", "?span=1h&queue=x"]
)
async def test_metrics_read_no_more_however_much_was_done(database_url: str, path: str) -> None:
    # A hundred workers of four queues on each of two nodes, for six hours and for fifteen days.
    with psycopg.connect(plain_url(database_url), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO oban_sa_metrics (step, queue, worker, at, node, outcomes, run) "
            "SELECT step, 'q' || w % 4, CASE w WHEN 0 THEN '*' ELSE 'w' || w END, "
            "date_bin(step * interval '1 second', timezone('UTC', now()), '2000-01-01') "
            "- n * step * interval '1 second', "
            "'web.' || node, '{\"completed\": 3}', '{\"500\": 3}' "
            "FROM unnest(ARRAY[60, 3600]) step, generate_series(0, 359) n, generate_series(0, 99) w, "
            "generate_series(1, 2) node"
        )
        connection.execute("ANALYZE oban_sa_metrics")
    for statement, plan in await read(database_url, f"/metrics{path}"):
        assert plan.buffers <= BY_METRICS, (plan.buffers, plan.indexes, plan.scanned, statement[:4000])
        assert "oban_sa_metrics" not in plan.scanned, statement


async def test_suggestions_read_the_newest_jobs_however_many_there_are(table: str) -> None:
    [(statement, plan)] = await read(table, also=workers())
    # Some thirty rows of this table are on a page, which are read through the index of ids.
    assert plan.buffers <= SUGGESTED // 15, (plan.buffers, plan.indexes, plan.scanned, statement)
    assert plan.scanned == [] or ROWS < NEWEST, statement


async def test_the_page_of_jobs_reads_suggestions_once(table: str) -> None:
    found = await read(table, "/", "/", "/?q=state:discarded")
    assert [statement for statement, _ in found].count(found_by(found, "newest.worker")) == 1


def found_by(found: list[tuple[str, Plan]], word: str) -> str:
    return next(statement for statement, _ in found if word in statement)


@pytest.mark.parametrize("queues", [["q1"], [f"q{number}" for number in range(8)]])
async def test_sparklines_read_the_last_minutes_however_much_was_written(database_url: str, queues: list[str]) -> None:
    # Forty workers of eight queues, and each queue as a whole, on three nodes, for six hours and for fifteen days.
    with psycopg.connect(plain_url(database_url), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO oban_sa_metrics (step, queue, worker, at, node, outcomes) "
            "SELECT step, 'q' || w % 8, CASE WHEN w < 8 THEN '*' ELSE 'w' || w END, "
            "date_bin(step * interval '1 second', timezone('UTC', now()), '2000-01-01') "
            "- n * step * interval '1 second', 'web.' || node, '{\"completed\": 3}' "
            "FROM unnest(ARRAY[60, 3600]) step, generate_series(0, 359) n, generate_series(0, 47) w, "
            "generate_series(1, 3) node"
        )
        connection.execute("ANALYZE oban_sa_metrics")
    [(statement, plan)] = await read(database_url, also=ended(), given={"queues": queues})
    assert plan.buffers <= len(queues) * 3 * MINUTES * 2, (plan.buffers, plan.indexes, plan.scanned, statement)
    assert plan.scanned == [], statement


async def test_whether_something_has_changed_is_seen_by_a_few_looks(table: str) -> None:
    assert_bounded(await read(table, also=pulse()), 700)
