"""Long jobs stay young where other members of the family rescue by age, and their outcomes are written all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Oban, Record, Snooze, job, telemetry
from oban_sa.jobs.attempted_by import new_producer
from oban_sa.jobs.verdicts import Attempt, Verdict, judge
from oban_sa.runner.cluster.attempt_age import Key, Written, Young
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.queue.exchange import Tables
from tests.runner.conftest import Harness
from tests.support import eventually

ELIXIR = """
INSERT INTO oban_peers (name, node, started_at, expires_at)
VALUES ('Oban', 'elixir@host', timezone('UTC', now()), timezone('UTC', now()) + :lasts * interval '1 second')
"""
THEIR_ROW = """
INSERT INTO oban_producers (uuid, name, node, queue, meta, started_at, updated_at)
VALUES (:uuid, 'Oban', 'python.1', 'theirs', '{}', timezone('UTC', now()), timezone('UTC', now()))
"""
RESCUED = "UPDATE oban_jobs SET state = 'available' WHERE id = :id"
DELETED = "DELETE FROM oban_jobs WHERE id = :id"
SPENT = "UPDATE oban_jobs SET state = 'discarded', discarded_at = timezone('UTC', now()) WHERE id = :id"
TAKEN_OVER = "UPDATE oban_jobs SET attempt = attempt + 1, attempted_by = ARRAY['elixir', 'uuid'] WHERE id = :id"


async def test_long_jobs_stay_young_beside_others_and_end_as_they_would_have(harness: Harness, of) -> None:
    gate = asyncio.Event()
    seen: dict[str, datetime | None] = {}

    def work(name: str, answer: Any, **options: Any) -> Job:
        @job(name=name, registry=harness.registry, **options)
        async def waits(job: Job) -> Any:
            await gate.wait()
            seen[name] = job.attempted_at
            if isinstance(answer, Exception):
                raise answer
            return answer

        return waits.new()

    @job(registry=harness.registry)
    async def in_session(job: Job, session: AsyncSession) -> Record:
        await session.execute(text("SELECT 1"))
        await gate.wait()
        return Record("with a session")

    @job(registry=harness.registry)
    def in_thread(job: Job, session: Session) -> None:
        session.execute(text("SELECT 1"))
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

    loop = asyncio.get_running_loop()
    await harness.sql(THEIR_ROW, uuid=uuid4())
    ids = await harness.enqueue(
        work("plain", None),
        work("records", Record(1)),
        work("snoozes", Snooze(3600)),
        work("fails", ValueError("wrong"), max_attempts=3),
        work("cancels", Cancel("enough")),
        in_session.new(),
        in_thread.new(),
    )
    rows = "SELECT id, attempted_at, meta FROM oban_jobs ORDER BY id"
    async with harness.runner(keep_young_after=1) as runner:
        [producer] = runner._queues.all
        await eventually(lambda: len(producer.running) == len(ids))
        began = {row.id: row.attempted_at for row in await harness.sql(rows)}

        async def kept_twice() -> None:
            first = {row.id: row.attempted_at for row in await harness.sql(rows)}
            assert all(first[job_id] > began[job_id] for job_id in ids)
            for row in await harness.sql(rows):
                assert row.attempted_at > began[row.id]
                assert row.meta["began"]["attempt"] == 1
                assert datetime.fromisoformat(row.meta["began"]["at"]) == began[row.id]
                assert row.attempted_at - began[row.id] > timedelta(seconds=0.8)

        await eventually(kept_twice)
        gate.set()
        await eventually(producer.idle)
    ended = {each.worker: each for each in [await harness.job(job_id) for job_id in ids]}
    assert {name.rpartition(".")[2]: str(each.state) for name, each in ended.items()} == {
        "plain": "completed",
        "records": "completed",
        "snoozes": "scheduled",
        "fails": "retryable",
        "cancels": "cancelled",
        "in_session": "completed",
        "in_thread": "completed",
    }
    # The true start stands in the row again, and was never another one for the code.
    for each in ended.values():
        assert each.attempted_at is not None
        assert each.attempted_at.replace(tzinfo=None) == began[each.id]
        assert "began" not in each.meta
    assert {name: moment.replace(tzinfo=None) for name, moment in seen.items() if moment} == {
        name: began[ended[name].id] for name in seen
    }
    assert len(ended["fails"].errors) == 1
    assert ended["snoozes"].attempt == 0
    assert of(telemetry.JobStale) == []


async def test_code_that_blocks_the_loop_is_kept_young_too(harness: Harness, database_url: str) -> None:
    import psycopg

    from tests.support import plain_url

    tries: list[bool] = []

    @job(registry=harness.registry)
    async def blocks(job: Job) -> None:
        assert job.attempted_at is not None
        began = job.attempted_at.replace(tzinfo=None)
        with psycopg.connect(plain_url(database_url), autocommit=True) as connection:
            for _ in range(200_000):
                row = connection.execute("SELECT attempted_at FROM oban_jobs WHERE id = %s", [job.id]).fetchone()
                if row is not None and row[0] > began:
                    tries.append(True)
                    return

    await harness.sql(ELIXIR, lasts=60)
    [job_id] = await harness.enqueue(blocks.new())
    async with harness.runner(keep_young_after=1, blocked_after=None):
        await harness.becomes(job_id, "completed", within=30)
    assert tries == [True]


@pytest.mark.parametrize("change", [RESCUED, SPENT, TAKEN_OVER, DELETED])
async def test_an_attempt_whose_job_others_took_is_interrupted_within_a_heartbeat(harness: Harness, of, change) -> None:
    ended: list[BaseException] = []

    @job(registry=harness.registry, cancel="ask")  # nobody asked for a cancel, which this one would not be told of
    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(error)
            raise

    [job_id] = await harness.enqueue(waits.new())
    async with harness.runner(queues={"default": 1}) as runner:
        [producer] = runner._queues.all
        await eventually(lambda: any(each.begun for each in producer.running.values()))
        producer.pause()
        await harness.sql(change, id=job_id)
        await eventually(lambda: ended and not producer.running)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert [event.job_id for event in of(telemetry.JobStale)] == [job_id]


# The fence, with answers that are lost and statements that arrive late


class Held:
    """A producer with one attempt under way."""

    def __init__(self, holder: list[str]) -> None:
        self.holder = holder
        self.attempts: list[Attempt] = []

    def under_way(self) -> Sequence[Attempt]:
        return self.attempts


class Lossy:
    """A line that loses answers, and keeps what was sent so that it can arrive once more."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.sent: list[tuple[Any, dict[str, Any]]] = []
        self.loses = False

    async def fetch(self, prepared: Any, within: float = 5, /, **values: Any) -> Any:
        self.sent.append((prepared, values))
        answer = await self.line.fetch(prepared, **values)
        if self.loses and "young" in values:
            raise ConnectionResetError("the answer was lost")
        return answer

    @property
    def kept(self) -> list[tuple[Any, dict[str, Any]]]:
        return [(prepared, values) for prepared, values in self.sent if "young" in values]

    async def once_more(self, number: int) -> None:
        prepared, values = self.kept[number]
        await self.line.fetch(prepared, **values)


