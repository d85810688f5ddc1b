"""A program that streams many jobs into a database, beside raw COPY of the same rows.

    python -m tests.bulk.streaming URL COUNT

It prints, as JSON, how far its memory grew while it ran and the seconds that both took.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Self

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa import Job, Oban, worker
from oban_sa.sql.insert import COLUMNS
from oban_sa.workers import Registry
from tests.support import plain_url

PAGE = os.sysconf("SC_PAGE_SIZE")


@worker(queue="bulk", name="streaming.send", registry=Registry())
class Send:
    async def process(self, job: Job) -> None: ...


class Watch:
    """How much memory this process has, looked at all the time from a thread of its own."""

    def __init__(self) -> None:
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        gc.collect()
        self.start = self.most = resident()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, resident())


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def jobs(count: int) -> Iterator[Job]:
    for number in range(count):
        yield Send.new({"user_id": number})  # type: ignore[attr-defined]


def rows(count: int) -> Iterator[tuple[Any, ...]]:
    now = datetime.now(UTC).replace(tzinfo=None)
    same = {"worker": "streaming.send", "queue": "bulk", "state": "available", "meta": "{}", "tags": [], "priority": 0}
    values: dict[str, Any] = {**same, "max_attempts": 20, "scheduled_at": now}
    for number in range(count):
        yield tuple(f'{{"user_id":{number}}}' if name == "args" else values[name] for name in COLUMNS)


async def stream(url: str, count: int) -> dict[str, float]:
    engine = create_async_engine(url)
    raw = await asyncpg.connect(plain_url(url))
    try:
        await Oban(engine).enqueue_many(jobs(2_000))
        prepared = list(rows(min(count, 200_000)))
        started = time.perf_counter()
        await raw.copy_records_to_table("oban_jobs", columns=COLUMNS, records=prepared)
        copying = (time.perf_counter() - started) / len(prepared) * count
        del prepared
        await raw.execute("TRUNCATE oban_jobs")
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        with Watch() as watch:
            started = time.perf_counter()
            assert await Oban(engine).enqueue_many(jobs(count)) == count
            taken = time.perf_counter() - started
        assert await raw.fetchval("SELECT count(DISTINCT args) FROM oban_jobs") == count
        return {"grew": watch.most - watch.start, "seconds": taken, "copying": copying}
    finally:
        await raw.close()
        await engine.dispose()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(stream(sys.argv[1], int(sys.argv[2])))))
