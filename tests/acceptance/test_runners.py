"""Real runners as real processes: killed, stopped, stuck, in each other's way."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from oban_sa import Job, enqueue_many
from tests.acceptance import jobs
from tests.ownserver import OwnServer
from tests.support import Process, eventually, forked, plain_url

SHORT = ["--heartbeat-every", "0.2", "--dead-after", "1"]
ENQUEUE = """
import sys
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from oban_sa import enqueue_many
from tests.acceptance.jobs import counted
engine = create_engine(sys.argv[1])
for batch in range(25):
    with Session(engine) as session, session.begin():
        enqueue_many(session, [counted.new() for _ in range(100)])
"""

Start = Callable[..., Process]


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Callable[..., Any]]:
    """Runs one statement: `await sql("SELECT ...")`."""
    engine = create_async_engine(database_url)
    yield lambda statement, **values: _sql(engine, statement, **values)
    await engine.dispose()


async def _sql(engine: AsyncEngine, statement: str, **values: Any) -> list[Any]:
    async with engine.begin() as connection:
        result = await connection.execute(text(statement), values)
        return list(result.all()) if result.returns_rows else []


@pytest.fixture
def runner(database_url: str):
    """Starts runners on the test's database: `runner("--queues", "default:20")`."""
    with ExitStack() as stack:

        def start(*arguments: str, url: str = database_url) -> Process:
            started: AbstractContextManager[Process] = forked(
                [
                    "-m",
                    "oban_sa.runner",
                    "--database-url",
                    plain_url(url),
                    "--import",
                    "tests.acceptance.jobs",
                    *arguments,
                ]
            )
            return stack.enter_context(started)

        yield start


async def enqueue(url: str, *wanted: Job) -> list[int]:
    engine = create_async_engine(url)
    async with async_sessionmaker(engine, expire_on_commit=False).begin() as session:
        enqueue_many(session, wanted)
    await engine.dispose()
    return [job.id for job in wanted]


def starts(*processes: Process) -> Counter[int]:
    """How often each job was started."""
    lines = [line for each in processes for line in each.stdout.splitlines() if line.startswith("started")]
    return Counter(int(line.split()[1]) for line in lines)


async def test_ten_thousand_jobs_of_four_processes_are_executed_exactly_once_by_two_runners(
    database_url: str, sql, runner: Start
) -> None:
    with ExitStack() as stack:
        writers = [stack.enter_context(forked(["-c", ENQUEUE, sync(database_url)])) for _ in range(4)]
        # Until idle is only a promise about jobs that are there; the first ones have to be.
        await eventually(lambda: some(sql), 30)
        runners = [runner("--queues", "default:20", "--until-idle", "--log-level", "warning") for _ in range(2)]
        for writer in writers:
            assert await writer.ended(60) == 0, writer.output
        for each in runners:
            assert await each.ended(60) == 0, each.output
        if await sql("SELECT 1 FROM oban_jobs WHERE state <> 'completed' LIMIT 1"):
            # They were faster than the writers.
            last = runner("--queues", "default:20", "--until-idle", "--log-level", "warning")
            assert await last.ended(60) == 0, last.output
            runners.append(last)
    assert await sql("SELECT state::text, attempt, count(*) FROM oban_jobs GROUP BY 1, 2") == [("completed", 1, 10_000)]
    assert starts(*runners) == Counter(job_id for (job_id,) in await sql("SELECT id FROM oban_jobs"))
    assert len(await sql("SELECT DISTINCT attempted_by[1] FROM oban_jobs")) >= 2


async def some(sql) -> bool:
    return bool(await sql("SELECT 1 FROM oban_jobs LIMIT 1"))


def sync(url: str) -> str:
    return url.replace("+asyncpg", "+psycopg")


@pytest.mark.parametrize("kind", ["waits", "waits_in_thread", "waits_in_borrowed_thread", "refuses_to_stop"])
async def test_a_runner_told_to_stop_gives_its_jobs_back_and_ends_in_time(
    database_url: str, sql, runner: Start, kind: str
) -> None:
    wanted = getattr(jobs, kind)
    ids = await enqueue(database_url, *(wanted.new(seconds=10) for _ in range(20)))
    first = runner("--queues", "default:20", "--grace", "1")
    await eventually(lambda: len(starts(first)) == 20, 30)
    told = time.monotonic()
    first.terminate()
    assert await first.ended(20) == 0, first.output
    took = time.monotonic() - told
    assert await sql("SELECT state::text, attempt, count(*) FROM oban_jobs GROUP BY 1, 2") == [("available", 0, 20)]
    assert took < 8, first.output  # and not the ten seconds that they wait
    second = runner("--queues", "default:20", "--grace", "0")
    await eventually(lambda: starts(second) == Counter(ids), 30)
    second.kill()


