"""The dashboard on a database of this test's own, asked as a browser asks it, but without one."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Job, Oban, telemetry
from oban_sa.web import Access, Dashboard
from tests.factories import Row
from tests.support import eventually

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


BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def browser_path() -> str:
    """The browser of OBAN_TEST_BROWSER, or the first that is found; skips where there is none, unless one has to be."""
    named = os.environ.get("OBAN_TEST_BROWSER")
    found = named or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    try:
        import playwright  # noqa: F401
    except ImportError:
        found, missing = None, "playwright is not installed"
    else:
        missing = "no Chromium; apt-get install chromium-headless-shell, or name one in OBAN_TEST_BROWSER"
    if found is None:
        if os.environ.get("OBAN_REQUIRE_BROWSER"):
            pytest.fail(f"OBAN_REQUIRE_BROWSER is set, and {missing}")
        pytest.skip(missing)
    return found


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    """A real browser, of playwright's kind."""
    path = browser_path()
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        # Where tests run in a container, and as root, its own sandbox can't be made.
        launched = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        await launched.close()


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an application at a port of its own; gives its address."""
    # Pages that are still open when it ends are cut off, which is no error here.
    config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started, 30)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@dataclass
class Opened:
    """The dashboard at an address, in a browser; `said` is what the browser's console has said."""

    address: str
    browser: Any
    said: list[str] = field(default_factory=list)

    async def page(self, path: str = "/", **options: Any) -> Any:
        """Open a page in a window of its own, which knows nothing of the others."""
        context = await self.browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        context.set_default_timeout(60_000)
        page = await context.new_page()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        await page.goto(self.address + path)
        return page


@pytest.fixture
async def opened(web: Web, browser: Any) -> AsyncIterator[Opened]:
    async with served(web.dashboard) as address:
        yield Opened(address, browser)
