"""Nodes that live keep their jobs, and the jobs of those that died are given to others: exactly those."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from oban_sa import Job, Runner, job, telemetry
from oban_sa.jobs.attempted_by import OURS, new_producer
from oban_sa.runner.cluster.heartbeat import Heartbeat
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.attempt import Interrupted
from oban_sa.runner.maintenance import lifeline as lifelines
from oban_sa.runner.maintenance import parts
from oban_sa.runner.maintenance.lifeline import Lifeline, _Missing
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.queues import Queues
from oban_sa.sql import producers
from tests import factories
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.fixture
async def leader(harness: Harness) -> AsyncIterator[Leader]:
    made = Leader(Database(harness.engine), source=telemetry.Source(node="leading"), lasts=60)
    await made.tick()
    yield made
    await made.close()


@pytest.fixture
async def lifeline(harness: Harness, leader: Leader) -> AsyncIterator[Lifeline]:
    made = Lifeline(Database(harness.engine), leader, source=telemetry.Source(node="leading"), every=1)
    yield made
    await made.close()


async def producer_row(
    harness: Harness, *, silent_for: float, meta: dict[str, Any] | None = None, node: str = "web.7"
) -> UUID:
    """A producer that beat last so many seconds ago, and said that it is dead after two."""
    said = {"dead_after": 2} if meta is None else meta
    return UUID(await harness.add(factories.producer(node, silent_for=silent_for, **said)))


async def executing(harness: Harness, holder: UUID | str, *, node: str = "web.7", **values: Any) -> int:
    [job_id] = await harness.enqueue(Job("worker", **values))
    await harness.add(factories.executing([job_id], by=holder, node=node, since=3600))
    return job_id


# A fetch that arrives late, and jobs that it leaves under no row


async def test_a_fetch_takes_nothing_unless_its_producer_has_its_row(harness: Harness) -> None:
    """Else what arrives after the producer has left, or was taken for dead, would be held by none."""
    uuid = new_producer()
    tables = Tables(Database(harness.engine), "default", ["web.7", str(uuid)], schema="public")
    [job_id] = await harness.enqueue(Job("worker"))
    assert await tables.exchange([], 5) == ([], [])
    assert (await harness.job(job_id)).state == "available"
    await tables.register({"uuid": uuid, "name": "Oban", "node": "web.7", "queue": "default", "meta": "{}"})
    _, rows = await tables.exchange([], 5)
    assert [row["id"] for row in rows] == [job_id]
    await tables.leave(uuid)
    [other] = await harness.enqueue(Job("worker"))
    assert await tables.exchange([], 5) == ([], [])
    assert (await harness.job(other)).state == "available"
    await tables.close()


async def test_a_job_held_by_a_producer_of_ours_without_a_row_is_rescued_once_that_is_silent(
    harness: Harness, leader: Leader
) -> None:
    held = await executing(harness, new_producer())
    theirs = await executing(harness, uuid4(), node="elixir")
    made = Lifeline(Database(harness.engine), leader, source=telemetry.Source(node="leading"), every=1, dead_after=2)
    await made.tick()
    [row] = await harness.sql("SELECT node, queue, meta->'running', meta->'dead_after' FROM oban_producers")
    assert tuple(row) == ("web.7", "default", [held], 2)
    assert (await harness.job(held)).state == "executing"
    await harness.sql("UPDATE oban_producers SET updated_at = updated_at - interval '3 seconds'")
    await made.tick()
    await made.close()
    rescued = await harness.job(held)
    assert (rescued.state, rescued.attempt, rescued.meta["rescued"]) == ("available", 1, 1)
    assert rescued.errors[0]["error"].startswith("AttemptOrphaned: node web.7 stopped beating")
    assert await harness.sql("SELECT * FROM oban_producers") == []
    assert (await harness.job(theirs)).state == "executing"


async def test_a_producer_that_lives_goes_on_under_the_row_that_it_was_given(harness: Harness, leader: Leader) -> None:
    gate = asyncio.Event()

    @job(registry=harness.registry)
    async def waits() -> None:
        await gate.wait()

    [job_id] = await harness.enqueue(waits.new())
    made = Lifeline(Database(harness.engine), leader, source=telemetry.Source(node="leading"), every=1, dead_after=2)
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await eventually(lambda: producer.running)
        await harness.sql("DELETE FROM oban_producers")
        await made.tick()

        async def beats() -> None:
            [row] = await harness.sql("SELECT uuid, updated_at > started_at FROM oban_producers")
            assert tuple(row) == (producer.uuid, True)

        await eventually(beats)
        await made.tick()
        assert list(producer.running) == [job_id]
        gate.set()
        assert (await harness.becomes(job_id, "completed")).attempt == 1
    await made.close()


async def test_holders_that_strangers_wrote_hold_up_no_rescue(harness: Harness, leader: Leader) -> None:
    held = await executing(harness, new_producer())
    for holder in ("0ba5", "0ba5zzzz-0000-8000-8000-000000000000", str(new_producer()) + "\n", "x" * 100_000):
        await executing(harness, holder)
    for nothing in ("'{}'", "NULL", "ARRAY[NULL, NULL]", f"ARRAY[NULL, '{new_producer()}']", "'{{a,b},{c,d}}'"):
        job_id = await executing(harness, "none")
        await harness.sql("ALTER TABLE oban_jobs ALTER attempted_by DROP NOT NULL")
        await harness.sql(f"UPDATE oban_jobs SET attempted_by = {nothing} WHERE id = :id", id=job_id)
    made = Lifeline(Database(harness.engine), leader, source=telemetry.Source(node="leading"), every=1, dead_after=2)
    await made.tick()
    await made.close()
    rows = await harness.sql("SELECT node, meta->'running' FROM oban_producers")
    assert ("web.7", [held]) in [tuple(row) for row in rows]
    assert {row[0] for row in rows} == {"web.7", "unknown"}


def test_our_producers_are_told_from_all_others_by_their_uuids() -> None:
    made = {new_producer() for _ in range(1000)}
    assert len(made) == 1000
    assert {uuid.version for uuid in made} == {8}
    assert {uuid.variant for uuid in made} == {"specified in RFC 4122"}
    assert all(re.match(OURS, str(uuid)) for uuid in made)
    assert not any(re.match(OURS, str(uuid4())) for _ in range(1000))


# The heartbeat


async def test_a_node_beats_before_its_first_job_begins(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of a first job that blocks the loop must not make a node that has just started look dead."""
    order: list[str] = []
    beat, begin = Heartbeat._once, Queues.begin

    async def beating(self: Heartbeat, *given: Any) -> None:
        order.append("beats")
        await beat(self, *given)

    async def beginning(self: Queues) -> None:
        await eventually(lambda: order)
        order.append("begins")
        await begin(self)

    monkeypatch.setattr(Heartbeat, "_once", beating)
    monkeypatch.setattr(Queues, "begin", beginning)
    async with harness.runner(heartbeat_every=60, dead_after=120):
        assert order == ["beats", "begins"]


