"""The application: `uvicorn examples.fastapi_app.app:app`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from examples.fastapi_app.database import engine, sessions
from examples.fastapi_app.jobs import build_report
from examples.fastapi_app.models import Report
from oban_sa import JobState, Runner, enqueue, ref


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Let a runner work for as long as the server does, unless RUNNER=apart says that it has a process of its own."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        if os.environ.get("RUNNER", "embedded") == "embedded":
            await stack.enter_async_context(Runner(engine, queues={"reports": 5}))
        yield


async def session_of_request() -> AsyncIterator[AsyncSession]:
    """Give a session that is closed, not committed: handlers commit, so that an answer means it is done."""
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(session_of_request)]
app = FastAPI(title="Reports", lifespan=lifespan)


class Wanted(BaseModel):
    """What somebody asks for."""

    title: str
    pages: int = Field(default=10, ge=1, le=1000)


class Shown(BaseModel):
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
    return Shown(
        id=report.id, title=report.title, state=job.state if job else None, progress=progress, text=report.text
    )


@app.post("/reports", status_code=201)
async def order_report(wanted: Wanted, session: Session) -> Shown:
    """Make a report, and the job that builds it: both or neither."""
    report = Report(title=wanted.title, pages=wanted.pages)
    session.add(report)
    report.job = enqueue(session, build_report.new(ref(report), report.pages))
    try:
        await session.commit()
    except IntegrityError:
        raise HTTPException(409, f"there is a report {wanted.title!r} already") from None
    return shown(report)


@app.get("/reports/{report_id}")
async def show_report(report_id: int, session: Session) -> Shown:
    """Show a report; its job is a row like any other, and is joined."""
    report = await session.get(Report, report_id, options=[joinedload(Report.job)])
    if report is None:
        raise HTTPException(404, "no such report")
    return shown(report)
