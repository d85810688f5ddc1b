from __future__ import annotations

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Cancel, Job, Record, Snooze, enqueue, job, ref, worker
from oban_sa.errors import (
    InvalidArguments,
    InvalidJob,
    InvalidOption,
    JobNotFound,
    ReferenceOutsideSession,
    WorkerNotFound,
)
from oban_sa.testing import drain, inline, perform_job
from oban_sa.workers import Registry
from tests.arguments.mapped import Base, User
from tests.testing import workers
from tests.testing.workers import Echo, Order, Ship, add, cancel, fail, record, registry, snooze, where_am_i


def test_async_code_runs_where_there_is_no_loop() -> None:
    assert perform_job(Echo, {"to": "ada"})["args"] == {"to": "ada"}


async def test_from_a_coroutine_it_is_awaited() -> None:
    assert (await perform_job(Echo, {"to": "ada"}))["args"] == {"to": "ada"}
    assert await perform_job(add, {"one": 1}) == 3


def test_a_coroutine_that_nothing_has_awaited_is_no_answer() -> None:
    async def forgotten() -> None: ...

    @job(registry=Registry())
    def in_thread() -> object:
        return forgotten()

    @job(registry=Registry())
    async def on_loop() -> object:
        return forgotten()

    for function in (in_thread, on_loop):
        with pytest.raises(TypeError, match=r'forgotten\(\), which nothing has awaited.*executor="loop"'):
            perform_job(function)


def test_the_code_is_a_first_attempt_unless_told_otherwise() -> None:
    answer = perform_job(Echo)
    assert (answer["attempt"], answer["same"]) == (1, True)
    assert perform_job(Echo, attempt=3)["attempt"] == 3
    with pytest.raises(InvalidJob, match="attempt"):
        perform_job(Echo, attempt=4)


def test_args_go_through_json_as_they_would_through_the_table() -> None:
    number = uuid4()
    answer = perform_job(Echo, {"id": number, "pair": (1, 2)}, meta={"by": number})
    assert answer["args"] == {"id": str(number), "pair": [1, 2]}
    assert answer["meta"] == {"by": str(number)}
    order = perform_job(Ship, Order(number, 3))
    assert order == Order(number, 3)
    assert isinstance(order.id, UUID)


def test_args_that_the_worker_would_not_get_are_refused() -> None:
    with pytest.raises(InvalidArguments, match=r"args\.when"):
        perform_job(Echo, {"when": float("nan")})
    with pytest.raises(InvalidArguments, match="amount"):
        perform_job(Ship, {"id": str(uuid4())})
    with pytest.raises(InvalidArguments, match="twoo"):
        perform_job(add, {"one": 1, "twoo": 2})
    with pytest.raises(InvalidArguments, match="lacks 'one'"):
        perform_job(add)
    with pytest.raises(InvalidArguments, match="by name"):
        perform_job(add, [1, 2])


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'priority'"):
        perform_job(Echo, {}, pririty=3)
    with pytest.raises(InvalidOption, match="did you mean 'priority'"):
        perform_job(add, {"one": 1}, pririty=3)
    with pytest.raises(InvalidOption, match=r"perform_job\(job\)"):
        perform_job(Echo.new(), {"to": "ada"})


def test_a_job_runs_as_it_was_made_and_stays_as_it_is() -> None:
    made = Echo.new({"pair": (1, 2)}, queue="other")
    made.args["more"] = {"set": (3,)}
    answer = perform_job(made, registry=registry)
    assert answer["args"] == {"pair": [1, 2], "more": {"set": [3]}}
    assert (made.id, made.attempt, made.state) == (None, 0, "available")


def test_a_job_that_was_asked_to_stop_still_is() -> None:
    seen: list[bool] = []

    @job(registry=registry, name="look")
    def look(job: Job) -> None:
        seen.append(job.cancelled())

    asked = look.new()
    asked.request_cancel()
    perform_job(asked, registry=registry)
    perform_job(look)
    assert seen == [True, False]


def test_a_job_that_nobody_is_registered_for_says_so() -> None:
    with pytest.raises(WorkerNotFound, match="Nobody"):
        perform_job(Job("Nobody"))


@pytest.mark.parametrize(("function", "kind"), [(snooze, Snooze), (cancel, Cancel)])
def test_answers_come_back_as_they_are(function: Any, kind: type) -> None:
    assert isinstance(perform_job(function), kind)


def test_a_recorded_value_comes_back_as_it_is() -> None:
    assert isinstance(perform_job(record, {"value": [1]}), Record)


def test_what_the_code_raises_comes_out() -> None:
    with pytest.raises(RuntimeError, match="no luck"):
        perform_job(fail)


async def test_synchronous_code_is_kept_off_the_loop() -> None:
    assert await perform_job(where_am_i) != threading.current_thread().name


def test_no_job_is_current_afterwards() -> None:
    from oban_sa import current_job

    perform_job(add, {"one": 1})
    with pytest.raises(JobNotFound):
        current_job()