@pytest.mark.parametrize("statement", ["beat", "register"])
@pytest.mark.parametrize(
    ("before", "is_kept"), [("0.1 seconds", False), ("-0.5 seconds", True), ("-1 hour", False), ("infinity", False)]
)
async def test_a_beat_that_was_held_up_takes_nothing_back(
    harness: Harness, statement: str, before: str, is_kept: bool
) -> None:
    """A later beat may have overtaken it; but what claims to come from the future does not stay."""
    uuid = await producer_row(harness, silent_for=0)
    row = {"uuid": uuid, "name": "Oban", "node": "web.7", "queue": "default", "meta": "{}"}
    database = Database(harness.engine)
    line = database.line()
    prepared = database.prepare(getattr(producers, statement))
    async with line.transaction() as transaction:
        # The transaction's now is what a statement that is held up says; half a second later another beat was there.
        await transaction.connection.execute("SELECT pg_sleep(0.6)")
        moment = "'infinity'" if before == "infinity" else f"timezone('UTC', now()) - interval '{before}'"
        await transaction.connection.execute(f"UPDATE oban_producers SET updated_at = {moment}")
        await transaction.fetch(prepared, **(row if statement == "register" else {"uuids": [uuid]}))
        kept, lag = await transaction.connection.fetchrow(
            f"SELECT updated_at = {moment}, extract(epoch FROM updated_at - timezone('UTC', now()))::float "
            "FROM oban_producers"
        )
    await line.close()
    assert bool(kept) is is_kept
    assert 0 <= lag < 60