class Keeper:
    """One producer's tables, what keeps its attempts young, and a job that it holds."""

    def __init__(self, harness: Harness) -> None:
        self.house = harness
        self.database = Database(harness.engine)
        self.uuid = new_producer()
        self.held = Held(["web.7", str(self.uuid)])
        self.written = Written()
        self.tables = Tables(self.database, "default", self.held.holder, schema="public", young=self.written)
        self.line = Lossy(self.database.shared)
        # Due at once.
        self.young = Young(self.written, after=0, every=0, holding=lambda: [self.held])

    async def begin(self) -> Attempt:
        row = {"uuid": self.uuid, "name": "Oban", "node": "web.7", "queue": "default", "meta": "{}"}
        await self.tables.register(row)
        _, [fetched] = await self.tables.exchange([], 1)
        counted = (fetched[name] for name in ("id", "attempt", "max_attempts"))
        attempt = Attempt(*counted, None, self.held.holder, fetched["attempted_at"])
        self.held.attempts = [attempt]
        return attempt

    async def beat(self) -> None:
        await self.young.beat(self.database, self.line, within=5)  # type: ignore[arg-type]

    async def end(self, verdict: Verdict) -> bool:
        """Write an outcome as a producer does: fenced, and where it is refused once more after a second look."""
        outcome = Outcome(Running.of(Job("worker", id=verdict.job_id)), verdict)
        for _ in range(9):
            if (await self.tables.exchange([outcome], 0))[0]:
                return True
            if not await self.tables.revert(verdict):
                return False
        raise AssertionError("reverted again and again")

    async def close(self) -> None:
        await self.tables.close()
        await self.database.shared.close()