@pytest.mark.chaos
async def test_the_jobs_of_a_killed_node_run_on_another_with_a_word_about_it(
    database_url: str, sql, runner: Start
) -> None:
    ids = await enqueue(database_url, *(jobs.waits.new(seconds=60) for _ in range(20)))
    doomed = runner("--queues", "default:20", "--node", "doomed", *SHORT)
    await eventually(lambda: len(starts(doomed)) == 20, 30)
    living = runner("--queues", "default:20", "--node", "living", *SHORT)
    await living.says("running default:20")
    doomed.kill()
    await eventually(lambda: starts(living) == Counter(ids), 30)
    rows = await sql("SELECT attempt, attempted_by[1], errors[1]->>'error', errors[1]->>'attempt' FROM oban_jobs")
    assert {(attempt, node, error.partition(" stopped")[0], said) for attempt, node, error, said in rows} == {
        (2, "living", "AttemptOrphaned: node doomed", "1")
    }
    living.kill()


@pytest.mark.chaos
async def test_a_job_that_blocks_its_loop_on_a_living_node_runs_once(database_url: str, sql, runner: Start) -> None:
    [job_id] = await enqueue(database_url, jobs.blocks.new(seconds=4))
    blocked = runner("--node", "blocked", *SHORT)
    await eventually(lambda: starts(blocked), 30)
    watching = runner("--node", "watching", *SHORT)
    await watching.says("this node is the leader now", 30)
    await eventually(lambda: completed(sql, 1), 30)
    assert starts(blocked) + starts(watching) == {job_id: 1}
    assert await sql("SELECT attempt, errors FROM oban_jobs") == [(1, [])]


async def completed(sql, count: int) -> bool:
    return await sql("SELECT count(*) FROM oban_jobs WHERE state = 'completed'") == [(count,)]


@pytest.mark.chaos
async def test_a_job_that_kills_its_process_ends_discarded_after_exactly_its_attempts(
    database_url: str, sql, runner: Start
) -> None:
    [job_id] = await enqueue(database_url, jobs.dies.new())
    watching = runner("--node", "watching", "--queues", "nothing:1", *SHORT)
    await watching.says("this node is the leader now", 30)
    died: list[Process] = []
    for n in range(3):
        died.append(runner("--node", f"victim.{n}", *SHORT))
        assert await died[-1].ended(30) == 1
    await eventually(lambda: discarded(sql), 30)
    last = runner("--until-idle", *SHORT)
    assert await last.ended(30) == 0
    assert starts(*died, last) == {job_id: 3}
    [(attempt, errors)] = await sql("SELECT attempt, array_length(errors, 1) FROM oban_jobs")
    assert (attempt, errors) == (3, 3)


async def discarded(sql) -> bool:
    return bool(await sql("SELECT 1 FROM oban_jobs WHERE state = 'discarded'"))


@pytest.mark.chaos
async def test_a_node_that_was_stopped_and_continued_keeps_nothing_that_was_given_to_others(
    database_url: str, sql, runner: Start
) -> None:
    [job_id] = await enqueue(database_url, jobs.waits.new(seconds=60))
    stopped = runner("--node", "stopped", "--log-format", "json", *SHORT)
    await eventually(lambda: starts(stopped), 30)
    other = runner("--node", "other", *SHORT)
    await other.says("running default:10")
    stopped.send(signal.SIGSTOP)
    try:
        await eventually(lambda: starts(other), 30)
    finally:
        stopped.send(signal.SIGCONT)
    await stopped.says("was taken for dead while it lived", 30)
    await stopped.says("oban.job.stale", 30)
    [(node, attempt, state)] = await sql("SELECT attempted_by[1], attempt, state::text FROM oban_jobs")
    assert (node, attempt, state) == ("other", 2, "executing")
    # And it works on.
    [second] = await enqueue(database_url, jobs.counted.new())
    await eventually(lambda: second in starts(stopped, other), 30)
    assert job_id not in starts(stopped) - Counter([job_id])
    stopped.kill()
    other.kill()


@pytest.mark.chaos
async def test_three_nodes_have_one_leader_whichever_of_them_is_stopped_or_killed(
    database_url: str, sql, runner: Start
) -> None:
    nodes = {name: runner("--node", name, *SHORT) for name in ("one", "two", "three")}

    async def leading(*names: str) -> str:
        rows = await sql("SELECT node FROM oban_leaders WHERE expires_at > timezone('UTC', clock_timestamp())")
        assert len(rows) == 1, rows
        assert rows[0][0] in names, rows
        return str(rows[0][0])

    first = await eventually(lambda: leading("one", "two", "three"), 30)
    nodes[first].send(signal.SIGSTOP)
    rest = [name for name in nodes if name != first]
    second = await eventually(lambda: leading(*rest), 30)
    nodes[first].send(signal.SIGCONT)
    await nodes[first].says("this node is not the leader any more", 30)
    assert await leading(second) == second
    nodes[second].terminate()
    assert await nodes[second].ended(20) == 0
    third = await eventually(lambda: leading(*(name for name in nodes if name != second)), 30)
    nodes[third].kill()
    await eventually(lambda: leading(*(name for name in nodes if name not in (second, third))), 30)