async def test_a_beat_says_nothing_of_producers_that_have_no_row_yet(harness: Harness, of) -> None:
    async with harness.runner() as runner:
        new = runner._queues._make("later", 1, paused=False)
        runner._queues.serving["later"] = new
        runner._queues._changed()
        await eventually(lambda: new.uuid not in {row["uuid"] for row in runner._heartbeat._rows()})
        await asyncio.sleep(0)
        seen = [row for (row,) in await harness.sql("SELECT queue FROM oban_producers")]
        assert seen == ["default"]
        await new.start()
        assert new.uuid in {row["uuid"] for row in runner._heartbeat._rows()}
    assert of(telemetry.ProducerLost) == []


async def test_it_beats_while_the_loop_is_blocked(harness: Harness) -> None:
    beats: list[Any] = []

    @job(registry=harness.registry)
    async def blocks() -> None:
        import psycopg

        url = harness.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            deadline = time.monotonic() + 10
            while len(beats) < 5 and time.monotonic() < deadline:
                [beat] = connection.execute("SELECT updated_at FROM oban_producers").fetchall()
                if beat not in beats:
                    beats.append(beat)
                time.sleep(0.02)  # noqa: ASYNC251 - blocks on purpose

    await harness.enqueue(blocks.new())
    await harness.drain(heartbeat_every=0.05)
    assert len(beats) == 5


async def test_a_job_that_blocks_the_loop_for_longer_than_death_takes_runs_once(harness: Harness) -> None:
    starts: list[int] = []

    @job(registry=harness.registry)
    async def blocks(job: Job) -> None:
        starts.append(job.attempt)
        time.sleep(1.0)  # noqa: ASYNC251 - blocks on purpose

    [job_id] = await harness.enqueue(blocks.new())
    short = {"heartbeat_every": 0.1, "dead_after": 0.4}
    other = asyncio.create_task(asyncio.to_thread(asyncio.run, another_node(harness, short, job_id)))
    async with harness.runner(**short):
        await harness.becomes(job_id, "completed")
    await other
    assert starts == [1]


async def another_node(harness: Harness, options: dict[str, Any], job_id: int) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(harness.engine.url)
    runner = Runner(engine, **{**harness.options, **options, "queues": {"other": 1}, "node": "another"})
    async with runner, engine.connect() as connection:

        async def done() -> bool:
            found = await connection.scalar(text("SELECT state::text FROM oban_jobs WHERE id = :id"), {"id": job_id})
            await connection.rollback()
            return found == "completed"

        await eventually(done)
    await engine.dispose()


@pytest.mark.usefixtures("undecided")  # which would find the job that is lost, by its row and not by the producer's
async def test_a_row_that_is_gone_is_written_again_and_those_still_held_go_on(harness: Harness, of) -> None:
    ended: dict[int, str] = {}
    finish = asyncio.Event()

    @job(name="worker", registry=harness.registry)
    async def waits(job: Job) -> None:
        try:
            await finish.wait()
            ended[job.id] = "finished"
        except asyncio.CancelledError:
            ended[job.id] = "interrupted"
            raise

    kept, lost = await harness.enqueue(Job("worker"), Job("worker"))
    # Jobs under no row are rescued after some beats, so the row must be back before that on a busy machine too.
    async with harness.runner(heartbeat_every=1, dead_after=20, poll_every=60) as runner:
        [producer] = runner._queues.all
        await eventually(lambda: len(producer.running) == 2)
        await harness.sql(
            "UPDATE oban_jobs SET attempted_by = '{other,node}', attempt = attempt + 1 WHERE id = :id", id=lost
        )
        await harness.sql("DELETE FROM oban_producers")
        await eventually(lambda: ended == {lost: "interrupted"})
        assert [uuid for (uuid,) in await harness.sql("SELECT uuid FROM oban_producers")] == [producer.uuid]
        finish.set()
        await harness.becomes(kept, "completed")
        # As if the node that had it went away too; nobody else would finish it here.
        await harness.sql("UPDATE oban_jobs SET state = 'cancelled' WHERE id = :id", id=lost)
    assert ended == {kept: "finished", lost: "interrupted"}
    assert [event.queue for event in of(telemetry.ProducerLost)] == ["default"]
    assert [event.job_id for event in of(telemetry.JobStale)] == [lost]


