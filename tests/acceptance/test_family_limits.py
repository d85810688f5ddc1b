"""Unique jobs, limits and sequences, where Oban for Python works in the same tables and knows of none of them."""

from __future__ import annotations

import asyncio
import warnings
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Job, Oban, Queue, Record, Unique, enqueue, worker
from oban_sa.errors import LimitsNotObserved
from tests.acceptance import test_family
from tests.acceptance.test_family import PYTHON, THEIRS, Node, ended
from tests.runner.conftest import Harness
from tests.support import eventually

pytestmark = pytest.mark.skipif(PYTHON is None, reason="needs Oban for Python: Python 3.12 and `pip install oban`")

harness, node = test_family.harness, test_family.node  # fixtures

WAITS: Any = Unique(group="waiting")
ONCE: Any = Unique()


async def new(harness: Harness, unique: Unique = ONCE, **options: Any) -> Job:
    """Enqueue a unique job for their queue, and commit it."""
    async with harness.sessions.begin() as session:
        return await flushed(session, unique, **options)


async def flushed(session: AsyncSession, unique: Unique = ONCE, **options: Any) -> Job:
    made = Job(THEIRS, **{"queue": "theirs", "args": {"n": 1}, **options}, unique=unique)
    found = enqueue(session, made)
    await session.flush()
    return found


async def test_a_unique_job_that_they_run_blocks_as_long_as_its_row_says(harness: Harness, node: Node) -> None:
    long = {"n": 1, "hundredths": 3000}
    first = await new(harness, args=long)
    await harness.becomes(first.id, "executing")
    again = await new(harness, args=long)
    assert (again.conflict.id, again.conflict.state) == (first.id, "executing")
    await node.do("cancel_job", first.id)
    await eventually(lambda: ended(harness, first.id))

    short = await new(harness)
    assert (await harness.becomes(short.id, "completed")).recorded() == {"by": "oban-py", "n": 1}
    again = await new(harness)
    assert (again.conflict.id, again.conflict.state) == (short.id, "completed")
    # What they delete, or cancel before it ran, is in nobody's way.
    await node.do("delete_job", short.id)
    await node.do("pause_queue", "theirs")
    waiting = await new(harness)
    assert waiting.conflict is None
    await node.do("cancel_job", waiting.id)
    newer = await new(harness)
    assert (newer.conflict, newer.id > waiting.id) == (None, True)
    # Their retry asks for no key: both wait, both run, and nothing fails.
    await node.do("retry_job", waiting.id)
    assert {(await harness.job(each)).state for each in (waiting.id, newer.id)} == {"available"}
    await node.do("resume_queue", "theirs")
    for each in (waiting.id, newer.id):
        done = await harness.becomes(each, "completed")
        assert (done.attempt, done.errors) == (1, [])
    # And ours asks still, whatever theirs has written into the meta: the pointer is that of the newer one.
    await node.do("retry_job", waiting.id)
    await harness.becomes(waiting.id, "completed")
    [[changed]] = await harness.sql(
        "UPDATE oban_jobs SET state = 'cancelled' WHERE id = :id RETURNING meta ? 'uniq_bmp'", id=waiting.id
    )
    assert changed
    retried = await Oban(harness.engine).retry_jobs([waiting.id])
    assert (retried, retried.conflicts[waiting.id].id) == (0, newer.id)


async def test_a_job_of_theirs_stands_in_the_way_of_no_unique_job(harness: Harness, node: Node) -> None:
    await node.do("pause_queue", "theirs")
    theirs = await node("enqueue", {"worker": THEIRS, "queue": "theirs", "args": {"n": 1}})
    ours = await new(harness)
    later = await node("enqueue", {"worker": THEIRS, "queue": "theirs", "args": {"n": 1}})
    assert ours.conflict is None
    await node.do("resume_queue", "theirs")
    for each in (theirs, ours.id, later):
        assert (await harness.becomes(each, "completed")).errors == []


async def test_they_start_no_job_that_is_joined_before_the_commit(harness: Harness, node: Node) -> None:
    await node.do("pause_queue", "theirs")
    waiting = await new(harness, WAITS)
    async with harness.sessions.begin() as session:
        joins = await flushed(session, WAITS)
        assert joins.conflict is not None
        await node.do("resume_queue", "theirs")
        other = await node("enqueue", {"worker": THEIRS, "queue": "theirs", "args": {"n": 2}})
        await harness.becomes(other, "completed")  # they pass it by, and do not wait for it
        assert (await harness.job(waiting.id)).state == "available"
    assert (await harness.becomes(waiting.id, "completed")).attempt == 1


