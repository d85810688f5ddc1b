"""Middleware stands around every attempt, wherever its code runs, and has the last word on its answer."""

from __future__ import annotations

import asyncio
import functools
import threading
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Record, Runner, Snooze, current_job, hooks, job, telemetry, worker
from oban_sa.errors import AttemptTimedOut, InvalidOption, RunnerError
from oban_sa.service import service
from oban_sa.settings.settings import load
from oban_sa.workers import Registry
from oban_sa.workers.middleware import CallNext, Chain
from tests.runner.conftest import Harness
from tests.runner.execution import elsewhere

KINDS = ["loop", "thread", "process", "async session", "sync session"]
SESSIONS = ["async session", "sync session"]


def worker_of(kind: str, registry: Registry, code: Any = None, **options: Any) -> Any:
    """A function of one kind, whose body is `code`: called with the session where there is one, else with None."""
    code = code or (lambda session: "answer")

    def answer(session: Any = None) -> Any:
        return code(session)

    async def on_loop() -> Any:
        return answer()

    def in_thread() -> Any:
        return answer()

    async def in_async_session(job: Job, session: AsyncSession) -> Any:
        return await session.run_sync(answer)

    def in_sync_session(job: Job, session: Session) -> Any:
        return answer(session)

    if kind == "process":
        definition = elsewhere.answering.__oban_definition__
        if definition.name not in registry:
            registry.register(definition)
        return elsewhere.answering
    functions: dict[str, Any] = {
        "loop": on_loop,
        "thread": in_thread,
        "async session": in_async_session,
        "sync session": in_sync_session,
    }
    return job(registry=registry, name=kind, **options)(functions[kind])


@pytest.mark.parametrize("kind", ["loop", "sync session"])
async def test_it_fails_where_it_does_not_await_what_comes_next(harness: Harness, kind: str) -> None:
    """What it would have called is not done: the job must not count as complete."""
    called: list[bool] = []

    async def forgets(job: Job, call_next: CallNext) -> Any:
        return call_next(job)

    [job_id] = await harness.enqueue(
        worker_of(kind, harness.registry, lambda session: called.append(True)).new(),
    )
    await harness.drain(middleware=[forgets])
    found = await harness.job(job_id)
    assert found.state == "retryable"
    assert "the answer is the coroutine CallNext.__call__(), which nothing has awaited" in found.errors[0]["error"]
    assert called == []


@pytest.mark.parametrize("kind", KINDS)
async def test_it_sees_the_job_its_worker_and_the_answer_outermost_first(harness: Harness, kind: str) -> None:
    function = worker_of(kind, harness.registry)
    seen: list[Any] = []

    async def outer(job: Job, call_next: CallNext) -> Any:
        seen.append(("outer", job.id, call_next.definition.name, current_job() is job))
        answer = await call_next(job)
        seen.append(("outer", answer))
        return answer

    async def inner(job: Job, call_next: CallNext) -> Any:
        seen.append(("inner", threading.current_thread() is threading.main_thread()))
        answer = await call_next()
        seen.append(("inner", answer))
        return answer

    [job_id] = await harness.enqueue(function.new())
    await harness.drain(middleware=[outer, inner])
    name = function.__oban_definition__.name
    assert seen == [
        ("outer", job_id, name, True),
        ("inner", True),
        ("inner", "answer"),
        ("outer", "answer"),
    ]
    assert (await harness.job(job_id)).state == "completed"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "state"), [(Cancel("no"), "cancelled"), (Snooze(500), "scheduled"), (Record(7), "completed")]
)
async def test_it_may_give_another_answer(harness: Harness, kind: str, answer: object, state: str) -> None:
    async def other(job: Job, call_next: CallNext) -> Any:
        assert await call_next(job) == "answer"
        return answer

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry).new())
    await harness.drain(middleware=[other])
    job = await harness.job(job_id)
    assert job.state == state
    if state == "completed":
        assert job.recorded() == 7


@pytest.mark.parametrize("kind", KINDS)
async def test_what_it_raises_is_the_answer(harness: Harness, kind: str) -> None:
    async def refusing(job: Job, call_next: CallNext) -> Any:
        await call_next(job)
        raise PermissionError("not on Sundays")

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry).new())
    await harness.drain(middleware=[refusing])
    job = await harness.job(job_id)
    assert job.state == "retryable"
    assert job.errors[0]["error"].startswith("PermissionError: not on Sundays")