async def test_a_node_that_stood_still_fetches_nothing_before_its_row_stands_again(
    harness: Harness, monkeypatch
) -> None:
    """Were it to die between a fetch and its next beat, nobody would ever look for what it had fetched."""
    seen: list[int] = []

    @job(name="worker", registry=harness.registry)
    async def looks() -> None:
        seen.append(len(await harness.sql("SELECT 1 FROM oban_producers")))

    async def never(*args: Any, **kwargs: Any) -> None:
        return None

    monkeypatch.setattr(Heartbeat, "_once", never)
    async with harness.runner(poll_every=60) as runner:
        [producer] = runner._queues.all
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")
        await harness.sql("DELETE FROM oban_producers")
        producer.registration.seen_at -= 3600  # the process was stopped for an hour
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")
    assert seen == [1, 1]


async def test_a_producer_that_could_not_reach_the_database_registers_before_it_fetches(
    harness: Harness, monkeypatch
) -> None:
    seen: list[int] = []

    @job(name="worker", registry=harness.registry)
    async def looks() -> None:
        seen.append(len(await harness.sql("SELECT 1 FROM oban_producers")))

    async def never(*args: Any, **kwargs: Any) -> None:
        return None

    monkeypatch.setattr(Heartbeat, "_once", never)
    exchange = Tables.exchange
    failed: list[bool] = []

    async def cut(self: Tables, *args: Any) -> Any:
        if not failed:
            failed.append(True)
            raise ConnectionResetError
        return await exchange(self, *args)

    async with harness.runner(poll_every=60) as runner:
        await eventually(lambda: runner._notifier.proven)
        await harness.sql("DELETE FROM oban_producers")
        monkeypatch.setattr(Tables, "exchange", cut)
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")
    assert seen == [1]


@pytest.mark.parametrize("told", [False, True])
async def test_a_job_that_comes_back_while_its_former_attempt_still_runs_is_kept_apart(
    harness: Harness, of, told: bool
) -> None:
    """Elixir's nodes rescue by age, also what still runs here; which may be `told` before the job is fetched again.

    Its code is interrupted once, and not again while it cleans up.
    """
    runs: list[tuple[int, str]] = []
    second, first_ended = asyncio.Event(), asyncio.Event()

    @job(name="worker", registry=harness.registry)
    async def twice(job: Job) -> None:
        if job.attempt == 1:
            try:
                await asyncio.Event().wait()
            finally:
                await second.wait()
                runs.append((1, "interrupted"))
                first_ended.set()
        runs.append((job.attempt, "began"))
        second.set()
        await first_ended.wait()

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(poll_every=0.05) as runner:
        await harness.becomes(job_id, "executing")
        if told:
            [producer] = runner._queues.all
            await eventually(lambda: any(each.begun for each in producer.running.values()))
            producer.interrupt(Interrupted.LOST)
        await harness.sql("UPDATE oban_jobs SET state = 'available'")
        done = await harness.becomes(job_id, "completed")
    assert sorted(runs) == [(1, "interrupted"), (2, "began")]
    assert done.attempt == 2
    assert [(event.job_id, event.attempt) for event in of(telemetry.JobStale)] == [(job_id, 1)]


# The lifeline


