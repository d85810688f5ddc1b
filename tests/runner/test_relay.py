"""Programs that wait for a job: its value, its failures, its progress, and how they hear of its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from oban_sa import (
    Cancel,
    Chunk,
    ChunkResult,
    Job,
    JobState,
    Oban,
    Record,
    current_job,
    enqueue,
    progress,
    sleep,
    step,
    wait_for,
)
from oban_sa.client import relay as relaying
from oban_sa.client.progress import Progress
from oban_sa.errors import InvalidJob, InvalidOption, JobNotFound, RelayCancelled, RelayDiscarded, RelayTimeout
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness
from tests.support import eventually, sync_url


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[JobState]:
    """The states that were found by looking, which is done so seldom that only what is heard can help."""
    found: list[JobState] = []
    look = relaying._look

    def noted(work: Any, identity: int, *, progress: bool) -> Any:
        answer = look(work, identity, progress=progress)
        found.append(answer[0].state)
        return answer

    monkeypatch.setattr(relaying, "_look", noted)
    monkeypatch.setattr(relaying, "FIRST", 600.0)
    monkeypatch.setattr(relaying, "LAST", 600.0)
    return found


@pytest.mark.parametrize("with_session", [False, True])
async def test_the_value_comes_as_soon_as_the_job_has_ended(
    harness: Harness, registry: Registry, looks: list[JobState], with_session: bool
) -> None:
    go = asyncio.Event()

    @job(registry=registry)
    async def plain(one: int) -> Record:
        await go.wait()
        return Record({"sum": one + 1})

    @job(registry=registry)
    async def in_session(session: AsyncSession, one: int) -> Record:
        await go.wait()
        await session.execute(text("SELECT 1"))
        return Record({"sum": one + 1})

    made = (in_session if with_session else plain).new(1)
    async with harness.runner():
        waiting = asyncio.create_task(Oban(harness.engine).relay(made))
        await eventually(lambda: executing(harness))
        await eventually(lambda: len(looks) == 1)
        go.set()
        assert await asyncio.wait_for(waiting, 60) == {"sum": 2}
    assert made.meta == {"relay": True}
    assert looks[1:] == [JobState.COMPLETED]
    await eventually(lambda: no_listener(harness))


@pytest.mark.parametrize("with_session", [False, True])
async def test_the_end_of_each_job_of_a_chunk_is_heard(
    harness: Harness, registry: Registry, looks: list[JobState], with_session: bool
) -> None:
    go = asyncio.Event()

    @job(registry=registry, chunk=Chunk(3, within=600))
    async def plain(jobs: list[Job]) -> ChunkResult:
        await go.wait()
        return ChunkResult(record={each: each.args["n"] + 1 for each in jobs})

    @job(registry=registry, chunk=Chunk(3, within=600))
    async def in_session(jobs: list[Job], session: AsyncSession) -> ChunkResult:
        await session.execute(text("SELECT 1"))
        return await plain(jobs)

    index = in_session if with_session else plain
    async with harness.runner(queues={"default": 1}):
        # No one waits for the first one: whether someone waits for another is asked of each.
        await harness.enqueue(index.new(n=0))
        await eventually(lambda: executing(harness))
        oban = Oban(harness.engine)
        waiting = [asyncio.create_task(oban.relay(index.new(n=number))) for number in (1, 2)]
        await eventually(lambda: executing(harness, 3))
        await eventually(lambda: len(looks) == 2)
        go.set()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 60) == [2, 3]
    assert looks[2:] == [JobState.COMPLETED] * 2


async def executing(harness: Harness, count: int = 1) -> None:
    assert await harness.states() == {"executing": count}


async def no_listener(harness: Harness) -> None:
    rows = await harness.sql(
        "SELECT query FROM pg_stat_activity "
        "WHERE datname = current_database() AND query LIKE 'LISTEN \"oban_sa_relay\"%'"
    )
    assert rows == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_without_hearing_it_is_found_by_looking(
    harness: Harness, registry: Registry, database_url: str, driver: str
) -> None:
    @job(registry=registry)
    async def add(one: int) -> Record:
        return Record(one + 1)

    engine: AsyncEngine = create_async_engine(sync_url(database_url, driver))
    try:
        [job_id] = await harness.enqueue(add.new(4))
        async with harness.runner():
            assert await Oban(engine).relay(job_id, within=60) == 5
            assert await Oban(engine).relay(add.new(5), within=60) == 6
    finally:
        await engine.dispose()


async def test_what_ended_otherwise_is_raised(harness: Harness, registry: Registry) -> None:
    @job(registry=registry, max_attempts=1)
    async def fails() -> None:
        raise ValueError("no such order")

    @job(registry=registry)
    async def cancels() -> Cancel:
        return Cancel("not wanted")

    @job(registry=registry)
    async def nothing() -> None: ...

    oban = Oban(harness.engine)
    async with harness.runner():
        with pytest.raises(RelayDiscarded, match="was discarded: ValueError: no such order") as discarded:
            await oban.relay(fails.new())
        assert len(discarded.value.errors) == 1
        with pytest.raises(RelayCancelled, match="was cancelled: AttemptCancelled: not wanted"):
            await oban.relay(cancels.new())
        assert await oban.relay(nothing.new()) is None
        with pytest.raises(JobNotFound):
            await oban.relay(4711)


async def test_the_time_is_up_and_the_job_goes_on(harness: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def later() -> Record:
        return Record(1)

    made = later.new()
    oban = Oban(harness.engine)
    with pytest.raises(RelayTimeout, match="is available, and the time to wait for it is over"):
        await oban.relay(made, within=0.01)
    with pytest.raises(TimeoutError):
        await oban.relay(made.id, within=0)
    async with harness.runner():
        assert await oban.relay(made) == 1


async def test_many_wait_on_one_connection(harness: Harness, registry: Registry, looks: list[JobState]) -> None:
    go = asyncio.Event()

    @job(registry=registry)
    async def echo(number: int) -> Record:
        await go.wait()
        return Record(number)

    async with harness.runner(queues={"default": 20}):
        oban = Oban(harness.engine)
        waiting = [asyncio.create_task(oban.relay(echo.new(number))) for number in range(20)]

        async def all_executing() -> None:
            assert await harness.states() == {"executing": 20}

        await eventually(all_executing)
        await eventually(lambda: len(looks) == 20)
        listeners = await harness.sql(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'LISTEN \"oban_sa_relay\"%'"
        )
        assert len(listeners) == 1
        go.set()
        assert await asyncio.gather(*waiting) == list(range(20))


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_progress_is_seen_while_another_transaction_has_the_job_locked(
    harness: Harness, registry: Registry, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.steps.report.EVERY", 0.0)
    seen: list[Progress] = []

    @job(registry=registry)
    async def on_loop() -> None:
        await progress(0.4, "rows")
        await eventually(lambda: len(seen) == 1)
        await progress(1)

    @job(registry=registry)
    def in_thread() -> None:
        progress(0.4, "rows")
        while len(seen) < 1:
            pass
        progress(1)

    oban = Oban(harness.engine)
    [job_id] = await harness.enqueue((on_loop if kind == "loop" else in_thread).new())
    assert await oban.progress(job_id) is None
    async with harness.runner():
        async with harness.sessions.begin() as session:
            await eventually(lambda: executing(harness))
            await session.execute(text("SELECT id FROM oban_jobs FOR UPDATE"))
            waiting = asyncio.create_task(oban.relay(job_id, on_progress=seen.append))
            await eventually(lambda: done(oban, job_id, 1.0))
        await waiting
    assert (seen[0].done, seen[0].note) == (0.4, "rows")
    assert (await harness.job(job_id)).meta == {}


async def test_what_is_said_again_is_told_once(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.steps.report.EVERY", 0.0)
    seen: list[Progress] = []

    @job(registry=registry)
    async def work() -> None:
        await progress(0.4, "rows")
        await eventually(lambda: len(seen) == 1)
        await progress(0.4, "rows")  # as after a wait, by the next attempt

    [job_id] = await harness.enqueue(work.new())
    oban = Oban(harness.engine)
    async with harness.runner():
        await oban.relay(job_id, within=60, on_progress=seen.append)
    assert [(each.done, each.note) for each in seen] == [(0.4, "rows")]
    written = await oban.progress(job_id)
    assert written is not None
    assert written.at > seen[0].at


async def done(oban: Oban, job_id: int, share: float) -> None:
    found = await oban.progress(job_id)
    assert found is not None
    assert found.done == share


async def test_progress_is_written_once_a_second_at_most(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oban_sa.runner.execution.journals import Journals

    written: list[str] = []
    write = Journals.write

    async def counted(self: Journals, attempt: Any, entry: Any, **more: Any) -> Any:
        written.append(entry.value)
        return await write(self, attempt, entry, **more)

    monkeypatch.setattr(Journals, "write", counted)
    monkeypatch.setattr("oban_sa.steps.report.EVERY", 3600.0)

    @job(registry=registry)
    async def work() -> None:
        for number in range(101):
            await progress(number / 100)

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert written == ['{"done":0.0,"note":null}', '{"done":1.0,"note":null}']


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_the_last_progress_is_written_before_a_step_and_before_a_wait(
    harness: Harness, registry: Registry, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.steps.report.EVERY", 3600.0)
    oban, seen = Oban(harness.engine), list[str | None]()

    async def look(job_id: int) -> None:
        found = await oban.progress(job_id)
        seen.append(None if found is None else found.note)

    @job(registry=registry)
    async def on_loop() -> None:
        await progress(0.1, "begun")
        await progress(0.3, "charged")
        await step("look", look, current_job().id)
        await progress(0.6, "booked")
        await wait_for("go")
        await progress(0.7, "not written: the job ends")

    @job(registry=registry)
    def in_thread() -> None:
        progress(0.1, "begun")
        progress(0.3, "charged")
        step("nothing", str)
        progress(0.6, "booked")
        wait_for("go")
        progress(0.7, "not written: the job ends")

    [job_id] = await harness.enqueue((on_loop if kind == "loop" else in_thread).new())
    async with harness.runner():
        await harness.becomes(job_id, "suspended")
        waiting = await oban.progress(job_id)
        await oban.signal(job_id, "go")
        await harness.becomes(job_id, "completed")
    # A later attempt comes past what was said before, and does not go back to it.
    ended = await oban.progress(job_id)
    assert waiting is not None
    assert ended == waiting
    assert (waiting.done, waiting.note) == (0.6, "booked")
    assert seen == (["charged"] if kind == "loop" else [])


async def test_the_last_progress_is_written_before_a_commit_and_before_a_sleep(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.steps.report.EVERY", 3600.0)
    oban, seen = Oban(harness.engine), list[object]()

    async def look(session: AsyncSession, job_id: int) -> None:
        found = await oban.progress(job_id)
        seen.append(None if found is None else found.note)

    @job(registry=registry)
    async def work(session: AsyncSession) -> None:
        await progress(0.1, "begun")
        await progress(0.3, "charged")
        await step.commit(session, "look", look, current_job().id)
        await progress(0.6, "booked")
        await sleep("rest", "1 day")

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "scheduled")
    found = await oban.progress(job_id)
    assert found is not None
    assert (seen, found.note) == (["charged"], "booked")


@pytest.mark.parametrize("given", [-0.1, 1.1, float("nan"), "half", True])
async def test_what_is_no_progress_is_refused(harness: Harness, registry: Registry, given: Any) -> None:
    said: list[str] = []

    @job(registry=registry)
    async def work() -> None:
        with pytest.raises(ValueError, match="from 0 to 1") as refused:
            await progress(given)
        said.append(str(refused.value))

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert said


async def test_progress_may_be_told_to_async_code(harness: Harness, registry: Registry) -> None:
    seen: list[Progress] = []

    @job(registry=registry)
    async def work() -> None:
        await progress(0.4, "rows")
        await eventually(lambda: len(seen) == 1)

    async def hear(said: Progress) -> None:
        await asyncio.sleep(0)
        seen.append(said)

    async with harness.runner():
        await Oban(harness.engine).relay(work.new(), within=20, on_progress=hear)
    assert [(said.done, said.note) for said in seen] == [(0.4, "rows")]


async def test_what_can_t_be_waited_for_says_why(harness: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def work() -> None: ...

    oban, anything = Oban(harness.engine), 3
    wrong: Any = anything
    with pytest.raises(InvalidOption, match="on_progress is a function of what the job says, not 3"):
        await oban.relay(work.new(), on_progress=wrong)
    with pytest.raises(InvalidOption, match="within: 'soon' is not a span of time"):
        await oban.relay(work.new(), within="soon")
    async with harness.sessions() as session:
        pending = enqueue(session, work.new())
        with pytest.raises(InvalidJob, match="is in a session, which stores it; wait for it once that is committed"):
            await oban.relay(pending)
        await session.commit()
    assert pending.meta == {}
    assert await harness.states() == {"available": 1}
