"""Jobs that are under way when the database falls silent."""

from __future__ import annotations

import asyncio
import threading
import time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import job

SLEEP = text("SELECT pg_sleep(600)")


@job
async def waits() -> None:
    print("begun", flush=True)
    await asyncio.Event().wait()


@job
def waits_in_thread() -> None:
    print("begun", flush=True)
    while True:
        time.sleep(0.05)


@job
async def never_ends() -> None:
    print("begun", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


@job
def holds_a_thread() -> None:
    print("begun", flush=True)
    threading.Event().wait()


@job
async def in_statement(session: AsyncSession) -> None:
    print("begun", flush=True)
    await session.execute(SLEEP)


@job
def in_statement_in_thread(session: Session) -> None:
    print("begun", flush=True)
    session.execute(SLEEP)


@job
async def idle_in_transaction(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))
    print("begun", flush=True)
    await asyncio.Event().wait()


@job(executor="process")
def in_process() -> None:
    print("begun", flush=True)
    while True:
        time.sleep(0.05)


@job
async def in_to_thread() -> None:
    print("begun", flush=True)
    await asyncio.to_thread(threading.Event().wait)