async def test_what_they_run_counts_within_our_limits_and_verify_names_them(harness: Harness, node: Node) -> None:
    started = asyncio.Event()

    @worker(name="Slot", queue="shared", registry=harness.registry)
    class Slot:
        async def process(self, job: Job) -> None:
            started.set()

    held = await harness.enqueue(*(Job(THEIRS, queue="shared", args={"hundredths": 3000}) for _ in range(3)))
    for each in held:
        await harness.becomes(each, "executing")
    limited = {"shared": Queue(5, global_limit=2)}
    async with harness.runner(queues=limited, node="ours.1", dead_after=60):
        # They observe no limit, and are three; ours starts none beside them.
        await node.do("pause_queue", "shared", node="py.1")
        [ours] = await harness.enqueue(Job("Slot", queue="shared"))
        [use] = await Oban(harness.engine).check_limits()
        assert (use.executing, use.foreign) == (3, ("py.1",))
        with pytest.warns(LimitsNotObserved, match=r"The queue shared has limits, and py\.1 serves it without"):
            await Oban(harness.engine).verify()
        with suppress(TimeoutError):
            await asyncio.wait_for(started.wait(), 1)
        assert (await harness.job(ours)).state == "available"
        for each in held[:2]:
            await node.do("cancel_job", each)
        assert (await harness.becomes(ours, "completed")).attempt == 1
        await node.do("cancel_job", held[2])
        await node.do("stop_queue", "shared", node="py.1")

        async def observed() -> None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                await Oban(harness.engine).verify()
            assert caught == []

        await eventually(observed)


@pytest.mark.parametrize("each", [1, None])
async def test_jobs_of_theirs_run_in_a_queue_of_ours_with_partitions_and_a_rate(
    harness: Harness, node: Node, each: int | None
) -> None:
    most, running = 0, 0

    @worker(name="Keyed", queue="keyed", partition="args.n", registry=harness.registry)
    class Keyed:
        async def process(self, job: Job) -> None:
            nonlocal most, running
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            if job.args.get("fails") and job.attempt == 1:
                raise ValueError("once")

    keyed = {"keyed": Queue(5, by="partition", each=each, rate="1000/s")}
    async with harness.runner(queues=keyed, dead_after=60):
        made = [
            await node("enqueue", {"worker": "Keyed", "queue": "keyed", "args": {"n": 7}, **options})
            for options in (
                {},
                {},
                {"schedule_in": 0.3},
                {"priority": 2},
                {"max_attempts": 1, "args": {"n": 7, "fails": 1}},
            )
        ]
        for job_id in made[:4]:
            done = await harness.becomes(job_id, "completed")
            assert (done.meta["partition"], done.attempt, done.errors) == ("7", 1, [])
        await harness.becomes(made[4], "discarded")
        await node.do("retry_job", made[4])
        assert (await harness.becomes(made[4], "completed")).attempt == 2
        later = await node("enqueue", {"worker": "Keyed", "queue": "keyed", "args": {"n": 7}, "schedule_in": 3600})
        await node.do("cancel_job", later)
        assert (await harness.job(later)).state == "cancelled"
        await node.do("retry_job", later)
        await harness.becomes(later, "completed")
    assert most == 1 or each is None


async def test_a_sequence_of_ours_goes_on_by_what_they_do_to_its_head(harness: Harness, node: Node) -> None:
    @worker(name="Step", queue="ours", sequence="args.account", on_failure="halt", registry=harness.registry)
    class Step:
        async def process(self, job: Job) -> Record:
            if job.args.get("fails") and job.attempt == 1:
                raise ValueError("once")
            return Record(job.args["account"])

    async def sequence() -> tuple[int, int]:
        jobs = [Step.new({"account": 1, "fails": True}, max_attempts=1), Step.new({"account": 1})]
        head, follower = await harness.enqueue(*jobs)
        await harness.becomes(head, "discarded")
        assert [each.job_id for each in await Oban(harness.engine).list_halted_sequences()] == [head]
        assert (await harness.job(follower)).attempt == 0
        return head, follower

    async with harness.runner():
        head, follower = await sequence()
        await node.do("retry_job", head)
        assert (await harness.becomes(head, "completed")).attempt == 2
        await harness.becomes(follower, "completed")
        head, follower = await sequence()
        await node.do("delete_job", head)
        await harness.becomes(follower, "completed")
        head, follower = await sequence()
        await node.do("cancel_job", follower)  # which waits; the head halts the next one too
        [last] = await harness.enqueue(Step.new({"account": 1}))
        await Oban(harness.engine).resume_sequence("ours", 1)
        await harness.becomes(last, "completed")
        assert (await harness.job(follower)).state == "cancelled"


async def test_they_run_jobs_of_a_sequence_in_any_order_and_none_fails(harness: Harness, node: Node) -> None:
    meta = {"sequence": "1", "halts": True, "partition": "1"}
    ids = await harness.enqueue(*(Job(THEIRS, queue="theirs", args={"n": n}, meta=meta) for n in range(20)))
    for job_id in ids:
        assert (await harness.becomes(job_id, "completed")).errors == []


@pytest.mark.parametrize("node", ["1"], indirect=True)
async def test_their_rescue_of_a_unique_job_never_fails(harness: Harness, node: Node) -> None:
    """Two jobs of a key, as their retry leaves them; both are rescued, and run again."""
    first = await new(harness)
    await harness.becomes(first.id, "completed")
    await harness.sql(
        """
        UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_by = ARRAY['gone', 'gone'],
               attempted_at = timezone('UTC', now()) - interval '1 hour', completed_at = NULL
        WHERE id = :id
        """,
        id=first.id,
    )
    done = await harness.becomes(first.id, "completed")
    assert (done.attempt, done.meta["rescued"]) == (2, 1)
    assert "unique" in done.meta
    assert (await new(harness)).conflict.id == first.id