@pytest.fixture
async def keeper(harness: Harness) -> AsyncIterator[Keeper]:
    await harness.sql(ELIXIR, lasts=60)
    made = Keeper(harness)
    yield made
    await made.close()


THEIR_RESCUE = """
UPDATE oban_jobs SET state = CASE WHEN attempt >= max_attempts THEN 'discarded' ELSE 'available' END :: oban_job_state
WHERE state = 'executing' AND attempted_at < timezone('UTC', now()) - make_interval(secs => 300)
"""
"""What the lifeline of Oban for Python does, in its effect; that of Elixir does the same after an hour."""


async def test_lifelines_that_rescue_by_age_leave_alone_what_is_kept_young(harness: Harness, keeper: Keeper) -> None:
    hour = timedelta(hours=1)
    [kept, other] = await harness.enqueue(Job("worker", max_attempts=1), Job("worker", queue="theirs", max_attempts=1))
    attempt = await keeper.begin()
    await harness.sql(
        "UPDATE oban_jobs SET attempted_at = attempted_at - interval '1 hour' WHERE id = :id", id=attempt.job_id
    )
    assert attempt.attempted_at is not None
    attempt = attempt._replace(attempted_at=attempt.attempted_at - hour)
    keeper.held.attempts = [attempt]
    await harness.sql(
        "UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_by = ARRAY['elixir', 'uuid'], "
        "attempted_at = timezone('UTC', now()) - interval '1 hour' WHERE id = :id",
        id=other,
    )
    await keeper.beat()
    await harness.sql(THEIR_RESCUE)
    assert [str((await harness.job(job_id)).state) for job_id in (kept, other)] == ["executing", "discarded"]
    assert await keeper.end(judge(attempt, None))
    done = await harness.job(kept)
    assert (done.state, done.attempted_at) == ("completed", attempt.attempted_at)


async def test_an_outcome_is_written_whichever_answers_of_beats_were_lost(harness: Harness, keeper: Keeper) -> None:
    [job_id] = await harness.enqueue(Job("worker"))
    attempt = await keeper.begin()
    keeper.line.loses = True
    await keeper.beat()
    await keeper.beat()
    keeper.line.loses = False
    assert len(keeper.written.of(attempt)) == 2
    # The first one arrives once more, after the second: it asks for the moment of the fetch, and finds another.
    before = (await harness.job(job_id)).attempted_at
    await keeper.line.once_more(0)
    assert (await harness.job(job_id)).attempted_at == before
    await keeper.beat()
    await keeper.line.once_more(0)
    await keeper.line.once_more(1)
    # One whose answer was heard is all that the row can hold.
    await keeper.beat()
    assert [len(values["moments"]) for _, values in keeper.line.kept] == [1, 2, 3, 1]
    # Also just before the outcome, between what puts the row right and what is written.
    assert await keeper.tables.revert(judge(attempt, None))
    await keeper.line.once_more(0)
    assert await keeper.end(judge(attempt, None))
    done = await harness.job(job_id)
    assert (done.state, done.attempted_at) == ("completed", attempt.attempted_at)


async def test_a_late_outcome_of_a_snooze_leaves_the_next_run_alone_though_both_were_kept_young(
    harness: Harness, keeper: Keeper
) -> None:
    [job_id] = await harness.enqueue(Job("worker"))
    first = await keeper.begin()
    await keeper.beat()
    snooze = judge(first, Snooze(0))
    assert await keeper.end(snooze)
    await harness.sql("UPDATE oban_jobs SET state = 'available' WHERE id = :id", id=job_id)
    second = await keeper.begin()
    assert (second.attempt, second.holder) == (first.attempt, first.holder)
    assert not await keeper.end(snooze)
    await keeper.beat()
    assert not await keeper.end(snooze)
    await keeper.line.once_more(0)  # the beat of the first run
    assert (await harness.job(job_id)).state == "executing"
    assert await keeper.end(judge(second, None))
    assert (await harness.job(job_id)).state == "completed"


