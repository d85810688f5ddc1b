"""How long the pages of the dashboard take beside very many jobs that are over, and how many buffers they read."""

from __future__ import annotations

import time
from typing import Any

import httpx

from benchmarks.full.explain import buffers, explaining
from benchmarks.ground import Ground
from benchmarks.turn import percentile
from oban_sa import Oban
from oban_sa.cli import _database
from oban_sa.web import Dashboard

PAGES = (
    "/",
    "/?q=state:discarded",
    "/?q=state:discarded queue:hooks",
    "/?q=state:completed queue:queue1",
    "/?q=state:completed&before=17,2030-01-01T00:00:00",
    "/?q=queue:nosuch",
    "/?q=-state:completed",
    "/?q=since:2h until:1h",
    "/?q=worker:Nope",
    "/?q=args.user:77",
    "/?q=error:Nope",
    "/?q=state:completed worker:Nope",
    "/?q=queue:queue1 error:Nope",
    "/jobs/7",
    "/jobs/7/raw",
    "/queues",
    "/nodes",
    "/crons",
    "/workflows",
    "/workflows/00000000-0000-0000-0000-000000000001",
    "/metrics",
    "/metrics?span=24h",
    "/metrics?span=7d",
    "/metrics?span=30d",
    "/metrics?span=7d&worker=app.jobs.Worker7",
    "/health",
)
TIMES = 25
"""How often each is asked for."""


async def timed(ground: Ground, path: str) -> tuple[float, float, float]:
    """Return the seconds of the first answer, and p50 and p95 of all of them, from the request to the last byte."""
    async with _client(Dashboard(Oban(ground.engine))) as client:
        taken = [await _asked(client, path) for _ in range(TIMES)]
    return taken[0], percentile(taken, 0.5), percentile(taken, 0.95)


async def read(ground: Ground, path: str) -> list[tuple[int, str]]:
    """Return what each statement of a page reads, in buffers, and the statement; the suggestions of the search too."""
    found: list[tuple[int, str]] = []

    def keep(statement: str, plan: dict[str, Any]) -> None:
        found.append((buffers(plan), statement))

    with explaining(keep):
        engine = _database.create_engine(ground.url, application_name="pages", connections=2, pooler=False)  # type: ignore[attr-defined]
        try:
            async with _client(Dashboard(Oban(engine))) as client:
                await _asked(client, path)
        finally:
            await _database.dispose(engine)  # type: ignore[attr-defined]
    return found


def _client(dashboard: Dashboard) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=dashboard), base_url="http://127.0.0.1")


async def _asked(client: httpx.AsyncClient, path: str) -> float:
    began = time.perf_counter()
    answer = await client.get(path)
    if answer.status_code != 200:
        raise SystemExit(f"{path} failed: {answer.text}")
    return time.perf_counter() - began
