"""One database, two programs: Oban for Python beside ours.

Oban for Python needs Python 3.12. The interpreter that has it is this one, or the one that OBAN_PY_PYTHON names.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job, Oban, Record, Workflow, chain, enqueue, worker
from oban_sa.migrations import migrate
from oban_sa.workers import Registry
from tests.runner.conftest import Harness
from tests.support import ROOT, eventually

PYTHON = os.environ.get("OBAN_PY_PYTHON") or (sys.executable if importlib.util.find_spec("oban") else None)

pytestmark = pytest.mark.skipif(PYTHON is None, reason="needs Oban for Python: Python 3.12 and `pip install oban`")

THEIRS = "tests.acceptance.oban_py_node.Theirs"


class Node:
    """The other program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def __call__(self, name: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        await self.process.stdin.drain()
        return await self.answer()

    async def do(self, name: str, *arguments: Any, **options: Any) -> None:
        await self(name, arguments, options)

    async def answer(self) -> Any:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 30)
        assert line, "the node of Oban for Python ended"
        return json.loads(line)[1]


@pytest.fixture
async def node(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    assert PYTHON is not None
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        "-m",
        "tests.acceptance.oban_py_node",
        database_url.replace("+asyncpg", ""),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OBAN_PY_RESCUE_AFTER": getattr(request, "param", "300")},
    )
    made = Node(process)
    assert await made.answer() == "started"
    yield made
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        process.kill()
        await process.wait()
    # The transport of a subprocess is closed by its last pipe, one turn of the loop later.
    await asyncio.sleep(0)


@pytest.fixture
async def harness(engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]) -> Harness:
    harness = Harness(engine, sessions, Registry())

    @worker(name="Ours", queue="ours", registry=harness.registry)
    class Ours:
        async def process(self, job: Job) -> Record:
            for _ in range(int(job.args.get("hundredths", 0))):
                await asyncio.sleep(0.01)
            return Record({"by": "oban_sa", "n": job.args.get("n")})

    harness.options["queues"] = {"ours": 5}
    return harness


async def test_each_runs_the_jobs_that_the_other_enqueues(harness: Harness, node: Node) -> None:
    async with harness.runner():
        [theirs] = await harness.enqueue(Job(THEIRS, queue="theirs", args={"n": 1}))
        ours = await node("enqueue", {"worker": "Ours", "queue": "ours", "args": {"n": 2}})
        assert (await harness.becomes(theirs, "completed")).recorded() == {"by": "oban-py", "n": 1}
        done = await harness.becomes(ours, "completed")
        assert done.recorded() == {"by": "oban_sa", "n": 2}
        assert done.attempt == 1


async def test_a_job_scheduled_by_either_is_run_by_the_other(harness: Harness, node: Node) -> None:
    async with harness.runner():
        [theirs] = await harness.enqueue(Job(THEIRS, queue="theirs", schedule_in=0.3))
        ours = await node("enqueue", {"worker": "Ours", "queue": "ours", "schedule_in": 0.3})
        await harness.becomes(theirs, "completed")
        await harness.becomes(ours, "completed")


async def test_a_pause_from_either_side_is_seen_by_the_other(harness: Harness, node: Node) -> None:
    oban = Oban(harness.engine)
    async with harness.runner(queues={"ours": 5}):
        await node.do("pause_queue", "ours")

        async def paused() -> None:
            [check] = [check for check in await oban.check_queues() if check.queue == "ours"]
            assert check.paused

        await eventually(paused)
        waiting = await node("enqueue", {"worker": "Ours", "queue": "ours"})
        await node.do("resume_queue", "ours")
        await harness.becomes(waiting, "completed")

        await oban.pause_queue("theirs")

        async def theirs_paused() -> None:
            assert (await node("check"))["theirs"]["paused"] is True

        await eventually(theirs_paused)
        await oban.resume_queue("theirs")
        await oban.scale_queue("theirs", limit=2)

        async def scaled() -> None:
            assert (await node("check"))["theirs"] == {"paused": False, "limit": 2, "running": []}

        await eventually(scaled)