async def test_an_outcome_comes_too_late_once_others_have_rescued_a_job_that_was_kept_young(
    harness: Harness, keeper: Keeper
) -> None:
    [job_id] = await harness.enqueue(Job("worker"))
    attempt = await keeper.begin()
    await keeper.beat()
    await harness.sql(RESCUED, id=job_id)
    await keeper.beat()
    assert not await keeper.end(judge(attempt, None))
    rescued = await harness.job(job_id)
    assert (rescued.state, rescued.attempt) == ("available", 1)
    again = await keeper.begin()
    assert again.attempt == 2
    assert not await keeper.end(judge(attempt, None))
    assert await keeper.end(judge(again, None))


async def test_a_row_that_is_locked_holds_up_no_heartbeat_and_nothing_is_thought_to_be_written(
    harness: Harness, keeper: Keeper
) -> None:
    [job_id] = await harness.enqueue(Job("worker"))
    attempt = await keeper.begin()
    async with harness.engine.begin() as connection:
        await connection.execute(text("SELECT 1 FROM oban_jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
        await asyncio.wait_for(keeper.beat(), 5)
        assert len(keeper.line.kept) == 1
        assert keeper.written.of(attempt) == ()
    await keeper.beat()
    assert len(keeper.written.of(attempt)) == 1
    keeper.written.forget(list)
    assert keeper.written.of(attempt) == ()


async def test_a_cancel_that_was_asked_for_before_a_beat_counts_after_it(harness: Harness, keeper: Keeper) -> None:
    [job_id] = await harness.enqueue(Job("worker"))
    attempt = await keeper.begin()
    await Oban(harness.engine).cancel_job(job_id)
    await keeper.beat()
    assert (await harness.job(job_id)).attempted_at > attempt.attempted_at
    wanted = await keeper.tables.wanted([job_id])
    assert wanted == {Key(job_id, attempt.attempted_at): True}
    assert await keeper.end(judge(attempt, ValueError("as it was cancelled")))
    assert (await harness.job(job_id)).state == "cancelled"


@pytest.mark.parametrize("around", ["alone", "expired", "no table of peers"])
async def test_where_no_other_member_is_seen_no_row_is_touched(harness: Harness, around: str) -> None:
    if around == "expired":
        await harness.sql(ELIXIR, lasts=-1)
    elif around == "no table of peers":
        await harness.sql("DROP TABLE oban_peers")
    keeper = Keeper(harness)
    [job_id] = await harness.enqueue(Job("worker"))
    attempt = await keeper.begin()
    await keeper.beat()
    assert (await harness.job(job_id)).attempted_at == attempt.attempted_at
    assert keeper.line.kept == []
    keeper.held.attempts = []
    asked = len(keeper.line.sent)
    await keeper.beat()
    assert len(keeper.line.sent) == asked  # with nothing to keep young, nothing is asked
    await keeper.close()


@pytest.mark.parametrize(
    "sign",
    [
        "INSERT INTO oban_leaders VALUES ('Oban', 'python.1', now() - interval '1 day', now() - interval '1 day')",
        "INSERT INTO oban_producers (uuid, name, node, queue) VALUES (gen_random_uuid(), 'Oban', 'python.1', 'q')",
        ELIXIR.replace(":lasts", "30").replace("'Oban'", "'MyApp.Oban'"),
    ],
)
async def test_any_sign_of_another_member_is_enough(harness: Harness, sign: str) -> None:
    await harness.sql(sign)
    keeper = Keeper(harness)
    [job_id] = await harness.enqueue(Job("worker"))
    attempt = await keeper.begin()
    await keeper.beat()
    assert (await harness.job(job_id)).attempted_at > attempt.attempted_at
    await keeper.close()