@pytest.mark.parametrize("kind", KINDS)
async def test_it_may_keep_the_code_from_running(harness: Harness, kind: str) -> None:
    ran: list[str] = []

    async def stopping(job: Job, call_next: CallNext) -> Any:
        return Cancel("not wanted")

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry, lambda session: ran.append(kind)).new())
    await harness.drain(middleware=[stopping])
    job = await harness.job(job_id)
    assert job.state == "cancelled"
    assert "not wanted" in job.errors[0]["error"]
    assert ran == []


@pytest.mark.parametrize("kind", KINDS)
async def test_it_sees_what_the_code_raises_and_may_answer_instead(harness: Harness, kind: str) -> None:
    seen: list[BaseException] = []

    def fail(session: Any) -> None:
        raise ZeroDivisionError("division by nothing")

    async def lenient(job: Job, call_next: CallNext) -> Any:
        try:
            return await call_next(job)
        except ZeroDivisionError as error:
            seen.append(error)
            return Snooze(300)

    function = worker_of(kind, harness.registry, fail)
    [job_id] = await harness.enqueue(function.new(**({"fails": True} if kind == "process" else {})))
    await harness.drain(middleware=[lenient])
    assert [str(error) for error in seen] == ["division by nothing"]
    assert (await harness.job(job_id)).state == "scheduled"


@pytest.mark.parametrize("kind", ["loop", "thread", *SESSIONS])
async def test_even_sys_exit_in_the_code_passes_through_it(harness: Harness, kind: str) -> None:
    seen: list[str] = []

    def leave(session: Any) -> None:
        raise SystemExit(3)

    async def watching(job: Job, call_next: CallNext) -> Any:
        try:
            return await call_next(job)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry, leave).new())
    await harness.drain(middleware=[watching])
    assert seen == ["SystemExit"]
    job = await harness.job(job_id)
    assert job.state == "retryable"
    assert job.errors[0]["error"].startswith("SystemExit: 3")


@pytest.mark.parametrize("kind", SESSIONS)
async def test_what_the_code_wrote_is_rolled_back_where_it_raises(harness: Harness, kind: str) -> None:
    await harness.sql("CREATE TABLE effects (n int)")

    async def raising(job: Job, call_next: CallNext) -> Any:
        await call_next(job)
        raise PermissionError

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry, insert_effect).new())
    await harness.drain(middleware=[raising])
    assert await harness.sql("SELECT * FROM effects") == []
    assert (await harness.job(job_id)).state == "retryable"


@pytest.mark.parametrize("kind", SESSIONS)
async def test_half_done_writes_are_rolled_back_though_it_answers_instead_of_the_error(
    harness: Harness, kind: str
) -> None:
    await harness.sql("CREATE TABLE effects (n int)")

    def half(session: Session) -> None:
        insert_effect(session)
        raise ConnectionError

    async def lenient(job: Job, call_next: CallNext) -> Any:
        try:
            await call_next(job)
        except ConnectionError:
            return "never mind"

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry, half).new())
    await harness.drain(middleware=[lenient])
    assert await harness.sql("SELECT * FROM effects") == []
    assert (await harness.job(job_id)).state == "completed"


@pytest.mark.parametrize("kind", SESSIONS)
async def test_what_the_code_wrote_and_its_other_answer_are_committed_together(harness: Harness, kind: str) -> None:
    await harness.sql("CREATE TABLE effects (n int)")

    async def other(job: Job, call_next: CallNext) -> Any:
        await call_next(job)
        assert await harness.sql("SELECT * FROM effects") == []
        return Record("kept")

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry, insert_effect).new())
    await harness.drain(middleware=[other])
    assert await harness.sql("SELECT * FROM effects") == [(1,)]
    assert (await harness.job(job_id)).recorded() == "kept"


