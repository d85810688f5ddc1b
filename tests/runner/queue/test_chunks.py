"""Chunks: many jobs as one call, in one slot; each with its own fence, outcome and end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Chunk, ChunkResult, Job, Oban, Queue, Record, Snooze, Workflow, enqueue, telemetry
from oban_sa.jobs.verdicts import Attempt
from oban_sa.runner.cluster.tally import Tally
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.execution.chunk import ChunkRun
from oban_sa.runner.maintenance.settler import Settler
from oban_sa.runner.queue.chunks import Gathering
from oban_sa.workers import Registry, definition_of, job
from tests.runner.conftest import Harness
from tests.support import eventually


def ids(jobs: list[Job]) -> list[int]:
    return [each.id for each in jobs]


class Seen:
    """The chunks that a worker of this test was called with."""

    def __init__(self, registry: Registry, chunk: Chunk, **options: Any) -> None:
        self.chunks: list[list[int]] = []
        self.answer: Callable[[list[Job]], Any] = lambda jobs: None

        @job(registry=registry, name="index", chunk=chunk, **options)
        async def index(jobs: list[Job]) -> Any:
            self.chunks.append(ids(jobs))
            return self.answer(jobs)

        self.index = index

    async def enqueue(self, harness: Harness, count: int, **args: Any) -> list[int]:
        return await harness.enqueue(*[self.index.new(n=number, **args) for number in range(count)])


async def test_jobs_come_as_chunks_of_a_size_at_most(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(4, within=0.2))
    made = await seen.enqueue(harness, 10)
    await harness.drain(queues={"default": 1})
    assert [len(each) for each in seen.chunks] == [4, 4, 2]
    assert sorted(number for each in seen.chunks for number in each) == made
    assert await harness.states() == {"completed": 10}


async def test_a_queue_with_many_slots_makes_large_chunks_too(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(50, within=0.3))
    await seen.enqueue(harness, 50)
    await harness.drain(queues={"default": 10})
    assert [len(each) for each in seen.chunks] == [50]


async def test_a_chunk_takes_one_slot(harness: Harness, registry: Registry) -> None:
    going = asyncio.Event()
    entered: list[int] = []

    @job(registry=registry, name="index", chunk=Chunk(5, within=0))
    async def index(jobs: list[Job]) -> None:
        entered.append(len(jobs))
        await going.wait()

    @job(registry=registry, name="other")
    async def other() -> None:
        going.set()

    await harness.enqueue(*[index.new() for _ in range(5)])
    async with harness.runner(queues={"default": 2}):
        await eventually(lambda: entered == [5])
        await harness.enqueue(other.new())
        await eventually(lambda: going.is_set())
        await eventually(lambda: _all_completed(harness, 6))


async def _all_completed(harness: Harness, count: int) -> None:
    assert await harness.states() == {"completed": count}


async def test_a_chunk_waits_for_jobs_no_longer_than_it_is_to(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(3, within=30))
    async with harness.runner(queues={"default": 1}):
        await seen.enqueue(harness, 2)
        await eventually(lambda: _executing(harness, 2))
        assert seen.chunks == []
        await seen.enqueue(harness, 1)
        await eventually(lambda: len(seen.chunks) == 1)
        assert len(seen.chunks[0]) == 3


async def _executing(harness: Harness, count: int) -> None:
    assert (await harness.states()).get("executing") == count


@pytest.mark.parametrize(
    "by", ["args.tenant", ("args.tenant", "args.kind"), "meta.region", "worker"], ids=["arg", "two", "meta", "worker"]
)
async def test_the_jobs_of_a_chunk_have_the_same_key(harness: Harness, registry: Registry, by: Any) -> None:
    tenants: list[set[Any]] = []

    @job(registry=registry, name="index", chunk=Chunk(10, within=0.1, by=by))
    async def index(jobs: list[Job]) -> None:
        assert {each.worker for each in jobs} == {"index"}
        tenants.append({each.args["tenant"] for each in jobs})

    await harness.enqueue(
        *[
            index.options(meta={"region": str(tenant)}).new(tenant=tenant, kind="a")
            for tenant in (1, "b", None, 1, "b", None, 1)
        ]
    )
    await harness.drain(queues={"default": 1})
    if by == "worker":
        assert tenants == [{1, "b", None}]
    else:
        assert sorted(map(str, tenants)) == ["{'b'}", "{1}", "{None}"]


async def test_jobs_of_other_workers_are_left_to_their_slots(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(10, within=0.1))
    ran: list[int] = []

    @job(registry=registry, name="other")
    async def other(n: int) -> None:
        ran.append(n)

    await harness.enqueue(seen.index.new(n=1), other.new(1), seen.index.new(n=2), other.new(2))
    await harness.drain(queues={"default": 1})
    assert [len(each) for each in seen.chunks] == [2]
    assert sorted(ran) == [1, 2]


async def test_each_job_ends_as_it_is_named_and_others_are_completed(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(10, within=0.1), backoff=60)
    a, b, c, d, e = await seen.enqueue(harness, 5)

    def answer(jobs: list[Job]) -> ChunkResult:
        by_id = {each.id: each for each in jobs}
        return ChunkResult(
            retry={by_id[a]: "too large"},
            cancel={by_id[b]: "not wanted"},
            record={by_id[c]: {"pages": 3}},
            discard={by_id[d]: ValueError("broken")},
        )

    seen.answer = answer
    await harness.drain(queues={"default": 1})
    found = {number: await harness.job(number) for number in (a, b, c, d, e)}
    assert [found[number].state.value for number in found] == [
        *("retryable", "cancelled", "completed", "discarded", "completed")
    ]
    assert [each["error"] for each in found[a].errors] == ["ChunkRetried: too large"]
    assert [each["error"] for each in found[b].errors] == ["AttemptCancelled: not wanted"]
    assert found[c].recorded() == {"pages": 3}
    assert found[d].errors[0]["error"].startswith("ValueError: broken")


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (lambda jobs: Cancel("all"), "cancelled"),
        (lambda jobs: Snooze(60), "scheduled"),
        (lambda jobs: Record(7), "completed"),
        (lambda jobs: len(jobs), "completed"),
        (lambda jobs: 1 / 0, "retryable"),
        (lambda jobs: ChunkResult(retry={Job("stranger"): "x"}), "retryable"),
        (lambda jobs: ChunkResult(retry={jobs[0]: "x"}, cancel={jobs[0]: "y"}), "retryable"),
    ],
)
async def test_what_holds_for_the_call_holds_for_all_its_jobs(
    harness: Harness, registry: Registry, answer: Any, state: str
) -> None:
    seen = Seen(registry, Chunk(10, within=0.1), backoff=60)
    seen.answer = answer
    await seen.enqueue(harness, 3)
    await harness.drain(queues={"default": 1})
    assert [len(each) for each in seen.chunks] == [3]
    assert await harness.states() == {state: 3}


async def test_each_failed_job_has_its_own_attempts(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(10, within=0.1), backoff=60)
    seen.answer = lambda jobs: 1 / 0
    [last, other] = await harness.enqueue(
        seen.index.options(max_attempts=1).new(n=1), seen.index.options(max_attempts=2).new(n=2)
    )
    await harness.drain(queues={"default": 1})
    assert (await harness.job(last)).state == "discarded"
    assert (await harness.job(other)).state == "retryable"


async def test_a_timeout_is_for_the_call_and_fails_all(harness: Harness, registry: Registry) -> None:
    @job(registry=registry, name="index", chunk=Chunk(3, within=0.5), timeout=0.2, backoff=60)
    async def index(jobs: list[Job]) -> None:
        await asyncio.sleep(60)

    made = await harness.enqueue(*[index.new() for _ in range(3)])
    await harness.drain(queues={"default": 1})
    for number in made:
        assert (await harness.job(number)).errors[0]["error"].startswith("AttemptTimedOut")


async def test_synchronous_code_runs_in_a_thread(harness: Harness, registry: Registry) -> None:
    threads: list[str] = []

    @job(registry=registry, name="index", chunk=Chunk(5, within=0.1))
    def index(jobs: list[Job]) -> ChunkResult:
        threads.append(threading.current_thread().name)
        return ChunkResult(record={each: each.args["n"] for each in jobs})

    made = await harness.enqueue(*[index.new(n=number) for number in range(3)])
    await harness.drain(queues={"default": 1})
    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name
    assert [(await harness.job(number)).recorded() for number in made] == [0, 1, 2]


# Sessions


@pytest.fixture
async def rows(harness: Harness) -> None:
    await harness.sql("CREATE TABLE pages (job_id bigint)")


def writing(registry: Registry, kind: str, chunk: Chunk, then: Callable[[list[Job]], Any] = lambda jobs: None) -> Any:
    """A worker that writes a row for each job."""
    if kind == "async":

        @job(registry=registry, name="index", chunk=chunk, backoff=60)
        async def index(jobs: list[Job], session: AsyncSession) -> Any:
            for each in jobs:
                await session.execute(text("INSERT INTO pages VALUES (:id)"), {"id": each.id})
            answer = then(jobs)
            return await answer if asyncio.iscoroutine(answer) else answer

        return index

    @job(registry=registry, name="index", chunk=chunk, backoff=60)
    def index_sync(jobs: list[Job], session: Session) -> Any:
        for each in jobs:
            session.execute(text("INSERT INTO pages VALUES (:id)"), {"id": each.id})
        return then(jobs)

    return index_sync


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_session_commits_the_ends_of_all_jobs_with_what_the_code_wrote(
    harness: Harness, registry: Registry, kind: str
) -> None:
    index = writing(
        registry,
        kind,
        Chunk(10, within=0.1),
        lambda jobs: ChunkResult(retry={jobs[0]: "later"}, record={jobs[1]: "ja"}),
    )
    made = await harness.enqueue(*[index.new() for _ in range(4)])
    await harness.drain(queues={"default": 1})
    assert await harness.states() == {"retryable": 1, "completed": 3}
    assert [row[0] for row in await harness.sql("SELECT job_id FROM pages ORDER BY 1")] == made
    # In the transaction that wrote the rows: none of them was acked by another one.
    [[transactions]] = await harness.sql(
        "SELECT count(DISTINCT xmin) FROM "
        "(SELECT xmin::text FROM pages UNION ALL SELECT xmin::text FROM oban_jobs) AS both_"
    )
    assert transactions == 1


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_what_is_said_of_a_job_may_be_any_text(harness: Harness, registry: Registry, kind: str) -> None:
    said = "später ☂ \0"
    index = writing(registry, kind, Chunk(10, within=0.1), lambda jobs: ChunkResult(retry=dict.fromkeys(jobs, said)))
    made = await harness.enqueue(*[index.new() for _ in range(3)])
    await harness.drain(queues={"default": 1})
    for number in made:
        assert [each["error"] for each in (await harness.job(number)).errors] == ["ChunkRetried: später ☂ \ufffd"]


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_error_rolls_back_what_the_code_wrote_and_fails_all(
    harness: Harness, registry: Registry, kind: str
) -> None:
    index = writing(registry, kind, Chunk(10, within=0.1), lambda jobs: 1 / 0)
    await harness.enqueue(*[index.new() for _ in range(3)])
    await harness.drain(queues={"default": 1})
    assert await harness.states() == {"retryable": 3}
    assert await harness.sql("SELECT * FROM pages") == []


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("lost", [0, 2])
async def test_where_one_job_was_lost_all_is_rolled_back_and_the_others_run_again(
    harness: Harness, registry: Registry, lost: int
) -> None:
    calls: list[int] = []

    async def take_away(jobs: list[Job]) -> None:
        calls.append(len(jobs))
        if len(calls) == 1:
            await harness.sql("UPDATE oban_jobs SET attempted_by = '{another,node}' WHERE id = :id", id=jobs[lost].id)

    index = writing(registry, "async", Chunk(10, within=0.1), take_away)
    made = await harness.enqueue(*[index.new() for _ in range(4)])
    async with harness.runner(queues={"default": 1}):
        await eventually(lambda: _states(harness, {"completed": 3, "executing": 1}))
    kept = [each for each in made if each != made[lost]]
    assert calls == [4, 3]
    assert [row[0] for row in await harness.sql("SELECT job_id FROM pages ORDER BY 1")] == kept
    assert {(await harness.job(number)).attempt for number in kept} == {1}


async def _states(harness: Harness, expected: dict[str, int]) -> None:
    assert await harness.states() == expected


# Cancelling, stopping, losing


async def test_a_job_that_is_cancelled_is_told_and_the_others_go_on(harness: Harness, registry: Registry) -> None:
    told: list[list[bool]] = []
    entered, going = asyncio.Event(), asyncio.Event()

    @job(registry=registry, name="index", chunk=Chunk(3, within=0.1))
    async def index(jobs: list[Job]) -> ChunkResult:
        entered.set()
        await going.wait()
        told.append([each.cancelled() for each in jobs])
        return ChunkResult(retry={each: "stopped" for each in jobs if each.cancelled()})

    made = await harness.enqueue(*[index.new() for _ in range(3)])
    async with harness.runner(queues={"default": 1}) as runner:
        await entered.wait()
        for number in (made[0], made[2]):  # the first too
            await Oban(harness.engine).cancel_job(number)
        await eventually(lambda: _asked(runner, 2))
        going.set()
        await eventually(lambda: _states(harness, {"cancelled": 2, "completed": 1}))
    assert told == [[True, False, True]]


def _asked(runner: Any, count: int) -> None:
    [producer] = runner._queues.all
    assert sum(each.asked for each in producer._attempts.running.values()) == count


async def test_a_job_that_is_cancelled_while_its_chunk_waits_never_runs(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(4, within=30))
    made = await seen.enqueue(harness, 3)
    async with harness.runner(queues={"default": 1}) as runner:
        await eventually(lambda: _executing(harness, 3))
        for number in made[:2]:
            await Oban(harness.engine).cancel_job(number)
        await eventually(lambda: _asked(runner, 2))
        [fourth] = await seen.enqueue(harness, 1)
        await eventually(lambda: _states(harness, {"cancelled": 2, "completed": 2}))
    assert seen.chunks == [[made[2], fourth]]


async def test_where_the_first_job_is_lost_the_call_is_interrupted_and_the_others_run_again(
    harness: Harness, registry: Registry
) -> None:
    calls: list[list[int]] = []

    @job(registry=registry, name="index", chunk=Chunk(3, within=0.1))
    async def index(jobs: list[Job]) -> None:
        calls.append(ids(jobs))
        await asyncio.sleep(3600 if len(calls) == 1 else 0)

    made = await harness.enqueue(*[index.new() for _ in range(3)])
    async with harness.runner(queues={"default": 1}) as runner:
        await eventually(lambda: len(calls) == 1)
        await harness.sql("UPDATE oban_jobs SET attempted_by = '{another,node}' WHERE id = :id", id=made[0])
        [producer] = runner._queues.all
        assert producer.lose(producer._attempts.running[made[0]])
        await eventually(lambda: _states(harness, {"completed": 2, "executing": 1}))
    assert calls == [made, made[1:]]
    assert {(await harness.job(number)).attempt for number in made[1:]} == {1}
    assert [(await harness.job(number)).errors for number in made] == [[], [], []]


async def test_a_job_that_is_lost_while_its_chunk_waits_never_runs(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(4, within=30))
    made = await seen.enqueue(harness, 3)
    async with harness.runner(queues={"default": 1}) as runner:
        await eventually(lambda: _executing(harness, 3))
        [producer] = runner._queues.all
        await eventually(lambda: len(producer.running) == 3)
        await harness.sql("UPDATE oban_jobs SET attempted_by = '{another,node}' WHERE id = :id", id=made[1])
        assert producer.lose(producer.running[made[1]])
        [fourth] = await seen.enqueue(harness, 1)
        await eventually(lambda: _states(harness, {"completed": 3, "executing": 1}))
    assert seen.chunks == [[made[0], made[2], fourth]]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_job_that_its_chunk_learns_to_have_lost_is_told_of_as_stale_alone_and_once(
    harness: Harness, registry: Registry, of: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    entered, going, counted = asyncio.Event(), asyncio.Event(), list[int]()
    monkeypatch.setattr(Tally, "ended", lambda _, job, *__: counted.append(job["id"]))

    @job(registry=registry, name="index", chunk=Chunk(3, within=0.1), max_attempts=1)
    async def index(jobs: list[Job]) -> None:
        entered.set()
        await going.wait()
        if fails:
            raise ValueError("of all")

    made = await harness.enqueue(*[index.new() for _ in range(3)])
    async with harness.runner(queues={"default": 1}) as runner:
        await entered.wait()
        [producer] = runner._queues.all
        await harness.sql("UPDATE oban_jobs SET attempted_by = '{another,node}' WHERE id = :id", id=made[1])
        assert producer.lose(producer.running[made[1]])
        assert not producer.lose(producer.running[made[1]])
        going.set()
        await eventually(lambda: _states(harness, {"discarded" if fails else "completed": 2, "executing": 1}))
        await eventually(lambda: of(telemetry.ProducerAck) and producer.idle())
    kept = [made[0], made[2]]
    assert [event.job_id for event in of(telemetry.JobStale)] == [made[1]]
    assert sorted(event.job_id for event in of(telemetry.JobException if fails else telemetry.JobStop)) == kept
    assert of(telemetry.JobStop if fails else telemetry.JobException) == []
    assert sorted(counted) == kept


async def test_what_is_fetched_while_a_chunk_is_interrupted_is_held(registry: Registry) -> None:
    sent, answered = asyncio.Event(), asyncio.Event()

    class Tables:
        async def fetch_chunk(self, *_: Any) -> list[dict[str, int]]:
            sent.set()
            await answered.wait()
            return [{"id": 2}]

    def attempt(row: Any) -> Running:
        return Running(Attempt(row["id"], 1, 20))

    seen = Seen(registry, Chunk(3))
    gathering = Gathering(Tables(), attempt=attempt, refuses=lambda: False)  # type: ignore[arg-type]
    first = Running.of(Job.from_row({"id": 1, "worker": "index", "attempt": 1, "state": "executing"}))
    chunk = ChunkRun(first, definition_of(seen.index))
    task = asyncio.create_task(gathering.gather(chunk))
    await sent.wait()
    task.cancel()
    await asyncio.sleep(0)
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(gathering.held) == [2]
    assert [each.attempt.job_id for each in gathering.end(chunk, first)] == [2]
    assert gathering.held == {}


async def test_a_job_that_comes_while_others_are_fetched_makes_no_chunk_too_large(registry: Registry) -> None:
    sent, answered = asyncio.Event(), asyncio.Event()

    class Tables:
        async def fetch_chunk(self, *asked: Any) -> list[dict[str, int]]:
            sent.set()
            await answered.wait()
            return [{"id": 100 + number} for number in range(asked[-1])]

    seen = Seen(registry, Chunk(3))
    gathering = Gathering(
        Tables(),  # type: ignore[arg-type]
        attempt=lambda row: Running(Attempt(row["id"], 1, 20)),
        refuses=lambda: False,
    )
    chunks: list[ChunkRun] = []
    tasks: list[asyncio.Task[None]] = []
    for number in (1, 2):
        first = Running.of(Job.from_row({"id": number, "worker": "index", "attempt": 1, "state": "executing"}))
        chunks.append(ChunkRun(first, definition_of(seen.index)))
        first.chunk = chunks[-1]
        tasks.append(asyncio.create_task(gathering.gather(chunks[-1])))
        await sent.wait()
    answered.set()
    await asyncio.gather(*tasks)
    assert [len(each.all) for each in chunks] == [3, 3]
    assert [each.first.chunk is each for each in chunks] == [True, True]


async def test_a_global_limit_counts_a_chunk_as_its_first_job(harness: Harness, registry: Registry) -> None:
    at_once: list[int] = []
    running: list[int] = []

    @job(registry=registry, name="index", chunk=Chunk(3, within=0.1))
    async def index(jobs: list[Job]) -> None:
        running.append(len(jobs))
        at_once.append(len(running))
        await asyncio.sleep(0.02)
        running.pop()

    await harness.enqueue(*[index.new() for _ in range(9)])
    await harness.drain(queues={"default": Queue(5, global_limit=1)})
    assert await harness.states() == {"completed": 9}
    assert set(at_once) == {1}
    assert len(at_once) == 3


async def test_a_runner_that_stops_gives_back_a_chunk_that_does_not_end(harness: Harness, registry: Registry) -> None:
    entered = asyncio.Event()

    @job(registry=registry, name="index", chunk=Chunk(3, within=0.1))
    async def index(jobs: list[Job]) -> None:
        entered.set()
        await asyncio.sleep(3600)

    made = await harness.enqueue(*[index.new() for _ in range(3)])
    async with harness.runner(queues={"default": 1}, grace=0.1):
        await entered.wait()
    assert await harness.states() == {"available": 3}
    assert {(await harness.job(number)).attempt for number in made} == {0}


async def test_a_chunk_that_waits_begins_with_what_there_is_where_the_runner_stops(
    harness: Harness, registry: Registry
) -> None:
    seen = Seen(registry, Chunk(10, within=3600))
    await seen.enqueue(harness, 3)
    async with harness.runner(queues={"default": 1}, grace=5):
        await eventually(lambda: _executing(harness, 3))
    assert await harness.states() == {"completed": 3}
    assert [len(each) for each in seen.chunks] == [3]


async def test_a_held_job_is_known_to_heartbeats_and_is_not_taken_for_unheard(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.runner.queue.cycle.RECLAIM_EVERY", 0.0)
    going = asyncio.Event()
    calls: list[list[int]] = []

    @job(registry=registry, name="index", chunk=Chunk(3, within=0.1))
    async def index(jobs: list[Job]) -> None:
        calls.append(ids(jobs))
        await going.wait()

    @job(registry=registry, name="other")
    async def other() -> None: ...

    made = await harness.enqueue(*[index.new() for _ in range(3)])
    async with harness.runner(queues={"default": 2}) as runner:
        await eventually(lambda: len(calls) == 1)
        [producer] = runner._queues.all
        assert sorted(each.job_id for each in producer._attempts.under_way()) == made
        assert producer._attempts.begun() == made
        await harness.enqueue(*[other.new() for _ in range(3)])
        await eventually(lambda: _states(harness, {"executing": 3, "completed": 3}))
        going.set()
        await eventually(lambda: _states(harness, {"completed": 6}))
    assert len(calls) == 1


async def test_a_row_that_cant_be_read_fails_by_itself(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(3, within=0.1), max_attempts=1)
    made = await seen.enqueue(harness, 3)
    await harness.sql("UPDATE oban_jobs SET args = '[]' WHERE id = :id", id=made[1])
    await harness.drain(queues={"default": 1})
    assert seen.chunks == [[made[0], made[2]]]
    assert (await harness.job(made[1])).errors[0]["error"].startswith("InvalidArguments")


async def test_a_chunk_begins_without_others_where_the_database_refuses(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(*_: Any) -> list[Any]:
        raise RuntimeError("no chunks today")

    monkeypatch.setattr("oban_sa.runner.queue.exchange.Tables.fetch_chunk", refused)
    seen = Seen(registry, Chunk(3, within=0.1))
    made = await seen.enqueue(harness, 1)
    await harness.drain(queues={"default": 1})
    assert seen.chunks == [made]
    assert "begins without further jobs" in caplog.text


async def test_an_error_of_ours_ends_every_job_of_the_chunk(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("oban_sa.runner.execution.chunk.ChunkRun.judge", broken)
    seen = Seen(registry, Chunk(3, within=0.1), max_attempts=1)
    await seen.enqueue(harness, 3)
    await harness.drain(queues={"default": 1})
    assert await harness.states() == {"discarded": 3}
    assert len(seen.chunks) == 1


# Beside


@pytest.fixture
def unswept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners hear of members by notes alone."""

    async def never(self: Settler) -> None: ...

    monkeypatch.setattr(Settler, "_note_others", never)