async def test_code_that_takes_a_session_sees_the_tests_own_transaction(session: AsyncSession) -> None:
    enqueue(session, Job("a"))
    assert await perform_job(workers.count_jobs, session=session) == 1


async def test_what_the_code_wrote_is_flushed_and_not_committed(session: AsyncSession) -> None:
    await perform_job(workers.follow, {"depth": 1}, session=session)
    assert not session.new
    await session.rollback()
    assert await perform_job(workers.count_jobs, session=session) == 0


def test_synchronous_code_gets_the_synchronous_session(sync_session: Session) -> None:
    perform_job(workers.follow_sync, {"depth": 1}, session=sync_session)
    assert not sync_session.new
    assert sync_session.query(Job).count() == 1


async def test_synchronous_code_gets_what_is_behind_an_asynchronous_session(session: AsyncSession) -> None:
    await perform_job(workers.follow_sync, {"depth": 1}, session=session)
    assert await perform_job(workers.count_jobs, session=session) == 1


async def test_a_reference_is_resolved_once_its_object_has_a_key(session: AsyncSession) -> None:
    other = enqueue(session, Job("a"))
    await session.flush()
    answer = await perform_job(Echo, {"job": ref(other)})
    assert answer["args"] == {"job": other.id}


def test_a_session_that_is_missing_or_of_the_wrong_kind_is_named(sync_session: Session) -> None:
    with pytest.raises(InvalidOption, match=r"takes a session; give it one: perform_job\(\.\.\., session=session\)"):
        perform_job(workers.follow, {"depth": 0})
    with pytest.raises(InvalidOption, match="takes an AsyncSession, and this is a Session"):
        perform_job(workers.follow, {"depth": 0}, session=sync_session)
    with pytest.raises(TypeError, match="must be a Session"):
        perform_job(workers.follow, {"depth": 0}, session="session")


def test_a_class_without_the_decorator_is_refused() -> None:
    class Plain:
        async def process(self, job: Job) -> None: ...

    with pytest.raises(InvalidOption, match="not decorated with @worker"):
        perform_job(Plain)


def test_timeouts_and_backoffs_are_left_to_runners() -> None:
    @worker(registry=registry, name="impatient")
    class Impatient:
        def timeout(self, job: Job) -> float:
            raise AssertionError("not asked")

        async def process(self, job: Job) -> str:
            return "done"

    assert perform_job(Impatient) == "done"


async def test_mapped_objects_are_loaded_from_the_given_session(sessions: async_sessionmaker[AsyncSession]) -> None:
    own = Registry()

    @job(registry=own)
    async def rename(session: AsyncSession, user: User, name: str) -> User:
        user.name = name
        return user

    @job(registry=own)
    def rename_in_thread(session: Session, users: list[User]) -> list[str]:
        return [user.name for user in users]

    async with sessions() as session:
        await (await session.connection()).run_sync(Base.metadata.create_all)
        user = User(name="old")
        session.add(user)
        assert await perform_job(rename.new(user, "new"), session=session, registry=own) is user
        assert await perform_job(rename, {"user": user, "name": "newer"}, session=session) is user
        assert await perform_job(rename_in_thread, {"users": [user]}, session=session) == ["newer"]
        await session.execute(text("DELETE FROM users"))
        session.expunge_all()
        assert await perform_job(rename, {"user": {"entity": "User", "id": user.id}, "name": "x"}, session=session) == (
            Cancel(f"rename: args.user is the User {user.id}, and there is no such row any more")
        )
        await session.rollback()


def test_a_pending_object_needs_a_session(sync_sessions: sessionmaker[Session]) -> None:
    own = Registry()

    @job(registry=own)
    def greet(session: Session, user: User) -> str:
        return user.name

    with sync_sessions() as session:
        Base.metadata.create_all(session.connection())
        user = User(name="Ada")
        with pytest.raises(ReferenceOutsideSession, match="<User> still has no key after the flush"):
            perform_job(greet.new(user), session=session, registry=own)
        session.add(user)
        assert perform_job(greet.new(user), session=session, registry=own) == "Ada"
        session.rollback()


async def test_they_are_loaded_by_drain_and_inline_as_well(engine: AsyncEngine) -> None:
    own = Registry()

    @job(registry=own)
    async def visit(session: AsyncSession, user: User) -> None:
        user.visits += 1

    @job(registry=own)
    def visit_in_thread(session: Session, user: User) -> None:
        user.visits += 10

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
        session.add(user := User())
        visit.enqueue(session, user)
        visit_in_thread.enqueue(session, user)
        assert (await drain(session, registry=own))["completed"] == 2
        await session.refresh(user)
        assert user.visits == 11
    with inline(registry=own) as ran:
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            visit.enqueue(session, user)
            visit_in_thread.enqueue(session, user)
    assert ran.counts["completed"] == 2
    async with AsyncSession(engine) as session:
        assert (await session.get_one(User, user.id)).visits == 22