@pytest.mark.usefixtures("undecided")  # which may be as quick to see it, and interrupt the attempt
@pytest.mark.parametrize("kind", SESSIONS)
async def test_an_attempt_that_lost_its_job_meanwhile_leaves_no_effects(harness: Harness, of: Any, kind: str) -> None:
    await harness.sql("CREATE TABLE effects (n int)")

    async def losing(job: Job, call_next: CallNext) -> Any:
        answer = await call_next(job)
        await harness.sql("UPDATE oban_jobs SET state = 'cancelled' WHERE id = :id", id=job.id)
        return answer

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry, insert_effect).new())
    await harness.drain(middleware=[losing])
    assert await harness.sql("SELECT * FROM effects") == []
    assert (await harness.job(job_id)).state == "cancelled"
    assert [event.job_id for event in of(telemetry.JobStale)] == [job_id]


@pytest.mark.parametrize("kind", SESSIONS)
async def test_it_sees_what_the_database_refuses_of_the_code_s_writes(harness: Harness, kind: str) -> None:
    seen: list[BaseException] = []

    def invalid(session: Session) -> None:
        # Written by the flush that comes after the code.
        session.add(Job("w", id=1, args={}))

    async def watching(job: Job, call_next: CallNext) -> Any:
        try:
            return await call_next(job)
        except IntegrityError as error:
            seen.append(error)
            raise

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry, invalid).new())
    assert job_id == 1
    await harness.drain(middleware=[watching])
    assert len(seen) == 1
    assert (await harness.job(job_id)).state == "retryable"


@pytest.mark.parametrize("kind", ["loop", "thread", *SESSIONS])
async def test_a_timeout_ends_the_code_and_is_an_error_to_it(harness: Harness, kind: str) -> None:
    seen: list[str] = []

    async def watching(job: Job, call_next: CallNext) -> Any:
        try:
            return await call_next(job)
        except AttemptTimedOut as error:
            seen.append(str(error))
            raise

    @job(registry=harness.registry, name="waits on the loop", timeout=0.2)
    async def loop() -> None:
        await asyncio.Event().wait()

    @job(registry=harness.registry, name="waits in a thread", timeout=0.2)
    def thread() -> None:
        while not threading.Event().wait(0.01):
            pass

    @job(registry=harness.registry, name="waits in a session", timeout=0.2)
    async def async_session(session: AsyncSession) -> None:
        await asyncio.Event().wait()

    @job(registry=harness.registry, name="waits in a thread's session", timeout=0.2)
    def sync_session(session: Session) -> None:
        while not threading.Event().wait(0.01):
            pass

    function: Any = dict(zip(["loop", "thread", *SESSIONS], (loop, thread, async_session, sync_session), strict=True))[
        kind
    ]
    [job_id] = await harness.enqueue(function.new())
    await harness.drain(middleware=[watching])
    assert len(seen) == 1
    assert "took longer than its timeout of 200 ms" in seen[0]
    found = await harness.job(job_id)
    assert found.state == "retryable"
    assert found.errors[0]["error"].startswith("AttemptTimedOut: ")


@pytest.mark.parametrize("kind", SESSIONS)
async def test_the_time_that_middleware_takes_is_none_of_the_code_s(harness: Harness, kind: str) -> None:
    async def slow(job: Job, call_next: CallNext) -> Any:
        answer = await call_next(job)
        await asyncio.sleep(0.7)  # longer than the code may take
        return answer

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry, timeout=0.5).new())
    await harness.drain(middleware=[slow])
    assert (await harness.job(job_id)).state == "completed"


