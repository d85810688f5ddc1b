"""Runs the Python of pages, each in a module of its own, one after another on one database.

    OBAN_DATABASE_URL=... python -m tests.public.programs

A process of its own, because pages define workers with crontabs and attach hooks and handlers. `engine` and
`sessions` are there from the beginning.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import sys
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from oban_sa import Job, Runner, job
from oban_sa.workers import Registry
from tests.public import pages

SHOP: Final = "postgresql+asyncpg://localhost/shop"
"""How pages name the database; the one of this run is put in its place."""


async def execute(piece: str, names: dict[str, Any], *, of: str) -> None:
    """Run a piece of a page, which may await as a notebook's cell may."""
    pending = eval(compile(piece, f"<{of}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(pending):
        await pending


async def run(page: str, engine: AsyncEngine) -> dict[str, Any]:
    """Run the pieces of a page, making the tables that they declare; returns what they defined."""
    module = types.ModuleType(f"page_{Path(page).stem}")
    sys.modules[module.__name__] = module  # dataclasses and annotations look there
    names = vars(module)
    names.update(engine=engine, sessions=async_sessionmaker(engine, expire_on_commit=False))
    for number, piece in enumerate(pages.pieces(page)):
        url = engine.url.render_as_string(hide_password=False)
        await execute(piece.replace(SHOP, url), names, of=f"{page}, piece {number}")
        if "Base" in names:
            async with engine.begin() as connection:
                await connection.run_sync(names["Base"].metadata.create_all)
    return names


async def clear(names: dict[str, Any], engine: AsyncEngine) -> None:
    """Drop the tables that a page declared, and delete its jobs."""
    async with engine.begin() as connection:
        if "Base" in names:
            await connection.run_sync(names["Base"].metadata.drop_all)
        await connection.execute(delete(Job.__table__))
    if names["engine"] is not engine:
        await names["engine"].dispose()


async def arguments(page: dict[str, Any]) -> None:
    sessions = page["sessions"]
    name = page["__name__"]
    assert [found.args for found in page["found"]] == [{"user": {"entity": "User", "id": page["user"].id}}]
    async with sessions.begin() as session:
        old = Job(f"{name}.Ship", args={"recipient": "Ada", "kilos": 1.5})
        wrong = Job(f"{name}.SendInvoice", args={"number": str(page["UUID"](int=1)), "due": "soon", "lines": []})
        session.add_all([old, wrong])
    await Runner(page["engine"], queues={"default": 1, "mailers": 1, "billing": 1}).run(until_idle=True)
    async with sessions() as session:
        assert (await session.get_one(page["User"], page["user"].id)).visits == 1
        assert (await session.get_one(Job, old.id)).state == "completed"
        (error,) = (await session.get_one(Job, wrong.id)).errors
    assert error["error"] in pages.read("docs/arguments.md")


async def bulk(page: dict[str, Any]) -> None:
    async with page["sessions"]() as session:
        assert await session.scalar(select(func.count()).select_from(Job)) == 15_002
    assert page["count"] == 1_000


async def control(page: dict[str, Any]) -> None:
    assert page["count"] == len(page["ids"])
    async with page["sessions"]() as session:
        assert {job.state for job in await session.scalars(select(Job).where(Job.id.in_([7, 8])))} == {"cancelled"}


async def middleware(page: dict[str, Any]) -> None:
    async with page["sessions"].begin() as session:
        session.add(job := Job("given"))
    assert job.meta["traceparent"] == page["current_traceparent"]()
    page["remove"]()


async def pruning(page: dict[str, Any]) -> None:
    async with page["sessions"].begin() as session:
        session.add(job := Job("given", args={"n": 1}))
        await session.flush()
        await page["keep"](session, [job])
    async with page["sessions"]() as session:
        assert (await session.get_one(page["Archived"], job.id)).args == {"n": 1}


async def relations(page: dict[str, Any]) -> None:
    assert [order.id for order in page["waiting"]] == [order.id for order in page["orders"]] == [page["order"].id]
    assert page["failed"] == []
    assert [job.id for job in page["ada"].jobs] == [page["order"].job_id]
    await page["show_progress"](page["order"].job, 40)
    async with page["engine"].connect() as connection:
        for name in ("by_number", "by_text", "by_content", "by_key", "by_tag"):
            await connection.execute(page[name])
    async with page["sessions"]() as session:
        assert (await session.get(page["Order"], page["order"].id)).progress == 40


async def sentry(page: dict[str, Any]) -> None:
    sdk = page["sentry_sdk"]
    assert sdk.get_client().get_integration(page["ObanIntegration"]).capture == "every"
    assert [page["sample"](each) for each in ({}, {"oban_job": {"queue": "mailers"}})] == [0.1, 0.01]
    sdk.get_global_scope().set_client(None)
    page["warnings"].filterwarnings("error")


async def telemetry(page: dict[str, Any]) -> None:
    structlog = page["structlog"]
    lines = structlog.testing.LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, lines])
    page["detach"]()

    @job(name="logs", registry=(registry := Registry()))
    async def logs() -> None:
        structlog.get_logger().info("at work")

    async with page["sessions"].begin() as session:
        session.add(made := logs.new())
    runner = Runner(page["engine"], queues={"default": 1}, registry=registry, middleware=[page["bind_job"]])
    await runner.run(until_idle=True)
    [line] = lines.entries
    assert {"job_id": made.id, "worker": "logs", "queue": "default", "attempt": 1}.items() <= line.items()
    assert structlog.contextvars.get_contextvars() == {}


CHECKS: Final[dict[str, Callable[[dict[str, Any]], Awaitable[None]]]] = {
    f"docs/{check.__name__}.md": check
    for check in (arguments, bulk, control, middleware, pruning, relations, sentry, telemetry)
}
"""What has to be true once a page has run."""


async def main(url: str) -> None:
    engine = create_async_engine(url)
    for page in pages.PROGRAMS:
        names = await run(page, engine)
        if check := CHECKS.get(page):
            await check(names)
        await clear(names, engine)
        print(f"ran {page}", flush=True)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(os.environ["OBAN_DATABASE_URL"]))
