"""The application: `litestar --app examples.litestar_app.app:app run`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from advanced_alchemy.extensions.litestar import SQLAlchemyInitPlugin
from litestar import Litestar, get, post
from litestar.exceptions import HTTPException, NotFoundException
from msgspec import Struct
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from examples.litestar_app.database import alchemy, engine
from examples.litestar_app.jobs import build_report
from examples.litestar_app.models import Report
from oban_sa import JobState, Runner, enqueue, ref


@asynccontextmanager
async def runner(app: Litestar) -> AsyncIterator[None]:
    """Let a runner work for as long as the server does, unless RUNNER=apart says that it has a process of its own."""
    if os.environ.get("RUNNER", "embedded") != "embedded":
        yield
        return
    async with Runner(engine, queues={"reports": 5}):
        yield


class Wanted(Struct):
    """What somebody asks for."""

    title: str
    pages: int = 10


class Shown(Struct):
    """A report, and how far its job is; `state` is None once the job was deleted."""

    id: int
    title: str
    state: JobState | None
    progress: int
    text: str | None


def shown(report: Report) -> Shown:
    """Return what clients see."""
    job = report.job
    progress = 100 if report.text is not None else job.meta.get("progress", 0) if job is not None else 0
    return Shown(report.id, report.title, job.state if job else None, progress, report.text)


@post("/reports")
async def order_report(data: Wanted, db_session: AsyncSession) -> Shown:
    """Make a report, and the job that builds it: both or neither.

    It commits here and not after the answer was made (`before_send_handler="autocommit"`): a commit that fails there
    is not told to anybody, and the client has a report that does not exist.
    """
    report = Report(title=data.title, pages=data.pages)
    db_session.add(report)
    report.job = enqueue(db_session, build_report.new(ref(report), report.pages))
    try:
        await db_session.commit()
    except IntegrityError:
        raise HTTPException(f"there is a report {data.title!r} already", status_code=409) from None
    return shown(report)


@get("/reports/{report_id:int}")
async def show_report(report_id: int, db_session: AsyncSession) -> Shown:
    """Show a report; its job is a row like any other, and is joined."""
    report = await db_session.get(Report, report_id, options=[joinedload(Report.job)])
    if report is None:
        raise NotFoundException("no such report")
    return shown(report)


app = Litestar([order_report, show_report], plugins=[SQLAlchemyInitPlugin(alchemy)], lifespan=[runner])