async def test_the_jobs_of_a_dead_node_are_given_to_others_with_a_word_about_it(
    harness: Harness, lifeline: Lifeline, of
) -> None:
    dead = await producer_row(harness, silent_for=10)
    rescued = await executing(harness, dead, meta={"rescued": 2, "mine": 1})
    spent = await executing(harness, dead, max_attempts=1)
    await lifeline.tick()
    back, over = await harness.job(rescued), await harness.job(spent)
    assert (back.state, back.attempt, over.state, over.attempt) == ("available", 1, "discarded", 1)
    assert back.meta == {"rescued": 3, "mine": 1}
    assert over.discarded_at is not None
    for found in (back, over):
        [entry] = found.errors
        assert entry["attempt"] == 1
        assert entry["error"].startswith("AttemptOrphaned: node web.7 stopped beating 10")
        assert entry["error"].endswith("while it ran this attempt")
    assert await harness.sql("SELECT * FROM oban_producers") == []
    [event] = of(telemetry.LifelineRescue)
    assert (event.count, event.discarded, set(event.job_ids)) == (2, 1, {rescued, spent})


async def test_nobody_else_is_taken_for_dead(harness: Harness, lifeline: Lifeline) -> None:
    holders = {
        "living": await producer_row(harness, silent_for=1, meta={"dead_after": 60}),
        "patient": await producer_row(harness, silent_for=500, meta={"dead_after": 1000}),
        "of the family": await producer_row(harness, silent_for=500, meta={"limit": 10, "paused": False}),
        "odd": await producer_row(harness, silent_for=500, meta={"dead_after": "soon"}),
        "huge": await producer_row(harness, silent_for=500, meta={"dead_after": 10**400}),
        "null": await producer_row(harness, silent_for=500, meta={"dead_after": None}),
        "unknown": uuid4(),
        "elixir's": "",
    }
    ids = [await executing(harness, holder) for holder in holders.values()]
    dead = await producer_row(harness, silent_for=10)
    orphan = await executing(harness, dead)
    await lifeline.tick()
    assert [(await harness.job(job_id)).state for job_id in ids] == ["executing"] * len(ids)
    assert (await harness.job(orphan)).state == "available"
    assert len(await harness.sql("SELECT * FROM oban_producers")) == 6


@pytest.mark.parametrize(
    "meta",
    [
        '{"rescued": "often"}',
        "[]",
        "null",
        '{"rescued": null}',
        '{"rescued": [1]}',
        '{"rescued": 1.5}',
        '{"rescued": 1e300}',
    ],
)
async def test_odd_meta_keeps_nobody_from_being_rescued(harness: Harness, lifeline: Lifeline, meta: str) -> None:
    orphan = await executing(harness, await producer_row(harness, silent_for=10))
    await harness.sql("UPDATE oban_jobs SET meta = CAST(:meta AS jsonb)", meta=meta)
    await lifeline.tick()
    assert await harness.sql("SELECT state::text FROM oban_jobs WHERE id = :id", id=orphan) == [("available",)]


async def test_a_job_that_is_just_being_committed_waits_and_so_does_its_producer(
    harness: Harness, lifeline: Lifeline
) -> None:
    dead = await producer_row(harness, silent_for=10)
    committing, orphan = await executing(harness, dead), await executing(harness, dead)
    async with harness.engine.begin() as connection:
        await connection.execute(text("UPDATE oban_jobs SET state = 'completed' WHERE id = :id"), {"id": committing})
        await lifeline.tick()
        assert (await harness.job(orphan)).state == "available"
        assert len(await harness.sql("SELECT * FROM oban_producers")) == 1
    await lifeline.tick()
    done = await harness.job(committing)
    assert (done.state, done.errors) == ("completed", [])
    assert await harness.sql("SELECT * FROM oban_producers") == []


async def test_a_producer_that_beats_at_this_very_moment_lives(harness: Harness, lifeline: Lifeline) -> None:
    late = await producer_row(harness, silent_for=10)
    held = await executing(harness, late)
    async with harness.engine.begin() as connection:
        await connection.execute(text("UPDATE oban_producers SET updated_at = timezone('UTC', now())"))
        await lifeline.tick()
    await lifeline.tick()
    assert (await harness.job(held)).state == "executing"


