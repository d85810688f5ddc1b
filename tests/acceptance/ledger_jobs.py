"""Workers whose every effect is in the database, where it can be counted; they rest so that they are cut short."""

from __future__ import annotations

import asyncio
import random
import time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Job, enqueue, worker
from tests.acceptance.jobs import say

DEPTH = 10
"""Links of a chain."""

TABLES = (
    # Without a key: what happens twice has to show, not to fail.
    "CREATE TABLE ledger (job_id bigint NOT NULL)",
    "CREATE TABLE counter (value bigint NOT NULL)",
    "INSERT INTO counter VALUES (0)",
    "CREATE TABLE links (chain int NOT NULL, link int NOT NULL)",
)

_ENTRY = text("INSERT INTO ledger VALUES (:id)")
_BUMP = text("UPDATE counter SET value = value + 1")
_LINK = text("INSERT INTO links VALUES (:chain, :link)")


def rest() -> float:
    """Seconds in which a kill may come, before and after the first write."""
    return random.uniform(0.01, 0.2)


class Patient:
    """An attempt that fails with the database is made again at once."""

    def backoff(self, job: Job) -> int:
        return 1


# So many attempts because each kill and each outage spends one of every job that runs.
@worker(max_attempts=1000)
class Entry(Patient):
    """Adds a row to the ledger, and one to the counter."""

    async def process(self, job: Job, session: AsyncSession) -> None:
        say(job)
        await asyncio.sleep(rest())
        await session.execute(_ENTRY, {"id": job.id})
        await asyncio.sleep(rest())
        await session.execute(_BUMP)


@worker(max_attempts=1000)
class EntryInThread(Patient):
    """The same, from a thread."""

    def process(self, job: Job, session: Session) -> None:
        say(job)
        time.sleep(rest())
        session.execute(_ENTRY, {"id": job.id})
        time.sleep(rest())
        session.execute(_BUMP)


@worker(max_attempts=1000)
class Link(Patient):
    """Adds a link to its chain, and asks for the next."""

    async def process(self, job: Job, session: AsyncSession) -> None:
        say(job)
        chain, link = job.args["chain"], job.args["link"]
        await asyncio.sleep(rest() / 2)
        await session.execute(_LINK, {"chain": chain, "link": link})
        if link < DEPTH:
            enqueue(session, Link.new({"chain": chain, "link": link + 1}))
            await session.flush()
        await asyncio.sleep(rest() / 2)
