"""FastAPI with asynchronous sessions, and a runner inside the server.

    python -m oban_sa migrate
    uvicorn examples.web.fastapi_app:app

Both read OBAN_DATABASE_URL. With several server processes there are several runners, which is fine. For heavy work
leave the runner out here and start `python -m oban_sa.runner --import examples.web.jobs --queues mailers:5`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from examples.web.jobs import send_welcome
from examples.web.models import Base, User
from oban_sa import Job, Runner, enqueue, ref


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database, and let a runner work as long as the server does."""
    engine = create_async_engine(make_url(os.environ["OBAN_DATABASE_URL"]).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with Runner(engine, queues={"mailers": 5}):
        yield
    await engine.dispose()


async def session_of(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a session that is closed, not committed: handlers commit, so that an answer means it is done."""
    async with request.app.state.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(session_of)]
app = FastAPI(lifespan=lifespan)


@app.post("/users", status_code=201)
async def sign_up(email: str, session: Session) -> dict[str, int]:
    """Make a user, and a job that welcomes them: both or neither."""
    user = User(email=email)
    session.add(user)
    job = enqueue(session, send_welcome.new(ref(user)))
    try:
        await session.commit()
    except IntegrityError:
        raise HTTPException(409, f"{email} has signed up already") from None
    return {"user": user.id, "job": job.id}


@app.get("/users/{user_id}")
async def show_user(user_id: int, session: Session) -> dict[str, Any]:
    """Show a user, and whether they were welcomed yet."""
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "no such user")
    return {"email": user.email, "welcomed": user.welcomed}


@app.get("/jobs/{job_id}")
async def show_job(job_id: int, session: Session) -> dict[str, Any]:
    """Show how far a job is: a job is a row like any other."""
    job = await session.get(Job, job_id)
    if job is None:
        raise HTTPException(404, "no such job")
    return {"worker": job.worker, "state": job.state, "attempt": job.attempt, "errors": job.errors}