@pytest.mark.chaos
async def test_jobs_that_run_through_an_outage_longer_than_death_takes_run_once(
    own_server: OwnServer, runner: Start
) -> None:
    ids = await enqueue(own_server.url, *(jobs.waits.new(seconds=12) for _ in range(10)))
    ages = ["--heartbeat-every", "1.5", "--dead-after", "3"]
    nodes = [runner("--queues", "default:5", "--node", name, *ages, url=own_server.url) for name in ("one", "two")]
    await eventually(lambda: starts(*nodes) == Counter(ids), 30)
    await asyncio.to_thread(own_server.stop)
    await asyncio.sleep(4.0)  # longer than a node needs to be dead
    await asyncio.to_thread(own_server.start)
    engine = create_async_engine(own_server.url)
    for node in nodes:
        await node.says("the database is back", 30)

    async def over() -> bool:
        return not await _sql(engine, "SELECT 1 FROM oban_jobs WHERE state <> 'completed' LIMIT 1")

    await eventually(over, 60)
    await engine.dispose()
    assert starts(*nodes) == Counter(ids)
    for node in nodes:
        assert "is dead" not in node.output
        node.terminate()


@pytest.mark.chaos
async def test_a_database_that_goes_away_under_load_loses_nothing_and_repeats_nothing(
    own_server: OwnServer, runner: Start
) -> None:
    engine = create_async_engine(own_server.url, pool_pre_ping=True)
    await _sql(engine, "CREATE TABLE executions (job_id bigint PRIMARY KEY)")
    plain = await enqueue(own_server.url, *(jobs.counted.new() for _ in range(3000)))
    await enqueue(own_server.url, *(jobs.Count.new() for _ in range(500)))
    nodes = [
        runner("--queues", "default:20", "--node", name, "--log-level", "warning", *SHORT, url=own_server.url)
        for name in ("one", "two")
    ]

    def said(node: Process, what: str) -> int:
        return node.stderr.count(f"the database {what}")

    await eventually(lambda: all(len(starts(node)) > 50 for node in nodes), 30)
    for outage, end in enumerate((own_server.stop, own_server.kill), start=1):
        # However much was done while one of them was not back yet, there is work left on both sides of this outage.
        plain += await enqueue(own_server.url, *(jobs.counted.new() for _ in range(1500)))
        await asyncio.to_thread(end)
        # What was fetched before is started all the same.
        await eventually(lambda outage=outage: all(said(node, "is away") >= outage for node in nodes), 20)
        for node in nodes:
            assert node.returncode is None, node.output
        # Some of that may begin just after it is said: the statement that failed was sent before its rows were read.
        await asyncio.sleep(0.5)
        before = starts(*nodes)
        await asyncio.sleep(1.0)  # away for longer than a node needs to be dead
        assert starts(*nodes) - before == {}
        await asyncio.to_thread(own_server.start)
        await eventually(lambda before=before: sum(starts(*nodes).values()) > sum(before.values()) + 100, 30)
        # Else the next outage would be part of this one for whoever has not come back from it.
        await eventually(lambda outage=outage: all(said(node, "is back") >= outage for node in nodes), 30)

    async def over() -> bool:
        rows = await _sql(engine, "SELECT 1 FROM oban_jobs WHERE state <> 'completed' LIMIT 1")
        await _sql(engine, "UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) WHERE state = 'retryable'")
        return not rows

    await eventually(over, 60)
    assert await _sql(engine, "SELECT count(*) FROM executions") == [(500,)]
    # What had not been acked may have been started again, each time as a further attempt that the row tells of.
    attempts = dict(
        tuple(row) for row in await _sql(engine, "SELECT id, attempt FROM oban_jobs WHERE worker LIKE '%counted'")
    )
    assert attempts.keys() == set(plain)
    again = {job_id: count for job_id, count in starts(*nodes).items() if count > attempts[job_id]}
    assert again == {}
    for node in nodes:
        node.terminate()
    for node in nodes:
        assert await node.ended(20) == 0
        about_the_outage = [line for line in node.stderr.splitlines() if " WARNING " in line or " ERROR " in line]
        story = [line for line in about_the_outage if "failed after" not in line]
        assert len(story) <= 24, node.stderr
        assert "Traceback" not in "\n".join(story)
    await engine.dispose()