@pytest.mark.usefixtures("unswept")
async def test_members_of_a_workflow_are_booked(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(10, within=0.1))
    flow = Workflow()
    group = flow.add_many("pages", [seen.index.new(n=number) for number in range(4)])
    flow.add("last", seen.index.new(n=5), deps=group)
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    await harness.drain(queues={"default": 1})
    assert [len(each) for each in seen.chunks] == [4, 1]
    assert (await Oban(harness.engine).workflow(flow)).state == "completed"


@pytest.mark.usefixtures("rows", "unswept")
async def test_members_of_a_workflow_are_booked_where_a_session_commits_them(
    harness: Harness, registry: Registry
) -> None:
    index = writing(registry, "async", Chunk(10, within=0.1))
    flow = Workflow()
    group = flow.add_many("pages", [index.new() for _ in range(4)])
    flow.add("last", index.new(), deps=group)
    async with harness.sessions.begin() as session:
        enqueue(session, index.new())  # which is no member, and comes first
        await session.flush()
        enqueue(session, flow)
    await harness.drain(queues={"default": 1})
    assert (await Oban(harness.engine).workflow(flow)).state == "completed"


async def test_jobs_of_a_sequence_are_not_added(harness: Harness, registry: Registry) -> None:
    seen = Seen(registry, Chunk(10, within=0.1))
    await harness.enqueue(
        seen.index.new(n=1), *[seen.index.options(sequence="args.of").new(n=number, of=1) for number in (2, 3)]
    )
    await harness.drain(queues={"default": 1})
    assert [len(each) for each in seen.chunks] == [1, 1, 1]


async def test_each_job_has_its_events(harness: Harness, registry: Registry, of: Any) -> None:
    seen = Seen(registry, Chunk(3, within=0.1), backoff=60)
    made = await seen.enqueue(harness, 3)
    seen.answer = lambda jobs: ChunkResult(retry={jobs[1]: "no"})
    await harness.drain(queues={"default": 1})
    assert sorted(each.job_id for each in of(telemetry.JobStart)) == made
    assert sorted(each.job_id for each in of(telemetry.JobStop)) == [made[0], made[2]]
    assert [each.job_id for each in of(telemetry.JobException)] == [made[1]]
