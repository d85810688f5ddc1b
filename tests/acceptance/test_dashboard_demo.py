"""The busy shop of `make dashboard-demo` runs, and its dashboard shows that it does."""

from __future__ import annotations

import asyncio
import socket

import httpx

from tests.support import eventually, plain_url, process


async def test_the_demonstration_shows_jobs_that_end_and_jobs_that_fail(empty_database_url: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("--port", str(port), "--database-url", plain_url(empty_database_url))
    with process(["-m", "examples.dashboard_demo", *words]) as running:
        await running.says("The dashboard of a busy shop is at", 60)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as asked:

            async def seen() -> None:
                done, failed = (await asyncio.gather(
                    asked.get("/", params={"q": "state:completed"}),
                    asked.get("/", params={"q": "state:retryable,discarded"}),
                ))  # fmt: skip
                assert 'id="job-' in done.text
                assert 'class="why"' in failed.text

            await eventually(seen, 60, every=0.5)
            assert "catalogue" in (await asked.get("/workflows")).text
            assert "web.1" in (await asked.get("/nodes")).text
            assert "Europe/Berlin" in (await asked.get("/crons")).text
        running.interrupt()
        await running.ended(60)