@pytest.mark.parametrize("kind", ["async session", "sync session"])
async def test_an_outcome_that_waits_for_a_lock_is_timed_too(harness: Harness, kind: str) -> None:
    # Code that left nothing to commit has its outcome written apart.
    if kind == "async session":

        @job(name="worker", registry=harness.registry, timeout=0.3)
        async def on_loop(session: AsyncSession) -> None:
            await session.execute(text("SELECT 1"))

    else:

        @job(name="worker", registry=harness.registry, timeout=0.3)
        def in_thread(session: Session) -> None:
            session.execute(text("SELECT 1"))

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.engine.connect() as holder:

        async def locking(job: Job, call_next: CallNext) -> Any:
            answer = await call_next(job)
            await holder.execute(text("SELECT FROM oban_jobs WHERE id = :id FOR UPDATE"), {"id": job.id})
            return answer

        failed = asyncio.Event()
        detach = telemetry.attach(lambda event: failed.set(), telemetry.JobException)
        async with harness.runner(middleware=[locking]):
            await failed.wait()
            await holder.rollback()
            found = await harness.becomes(job_id, "retryable")
        detach()
    assert found.errors[0]["error"].startswith("AttemptTimedOut: ")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_that_waits_in_it_when_the_runner_stops_is_given_back(harness: Harness, kind: str) -> None:
    reached = asyncio.Event()

    async def waiting(job: Job, call_next: CallNext) -> Any:
        await call_next(job)
        reached.set()
        await asyncio.Event().wait()

    [job_id] = await harness.enqueue(worker_of(kind, harness.registry).new())
    async with harness.runner(middleware=[waiting], grace=0.1):
        await reached.wait()
    found = await harness.job(job_id)
    assert (found.state, found.attempt, found.errors) == ("available", 0, [])


async def test_context_variables_it_sets_are_there_in_the_code(harness: Harness) -> None:
    trace: ContextVar[str] = ContextVar("trace", default="none")
    seen: dict[str, str] = {}

    async def tracing(job: Job, call_next: CallNext) -> Any:
        trace.set(f"trace {job.queue}")
        return await call_next(job)

    kinds = ["loop", "thread", *SESSIONS]
    for kind in kinds:

        def look(session: Any, kind: str = kind) -> None:
            seen[kind] = trace.get()

        await harness.enqueue(worker_of(kind, harness.registry, look).new())
    await harness.drain(middleware=[tracing])
    assert seen == dict.fromkeys(kinds, "trace default")


async def test_the_code_of_an_attempt_runs_once_whatever_it_asks_for(harness: Harness) -> None:
    ran: list[int] = []

    async def again(job: Job, call_next: CallNext) -> Any:
        await call_next(job)
        return await call_next(job)

    [job_id] = await harness.enqueue(worker_of("loop", harness.registry, lambda session: ran.append(1)).new())
    await harness.drain(middleware=[again])
    assert ran == [1]
    assert (await harness.job(job_id)).errors[0]["error"].startswith("RunnerError: call_next was called twice")


async def test_it_goes_on_with_the_job_it_was_given() -> None:
    with pytest.raises(RunnerError, match="goes on with the job that it was given"):
        await CallNext((), Job("w"), None, None)(Job("other"))  # type: ignore[arg-type]


async def test_objects_with_an_async_call_and_partial_functions_are_middleware(harness: Harness) -> None:
    seen: list[str] = []

    class Tracer:
        async def __call__(self, job: Job, call_next: CallNext) -> Any:
            seen.append("object")
            return await call_next(job)

        async def method(self, job: Job, call_next: CallNext) -> Any:
            seen.append("method")
            return await call_next(job)

    async def named(name: str, job: Job, call_next: CallNext) -> Any:
        seen.append(name)
        return await call_next(job)

    [job_id] = await harness.enqueue(worker_of("loop", harness.registry).new())
    await harness.drain(middleware=[Tracer(), Tracer().method, functools.partial(named, "partial")])
    assert seen == ["object", "method", "partial"]
    assert (await harness.job(job_id)).state == "completed"


def plain(job: Job, call_next: CallNext) -> None: ...


async def too_few(job: Job) -> None: ...


