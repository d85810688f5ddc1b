"""Jobs that fork in real runners: whatever becomes of the children, the runner works on, and no child does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.wire.erlang import decode
from tests.acceptance import fork_jobs
from tests.acceptance.house import enqueue, sql
from tests.support import Process, eventually, forked, plain_url, process

PLACES = ["in_thread", "on_loop", "in_process", "in_session", "in_async_session"]


@contextmanager
def runner(url: str, env: dict[str, str], *arguments: str) -> Iterator[Process]:
    command = ["-m", "oban_sa.runner", "--database-url", plain_url(url), "--import", "tests.acceptance.fork_jobs"]
    with forked([*command, *arguments], env=env) as running:
        yield running


@pytest.mark.parametrize("place", PLACES)
async def test_children_of_a_job_end_as_they_would_anywhere_and_the_runner_works_on(
    database_url: str, engine: AsyncEngine, loop: dict[str, str], place: str
) -> None:
    await sql(engine, "CREATE TABLE effects (id serial)")
    worker = getattr(fork_jobs, place)
    ids = await enqueue(engine, *(worker.new(kind=kind) for kind in fork_jobs.KINDS))
    kinds = dict(zip(fork_jobs.KINDS, ids, strict=True))
    with runner(database_url, loop, "--queues", "default:1", "--until-idle") as running:
        assert await running.ended(90) == 0, running.output
        found = dict(await sql(engine, "SELECT id, meta->>'return' FROM oban_jobs WHERE state = 'completed'"))
        assert {kind: decode(found.get(job_id)) for kind, job_id in kinds.items()} == fork_jobs.ENDS, running.output
        assert "received" not in running.output
    if "session" in place:
        assert await sql(engine, "SELECT count(*) FROM effects") == [(len(kinds),)]


@pytest.mark.parametrize("arguments", [(), ("--processes", "2")], ids=["one", "supervised"])
async def test_a_runner_whose_jobs_forked_still_stops_when_it_is_told_to(
    database_url: str, engine: AsyncEngine, loop: dict[str, str], arguments: tuple[str, ...]
) -> None:
    with runner(database_url, loop, *arguments) as running:
        for place in ("in_thread", "on_loop"):
            await enqueue(engine, getattr(fork_jobs, place).new(kind="terminated"))

        async def done() -> None:
            states = await sql(engine, "SELECT state::text, count(*) FROM oban_jobs GROUP BY 1")
            assert states == [("completed", 2)], running.output

        await eventually(done, 60)
        await enqueue(engine, fork_jobs.fine.new())
        await eventually(lambda: completed(engine, 3), 30)
        assert "SIGTERM received" not in running.output
        running.terminate()
        assert await running.ended(30) == 0, running.output
        assert "SIGTERM received" in running.output


async def completed(engine: AsyncEngine, count: int) -> bool:
    return await sql(engine, "SELECT count(*) FROM oban_jobs WHERE state = 'completed'") == [(count,)]


GUEST = """
import asyncio, signal, sys
from sqlalchemy.ext.asyncio import create_async_engine
from oban_sa import Runner
from tests.acceptance import fork_jobs
from tests.acceptance.house import enqueue, sql

async def main():
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    signal.signal(signal.SIGUSR1, handler)
    async with Runner(create_async_engine(sys.argv[1]), queues={"default": 1}) as runner:
        await runner.until_idle()
        print("stopped by a child" if asked.is_set() else "worked on", flush=True)
        print("kept" if signal.getsignal(signal.SIGUSR1) is handler else "lost", flush=True)
        await asked.wait()
    print("stopped when told", flush=True)

def handler(number, frame):
    pass

asyncio.run(main())
"""


async def test_a_program_that_runs_a_runner_keeps_its_own_handlers(database_url: str, engine: AsyncEngine) -> None:
    places = ("in_thread", "on_loop")
    await enqueue(engine, *(getattr(fork_jobs, place).new(kind="terminated") for place in places))
    with process([sys.executable, "-c", GUEST, database_url]) as program:
        await program.says("worked on", 60)
        await program.says("kept")
        program.send(signal.SIGTERM)
        await program.says("stopped when told")
        assert await program.ended() == 0
    found = await sql(engine, "SELECT meta->>'return' FROM oban_jobs")
    assert [decode(each) for (each,) in found] == [-signal.SIGTERM] * 2


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system doesn't show what a process has open")
@pytest.mark.parametrize("arguments", [(), ("--processes", "2")], ids=["one", "supervised"])
async def test_programs_that_jobs_start_inherit_nothing(
    database_url: str, engine: AsyncEngine, loop: dict[str, str], arguments: tuple[str, ...]
) -> None:
    """The channel of a process, for one, leads to the runner, which unpickles what comes out of it."""
    workers = [fork_jobs.inherits_in_thread, fork_jobs.inherits_on_loop, *[fork_jobs.inherits_in_process] * 4]
    await enqueue(engine, *(each.new() for each in workers))
    options = ["--queues", "default:4", "--process-pool", "4", "--health-port", "0", "--until-idle", *arguments]
    with runner(database_url, loop, *options) as running:
        assert await running.ended(60) == 0, running.output
        found = await sql(engine, "SELECT meta->>'return' FROM oban_jobs WHERE state = 'completed'")
        assert [decode(each) for (each,) in found] == [[]] * len(workers), running.output
