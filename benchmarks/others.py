"""Other job queues on PostgreSQL, used as their documentation has it, where they are installed.

Each makes its own tables in a database of its own on the same server, gets as many jobs that do nothing, and drains
them in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from benchmarks.ground import Ground, Spent, ground, watch

Measure = Callable[[Ground, int, int], Awaitable[Spent]]


async def drain(name: str, beside: Ground, jobs: int, concurrency: int) -> Spent:
    """Measure how another queue drains as many jobs."""
    try:
        async with ground(beside.url, migrated=False) as own:
            return await KNOWN[name](own, jobs, concurrency)
    except ImportError as error:
        raise SystemExit(f"--against {name}: {error}; install it with pip") from error


async def _procrastinate(own: Ground, jobs: int, concurrency: int) -> Spent:
    import procrastinate

    connector = procrastinate.PsycopgConnector(conninfo=own.url)
    app = procrastinate.App(connector=connector)
    done = _Countdown(jobs)

    @app.task(name="nothing", queue="bench")
    async def nothing() -> None:
        done.one()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await nothing.batch_defer_async(*({} for _ in range(jobs)))
        with watch() as spent:
            await app.run_worker_async(
                queues=["bench"], concurrency=concurrency, wait=False, install_signal_handlers=False
            )
        await _check(own, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'", jobs)
    done.check()
    return spent[0]


async def _pgqueuer(own: Ground, jobs: int, concurrency: int) -> Spent:
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries
    from pgqueuer.types import QueueExecutionMode

    connection = await own.connect()
    driver = AsyncpgDriver(connection)
    queries = Queries(driver)
    await queries.install()
    await queries.enqueue(["nothing"] * jobs, [None] * jobs, [0] * jobs)
    pgq = PgQueuer(driver)
    done = _Countdown(jobs)

    @pgq.entrypoint("nothing")
    async def nothing(job: Any) -> None:
        done.one()

    with watch() as spent:
        await pgq.run(batch_size=concurrency, mode=QueueExecutionMode.drain, max_concurrent_tasks=2 * concurrency)
    await connection.close()
    await _check(own, "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'", jobs)
    done.check()
    return spent[0]


async def _oban(own: Ground, jobs: int, concurrency: int) -> Spent:
    import oban as theirs

    done = _Countdown(jobs)

    @theirs.job(queue="bench")
    async def nothing() -> None:
        done.one()

    from oban.schema import install
    from psycopg_pool import AsyncConnectionPool

    async with AsyncConnectionPool(own.url, min_size=1, max_size=10) as pool:
        await install(pool)
        made = nothing.new()
        await _execute(
            own,
            f"INSERT INTO oban_jobs (queue, worker, args) SELECT 'bench', '{made.worker}', '{{}}' "
            f"FROM generate_series(1, {jobs}); VACUUM ANALYZE oban_jobs",
        )
        with watch() as spent:
            async with theirs.Oban(pool=pool, queues={"bench": concurrency}):
                await done.reached.wait()
        await _check(own, "SELECT count(*) FROM oban_jobs WHERE state = 'completed'", jobs)
    done.check()
    return spent[0]


class _Countdown:
    def __init__(self, jobs: int) -> None:
        self.reached = asyncio.Event()
        self._left = jobs

    def one(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.reached.set()

    def check(self) -> None:
        if self._left != 0:
            raise SystemExit(f"{self._left} jobs are left, where each was to run once")


async def _execute(own: Ground, statements: str) -> None:
    connection: asyncpg.Connection = await own.connect()
    for statement in statements.split(";"):
        await connection.execute(statement)
    await connection.close()


async def _check(own: Ground, query: str, jobs: int) -> None:
    connection = await own.connect()
    found = await connection.fetchval(query)
    await connection.close()
    if found != jobs:
        raise SystemExit(f"{found} jobs are done by the tables, where {jobs} were to run")


KNOWN: dict[str, Measure] = {"oban": _oban, "pgqueuer": _pgqueuer, "procrastinate": _procrastinate}