async def test_no_job_begins_before_every_queue_has_its_row(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that blocks the loop would keep the node from hearing that a row was written, and so from beating in it."""
    rows: list[int] = []
    registered = Tables.register

    async def late(self: Tables, row: dict[str, Any]) -> bool:
        await asyncio.sleep(0.3 if row["queue"] != "first" else 0)
        return await registered(self, row)

    @job(registry=harness.registry, queue="first")
    async def early() -> None:
        rows.extend(await harness.sql("SELECT queue FROM oban_producers"))

    monkeypatch.setattr(Tables, "register", late)
    await harness.enqueue(early.new())
    await harness.drain(queues={"first": 1, "second": 1, "third": 1})
    assert len(rows) == 3


async def test_many_orphans_are_rescued_in_batches(harness: Harness, leader: Leader, monkeypatch) -> None:
    from oban_sa.runner.database import prepared
    from oban_sa.sql import rescue

    monkeypatch.setattr(rescue, "LIMIT", 3)
    monkeypatch.setattr(prepared, "_compiled", prepared._compiled.__wrapped__)  # statements with another limit
    monkeypatch.setattr(lifelines, "LIMIT", 3)
    small = Lifeline(Database(harness.engine), leader, source=telemetry.Source(node="leading"), every=1)
    dead = await producer_row(harness, silent_for=10)
    for _ in range(7):
        await executing(harness, dead)
    assert [await small.tick() for _ in range(3)] == [0, 0, 1]
    assert await harness.states() == {"available": 7}
    assert await harness.sql("SELECT * FROM oban_producers") == []
    await small.close()


async def test_rescued_jobs_are_announced(harness: Harness, lifeline: Lifeline) -> None:
    @job(name="worker", registry=harness.registry)
    async def nothing() -> None: ...

    async with harness.runner(poll_every=60) as runner:
        await eventually(lambda: runner._notifier.proven)
        orphan = await executing(harness, await producer_row(harness, silent_for=10))
        await lifeline.tick()
        await harness.becomes(orphan, "completed")


async def test_only_the_leader_rescues(harness: Harness, lifeline: Lifeline) -> None:
    orphan = await executing(harness, await producer_row(harness, silent_for=10))
    # It believes to lead, but the lease was lost meanwhile.
    await harness.sql("UPDATE oban_leaders SET node = 'other'")
    await lifeline.tick()
    assert (await harness.job(orphan)).state == "executing"


async def test_what_nobody_knows_is_rescued_only_where_that_was_asked_for(harness: Harness, leader: Leader) -> None:
    ages: dict[str, Any] = {"every": 1, "source": telemetry.Source(node="leading")}
    off = Lifeline(Database(harness.engine), leader, **ages)
    patient = Lifeline(Database(harness.engine), leader, abandoned_after=2 * 3600, **ages)
    on = Lifeline(Database(harness.engine), leader, abandoned_after=1800, **ages)
    abandoned = await executing(harness, uuid4())
    known = await executing(harness, await producer_row(harness, silent_for=0))
    for lifeline in (off, patient):
        await lifeline.tick()
        assert await harness.states() == {"executing": 2}
    await on.tick()
    assert (await harness.job(abandoned)).state == "available"
    assert (
        (await harness.job(abandoned)).errors[0]["error"].startswith("AttemptOrphaned: the node that ran this attempt")
    )
    assert (await harness.job(abandoned)).meta["rescued"] == 1
    assert (await harness.job(known)).state == "executing"
    for lifeline in (off, patient, on):
        await lifeline.close()


LEASE = """
INSERT INTO oban_peers (name, node, started_at, expires_at) VALUES
('MyApp.Oban', 'elixir', timezone('UTC', now()), timezone('UTC', now()) + :lasts * interval '1 second')
ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at
"""


async def test_of_abandoned_jobs_those_are_rescued_whose_kind_of_node_is_known_to_be_gone(
    harness: Harness, leader: Leader
) -> None:
    """All began an hour ago; what their holders are is in their uuids and rows."""
    source = telemetry.Source(node="leading")
    made = Lifeline(Database(harness.engine), leader, source=source, every=1, abandoned_after=1800)
    python = {silent: await producer_row(harness, silent_for=silent, meta={}) for silent in (0, 90, 1700, 1900)}
    ids = {f"python, silent for {silent}": await executing(harness, uuid) for silent, uuid in python.items()}
    ids["elixir"] = await executing(harness, uuid4(), node="elixir")
    ids["ours, without a row"] = await executing(harness, new_producer())
    ids["ours, with a row"] = await executing(harness, ours := new_producer())
    await harness.add(factories.producer("web.8", uuid=ours, silent_for=7200, dead_after=100000))

    async def rescued() -> set[str]:
        await made.tick()
        return {name for name, job_id in ids.items() if (await harness.job(job_id)).state != "executing"}

    await harness.sql(LEASE, lasts=60)
    assert await rescued() == {"python, silent for 1900"}
    await harness.sql(LEASE, lasts=-1)
    assert await rescued() == {"python, silent for 1900", "elixir"}
    ids["another of elixir"] = await executing(harness, uuid4(), node="elixir")
    await harness.sql("DROP TABLE oban_peers")
    assert await rescued() == {"python, silent for 1900", "elixir", "another of elixir"}
    # However soon is asked for: they themselves wait for a minute.
    soon = Lifeline(Database(harness.engine), leader, source=source, every=1, abandoned_after=1)
    await soon.tick()
    assert (await harness.job(ids["python, silent for 90"])).state == "available"
    assert (await harness.job(ids["python, silent for 0"])).state == "executing"
    # After an outage everybody's last sign is old, until this node has led for long enough.
    ids["a third of elixir"] = await executing(harness, uuid4(), node="elixir")
    made._abandoned_patience = 60
    assert "a third of elixir" not in await rescued()
    await made.close()
    await soon.close()


async def test_a_dead_node_whose_row_others_remove_again_and_again_is_dead_all_the_same(
    harness: Harness, leader: Leader
) -> None:
    """Oban for Python removes rows that are silent for a minute, whoever's."""
    held, lives = await executing(harness, gone := new_producer()), await executing(harness, alive := new_producer())
    source = telemetry.Source(node="leading")
    made = Lifeline(Database(harness.engine), leader, source=source, every=1, dead_after=100)

    async def removed_and_restored() -> None:
        """A minute later, of which two in a row are longer than it takes to be dead."""
        await harness.sql("DELETE FROM oban_producers")
        ago = timedelta(minutes=1)
        made._missing = {
            uuid: _Missing(each.since - ago, each.restored_at - ago) for uuid, each in made._missing.items()
        }
        made._restored_at = -1000.0
        await made.tick()

    await removed_and_restored()
    assert len(await harness.sql("SELECT * FROM oban_producers")) == 2
    # Between two looks one of them beats.
    await harness.sql(
        "UPDATE oban_producers SET updated_at = updated_at + interval '1 s' WHERE uuid = :uuid", uuid=alive
    )
    made._restored_at = -1000.0
    await made.tick()
    await removed_and_restored()
    assert await harness.states() == {"executing": 2}
    await removed_and_restored()
    assert (await harness.job(held)).state == "available"
    assert (await harness.job(lives)).state == "executing"
    assert [row.uuid for row in await harness.sql("SELECT uuid FROM oban_producers")] == [alive]
    assert gone not in made._missing
    await made.close()


async def test_available_jobs_whose_attempts_are_spent_are_discarded(harness: Harness, lifeline: Lifeline) -> None:
    spent = await harness.enqueue(*(Job("worker", max_attempts=2, queue=queue) for queue in "abcc"))
    fresh = await harness.enqueue(*(Job("worker", max_attempts=2, queue=queue) for queue in "abcd"))
    await harness.sql("UPDATE oban_jobs SET attempt = 2 WHERE id = any(:ids)", ids=spent)
    await lifeline.tick()
    assert await harness.states() == {"discarded": 4, "available": 4}
    assert {(await harness.job(job_id)).state for job_id in fresh} == {"available"}
    over = await harness.job(spent[0])
    assert over.errors[0]["error"].startswith("AttemptOrphaned: the job was available with all its attempts spent")
    assert over.discarded_at is not None


async def test_a_rescue_stands_although_the_look_for_spent_jobs_failed(
    harness: Harness, lifeline: Lifeline, monkeypatch
) -> None:
    orphan = await executing(harness, await producer_row(harness, silent_for=10))

    async def fails() -> None:
        raise TimeoutError

    monkeypatch.setattr(lifeline, "_discard_exhausted", fails)
    with pytest.raises(TimeoutError):
        await lifeline.tick()
    assert (await harness.job(orphan)).state == "available"
    await lifeline.tick()  # and it does not fail the next time, but looks again after a while


# The leader


def candidate(harness: Harness, node: str, lasts: float = 60) -> Leader:
    return Leader(Database(harness.engine), source=telemetry.Source(node=node), lasts=lasts)


async def test_there_are_never_two_leaders(harness: Harness) -> None:
    candidates = [candidate(harness, f"node.{n}") for n in range(4)]
    for _ in range(5):
        await asyncio.gather(*(each.tick() for each in candidates))
        assert sum(each.leading for each in candidates) == 1
    for each in candidates:
        await each.close()


async def test_two_nodes_of_one_name_stay_two(harness: Harness) -> None:
    one, two = candidate(harness, "same"), candidate(harness, "same")
    await one.tick()
    for _ in range(3):
        await two.tick()
        await one.tick()
        assert (one.leading, two.leading) == (True, False)
    await harness.sql("UPDATE oban_leaders SET expires_at = timezone('UTC', clock_timestamp()) - interval '1 second'")
    await two.tick()
    await one.tick()
    assert (one.leading, two.leading) == (False, True)
    await one.close()
    await two.tick()
    assert two.leading
    await two.close()


async def test_a_leader_that_resigns_hands_over_at_once(harness: Harness, monkeypatch) -> None:
    monkeypatch.setattr(parts, "LEASE", 600)  # others would look again in two and a half minutes
    leader = candidate(harness, "first", lasts=600)
    await leader.tick()
    async with harness.runner(node="second", dead_after=6000, heartbeat_every=60) as waiting:
        await eventually(lambda: waiting._notifier.proven)
        assert await holder(harness, "first")
        await leader.close()
        await eventually(lambda: holder(harness, "second"))


async def holder(harness: Harness, node: str) -> bool:
    return await harness.sql("SELECT node FROM oban_leaders") == [(node,)]


async def test_a_lease_that_ran_out_by_the_clock_of_the_database_is_taken(harness: Harness) -> None:
    one, two = candidate(harness, "one"), candidate(harness, "two")
    await one.tick()
    await two.tick()
    assert not two.leading
    await harness.sql("UPDATE oban_leaders SET expires_at = timezone('UTC', clock_timestamp()) - interval '1 second'")
    await two.tick()
    assert two.leading
    # The former leader still believes in itself, but the transaction that does the work knows better.
    assert one.leading
    line = Database(harness.engine).line()
    async with line.transaction() as transaction:
        assert not await one.holds(transaction)
        assert await two.holds(transaction)
    await one.tick()
    assert not one.leading
    for each in (one, two):
        await each.close()
    await line.close()


async def test_the_clock_of_a_node_means_nothing(harness: Harness, monkeypatch) -> None:
    from datetime import UTC, datetime, timedelta

    from oban_sa.schedule import clock

    one, two = candidate(harness, "one"), candidate(harness, "two")
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + timedelta(hours=1))
    await one.tick()
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) - timedelta(hours=1))
    await two.tick()
    assert (one.leading, two.leading) == (True, False)
    [(left,)] = await harness.sql(
        "SELECT extract(epoch FROM expires_at - timezone('UTC', clock_timestamp()))::float FROM oban_leaders"
    )
    assert 50 < left <= 60
    for each in (one, two):
        await each.close()


async def test_a_leader_that_can_not_renew_stops_to_believe(harness: Harness, monkeypatch) -> None:
    from oban_sa.schedule import clock

    lead = candidate(harness, "one", lasts=10)
    await lead.tick()
    later = time.monotonic() + 11
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    assert not lead.leading
    await lead.close()