async def test_what_they_order_of_one_of_our_nodes_or_of_all_is_done_there(harness: Harness, node: Node) -> None:
    """Two nodes of ours, steered by theirs."""
    async with harness.runner(node="a.1") as a, harness.runner(node="b.1") as b:
        await eventually(lambda: a._notifier.proven and b._notifier.proven)

        def limits(queue: str) -> list[int | None]:
            return [each._queues.serving[queue].limit if queue in each._queues.serving else None for each in (a, b)]

        def paused(queue: str) -> list[bool]:
            return [each._queues.serving[queue].paused for each in (a, b)]

        await node.do("scale_queue", queue="ours", limit=2, node="a.1")
        await eventually(lambda: limits("ours") == [2, 5])
        await node.do("scale_queue", queue="ours", limit=7)
        await eventually(lambda: limits("ours") == [7, 7])
        await node.do("pause_queue", "ours", node="b.1")
        await eventually(lambda: paused("ours") == [False, True])
        await node.do("pause_all_queues")
        await eventually(lambda: paused("ours") == [True, True])
        await node.do("resume_queue", "ours", node="b.1")
        await eventually(lambda: paused("ours") == [True, False])
        await node.do("resume_all_queues")
        await eventually(lambda: paused("ours") == [False, False])
        await node.do("start_queue", queue="extra", limit=3, node="b.1")
        await eventually(lambda: limits("extra") == [None, 3])
        job_id = await node("enqueue", {"worker": "Ours", "queue": "extra", "args": {"n": 1}})
        assert (await harness.becomes(job_id, "completed")).attempted_by[0] == "b.1"
        await node.do("start_queue", queue="idle", limit=2, paused=True)
        await eventually(lambda: limits("idle") == [2, 2] and paused("idle") == [True, True])
        await node.do("stop_queue", "extra", node="b.1")
        await eventually(lambda: limits("extra") == [None, None])
        await node.do("stop_queue", "idle")
        await eventually(lambda: limits("idle") == [None, None])
        assert limits("ours") == [7, 7]


async def test_what_we_order_of_their_node_or_of_all_is_done_there(harness: Harness, node: Node) -> None:
    oban = Oban(harness.engine)

    async def becomes(queue: str, **expected: Any) -> None:
        async def there() -> None:
            found = (await node("check")).get(queue)
            assert (found and {key: found[key] for key in expected}) == (expected or None), found

        await eventually(there)

    async with harness.runner(node="a.1") as ours:
        await eventually(lambda: ours._notifier.proven)
        await oban.scale_queue("theirs", limit=3, node="py.1")
        await becomes("theirs", limit=3)
        await oban.pause_queue("theirs", node="a.1")  # which has no such queue
        await oban.scale_queue("theirs", limit=4)
        await becomes("theirs", limit=4, paused=False)
        await oban.pause_queue("theirs", node="py.1")
        await becomes("theirs", paused=True)
        await oban.resume_all_queues()
        await becomes("theirs", paused=False)
        await oban.start_queue("extra", limit=2, node="py.1")
        await becomes("extra", limit=2)
        assert "extra" not in ours._queues.serving
        [job_id] = await harness.enqueue(Job(THEIRS, queue="extra", args={"n": 1}))
        assert (await harness.becomes(job_id, "completed")).attempted_by[0] == "py.1"
        await oban.stop_queue("extra", node="py.1")
        await becomes("extra")
        await oban.pause_all_queues()
        await becomes("theirs", paused=True)
        await eventually(lambda: ours._queues.serving["ours"].paused)


async def test_a_running_job_is_cancelled_from_the_other_side(harness: Harness, node: Node) -> None:
    oban = Oban(harness.engine)
    async with harness.runner():
        ours = await node("enqueue", {"worker": "Ours", "queue": "ours", "args": {"hundredths": 3000}})
        await harness.becomes(ours, "executing")
        await node.do("cancel_job", ours)
        assert (await harness.becomes(ours, "cancelled")).errors != []

        [theirs] = await harness.enqueue(Job(THEIRS, queue="theirs", args={"hundredths": 3000}))
        await harness.becomes(theirs, "executing")
        await oban.cancel_job(theirs)
        # It ends by itself once its code sees that it was cancelled, and theirs calls that completed.
        await eventually(lambda: ended(harness, theirs))


