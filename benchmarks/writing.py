"""Jobs that arrive at a steady rate from a process of their own, each in a transaction of its own.

    python -m benchmarks.writing postgresql://... 1000 10000

Each job's args hold the moment at which its commit was asked for, by the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.turn import Turn, loop_factory

WRITE = """
WITH written AS (INSERT INTO oban_jobs (worker, queue, args) VALUES ('benchmarks.arrival', 'bench', $1))
SELECT pg_notify('public.oban_insert', '{"queue":"bench"}')
"""


@asynccontextmanager
async def writer(turn: Turn) -> AsyncIterator[None]:
    """Have this turn's jobs arrive while the block runs."""
    words = ["-m", "benchmarks.writing", turn.url, str(turn.options["rate"]), str(turn.jobs)]
    process = await asyncio.create_subprocess_exec(sys.executable, *words, env=dict(os.environ))
    try:
        yield
        turn.check("the exit code of the writer", await process.wait(), 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def write(url: str, rate: float, jobs: int) -> None:
    """Write so many jobs, so many a second."""
    connection = await asyncpg.connect(url)
    began = time.perf_counter()
    for number in range(jobs):
        if (ahead := began + number / rate - time.perf_counter()) > 0.001:
            await asyncio.sleep(ahead)
        await connection.fetchval(WRITE, f'{{"at":{time.perf_counter()!r}}}')
    await connection.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(write(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
