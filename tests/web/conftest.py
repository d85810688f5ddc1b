"""The dashboard on a database of this test's own, asked as a browser asks it, but without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Job, Oban, telemetry
from oban_sa.web import Access, Dashboard
from tests.factories import Row

TRACE = (
    'Traceback (most recent call last):\n  File "/app/.venv/lib/python3.12/site-packages/httpx/_client.py", line 12'
    ', in send\n    raise exc\n  File "/app/shop/jobs.py", line 88, in charge\n    response = client.post(url)\n'
    "httpx.ConnectTimeout: <script>alert(1)</script>\n"
)


@dataclass
class Web:
    """A dashboard, and its tables; `access` is what its visitor may do from now on."""

    engine: AsyncEngine
    oban: Oban
    access: Access = field(default_factory=lambda: Access.all("ada"))
    events: list[telemetry.WebAction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dashboard = Dashboard(self.oban, access=lambda request: self.access)
        self.client = self.client_of(self.dashboard)

    def client_of(self, app: Any, base: str = "http://test") -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url=base)

    async def get(self, path: str, code: int = 200, **params: object) -> str:
        answer = await self.client.get(path, params={key: str(value) for key, value in params.items()} or None)
        assert answer.status_code == code, (answer.status_code, answer.text)
        return answer.text

    async def post(self, path: str, code: int = 303, headers: dict[str, str] | None = None, **form: Any) -> str:
        """Send a form; returns where it leads, or what is answered."""
        answer = await self.client.post(path, data=form, headers=headers)
        assert answer.status_code == code, (answer.status_code, answer.text)
        return answer.headers["location"] if code == 303 else answer.text

    async def add(self, *jobs: Job) -> list[int]:
        """Store jobs as they are, in any state."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
            session.add_all(jobs)
        return [job.id for job in jobs]

    async def row(self, row: Row) -> None:
        await self.sql(row.statement, **row.values)

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with self.engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    async def states(self) -> dict[int, str]:
        return {row[0]: row[1] for row in await self.sql("SELECT id, CAST(state AS text) FROM oban_jobs ORDER BY id")}


@pytest.fixture
async def web(engine: AsyncEngine) -> AsyncIterator[Web]:
    made = Web(engine, Oban(engine))
    detach = telemetry.attach(made.events.append, telemetry.WebAction)
    yield made
    detach()
    await made.client.aclose()


def failed(worker: str = "shop.Charge", **options: Any) -> Job:
    """A job that was discarded after two attempts."""
    errors = [{"attempt": 1, "at": "2026-11-01T12:00:00Z", "error": TRACE}]
    return Job(worker, **{"state": "discarded", "attempt": 2, "max_attempts": 2, "errors": errors, **options})