class Made: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([plain], "the middleware plain is no coroutine function; write async def plain(job, call_next)"),
        ([too_few], "the middleware too_few takes other parameters than a job and what comes next"),
        ([Made], "the middleware Made is a class; give an object: Made()"),
        ([7], "a middleware is an async function of a job and what comes next, not 7"),
        ("myapp:trace", "middleware is a list of async functions"),
        (too_few, "middleware is a list of async functions, such as [too_few]"),
    ],
)
def test_what_can_not_stand_around_an_attempt_is_refused(engine: AsyncEngine, given: Any, message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Runner(engine, middleware=given)
    assert message in str(caught.value)


async def test_without_any_an_attempt_knows_nothing_of_middleware(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Chain, "around", never)
    ids = await harness.enqueue(*(worker_of(kind, harness.registry).new() for kind in KINDS))
    await harness.drain()
    assert [(await harness.job(job_id)).state for job_id in ids] == ["completed"] * len(KINDS)


# Named in the settings


async def keep(session: AsyncSession, jobs: list[Job]) -> None: ...


async def around(job: Job, call_next: CallNext) -> Any:
    return await call_next(job)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"middleware": ("tests.runner.execution.test_middleware:arround",)}, "did you mean 'around'?"),
        ({"middleware": ("tests.runner.nowhere:around",)}, "--middleware: there is no module 'nowhere' in the package"),
        ({"middleware": ("tests.runner.execution.test_middleware:plain",)}, "is no coroutine function"),
        ({"prune": {"archive": "tests.runner.execution.test_middleware:kep"}}, "did you mean 'keep'?"),
    ],
)
def test_functions_that_settings_name_in_vain_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        service.check(load(environ={}, flags=settings))
    assert message in str(caught.value)


def test_functions_that_settings_name_are_found() -> None:
    names = {"middleware": f"{__name__}:around", "prune": {"archive": f"{__name__}:keep"}}
    prune, middleware = service._named(load(environ={}, flags=names))
    assert middleware == [around]
    assert prune is not None
    assert prune.archive is keep


# Before a job is written


async def test_a_hook_sees_every_job_before_it_is_written_and_may_add_to_its_meta(harness: Harness) -> None:
    from oban_sa import Oban
    from oban_sa.jobs.cron_entry import CronEntry

    @worker(registry=harness.registry, name="cronned")
    class Cronned:
        async def process(self, job: Job) -> None: ...

    shown: list[str] = []

    def trace(job: Job) -> None:
        shown.append(job.worker)
        job.meta["trace"] = f"trace of {job.worker}"

    remove = hooks.before_insert(trace)
    try:
        await harness.enqueue(Job("enqueued"), Job("with meta", meta={"mine": 1}))
        async with harness.sessions.begin() as session:
            session.add(Job("added"))
        async with harness.sessions() as session:
            session.add(Job("rolled back"))
            await session.flush()
            await session.rollback()
        oban = Oban(harness.engine)
        await oban.enqueue(Job("by the client"))
        await oban.enqueue_many([Job("copied"), Job("copied")])
        await oban.enqueue_many([Job("with a past", errors=[{"at": "x", "attempt": 1, "error": "y"}])])
        async with harness.runner(queues={"none": 1}, crontab=[CronEntry("@reboot", "cronned")]):
            from tests.support import eventually

            await eventually(lambda: harness.sql("SELECT 1 FROM oban_jobs WHERE worker = 'cronned'"))
    finally:
        remove()
    await harness.enqueue(Job("after"))
    rows = await harness.sql("SELECT worker, meta FROM oban_jobs ORDER BY id")
    assert [worker for worker, _ in rows] == [
        "enqueued",
        "with meta",
        "added",
        "by the client",
        "copied",
        "copied",
        "with a past",
        "cronned",
        "after",
    ]
    assert all(meta["trace"] == f"trace of {worker}" for worker, meta in rows[:-1])
    assert rows[1][1]["mine"] == 1
    assert rows[-1][1] == {}
    assert sorted(shown) == sorted([worker for worker, _ in rows[:-1]] + ["rolled back"])


async def test_a_job_is_shown_once_and_not_again_when_it_is_updated(harness: Harness) -> None:
    shown: list[int | None] = []
    remove = hooks.before_insert(lambda job: shown.append(job.id))
    try:
        async with harness.sessions.begin() as session:
            job = Job("w")
            session.add(job)
            await session.flush()
            job.update({"priority": 3})
    finally:
        remove()
    assert shown == [None]


async def test_a_hook_that_raises_lets_nothing_be_written(harness: Harness) -> None:
    def refuse(job: Job) -> None:
        raise PermissionError("no jobs today")

    remove = hooks.before_insert(refuse)
    try:
        with pytest.raises(PermissionError, match="no jobs today"):
            await harness.enqueue(Job("w"))
    finally:
        remove()
    assert await harness.sql("SELECT * FROM oban_jobs") == []


def insert_effect(session: Any) -> str:
    session.execute(text("INSERT INTO effects VALUES (1)"))
    return "answer"