async def ended(harness: Harness, job_id: int) -> None:
    assert (await harness.job(job_id)).state in ("completed", "cancelled")


async def test_neither_takes_the_others_running_jobs_for_orphans(harness: Harness, node: Node) -> None:
    async with harness.runner(heartbeat_every=0.1, dead_after=0.5):
        [theirs] = await harness.enqueue(Job(THEIRS, queue="theirs", args={"hundredths": 250}))
        ours = await node("enqueue", {"worker": "Ours", "queue": "ours", "args": {"hundredths": 250}})
        await harness.becomes(ours, "completed")
        await harness.becomes(theirs, "completed")
        assert [(await harness.job(job_id)).attempt for job_id in (ours, theirs)] == [1, 1]
        assert [(await harness.job(job_id)).errors for job_id in (ours, theirs)] == [[], []]


async def test_both_drain_one_queue_and_every_job_runs_once(harness: Harness, node: Node) -> None:
    @worker(name=THEIRS, registry=harness.registry)
    class Same:
        async def process(self, job: Job) -> Record:
            await asyncio.sleep(0.002)
            return Record({"by": "oban_sa", "n": job.args["n"]})

    ids = await harness.enqueue(*(Job(THEIRS, queue="shared", args={"n": n}) for n in range(300)))
    async with harness.runner(queues={"shared": 3}):

        async def all_done() -> None:
            assert await harness.states() == {"completed": 300}

        await eventually(all_done, within=30)
    jobs = [await harness.job(job_id) for job_id in ids]
    assert {each.attempt for each in jobs} == {1}
    assert {each.recorded()["by"] for each in jobs} == {"oban_sa", "oban-py"}


@pytest.mark.parametrize("node", ["2"], indirect=True)
@pytest.mark.parametrize("keep_young_after", [1, None])
async def test_their_lifeline_leaves_a_long_job_of_ours_alone_where_it_is_kept_young(
    harness: Harness, node: Node, keep_young_after: float | None
) -> None:
    """It takes what began two seconds ago for lost, and looks for it twenty times a second."""
    gate = asyncio.Event()
    attempts: list[int] = []

    @worker(name="Long", queue="ours", registry=harness.registry)
    class Long:
        async def process(self, job: Job) -> None:
            attempts.append(job.attempt)
            if job.attempt == 1:
                await gate.wait()

    [job_id] = await harness.enqueue(Job("Long", queue="ours"))
    async with harness.runner(keep_young_after=keep_young_after):
        await harness.becomes(job_id, "executing")
        began = (await harness.job(job_id)).attempted_at

        async def old_enough() -> None:
            [[passed]] = await harness.sql("SELECT timezone('UTC', clock_timestamp())")
            assert (passed - began.replace(tzinfo=None)).total_seconds() > 4 or len(attempts) > 1

        await eventually(old_enough)
        gate.set()
        done = await harness.becomes(job_id, "completed")
    if keep_young_after is None:
        assert (attempts, done.meta["rescued"]) == ([1, 2], 1)
    else:
        assert (attempts, done.attempt, done.meta, done.attempted_at) == ([1], 1, {}, began)


async def run_chain(harness: Harness) -> None:
    """Ours, theirs, ours; theirs is acked without a note."""
    flow: Workflow = chain(
        Job("Ours", queue="ours", args={"n": 1}), Job(THEIRS, queue="theirs", args={"n": 2}), Job("Ours", queue="ours")
    )
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    last = flow.tree().members[-1].job.id
    await harness.becomes(last, "completed", within=30)

    async def over() -> None:
        status = await Oban(harness.engine).workflow(flow)
        assert (status.state, status.completed, status.unfinished) == ("completed", 3, 0)

    await eventually(over)


async def test_a_member_of_a_workflow_that_they_run_is_found_by_the_leader(harness: Harness, node: Node) -> None:
    async with harness.runner():
        await run_chain(harness)


async def test_the_trigger_notes_the_end_of_a_member_that_they_run(
    harness: Harness, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.runner.maintenance.settler.SWEEP_EVERY", 3600)
    async with harness.engine.begin() as connection:
        await connection.run_sync(lambda sync: migrate(sync, flow_trigger=True))
    async with harness.runner():
        await run_chain(harness)
