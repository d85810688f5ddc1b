"""An answer that code raises is the one that it would have returned, wherever it runs; unless something catches it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Record, Snooze, job, telemetry
from oban_sa.errors import InvalidOption
from oban_sa.testing import perform_job
from oban_sa.workers import Registry, worker
from oban_sa.workers.middleware import CallNext, Chain
from tests.runner.conftest import Harness
from tests.runner.execution import elsewhere

NOTE = "CREATE TABLE IF NOT EXISTS notes (t text); INSERT INTO notes VALUES ('kept')"


def deep(answer: Exception) -> None:
    """Code that knows nothing of the worker; what tidies up on errors lets an answer pass."""
    try:
        raise answer
    except LookupError:
        raise AssertionError("it is none") from None


async def let_pass(job: Job, call_next: CallNext) -> Any:
    answer = await call_next(job)
    assert isinstance(answer, (Cancel, Snooze, Record))
    return answer


@pytest.mark.parametrize("middleware", [[], [let_pass, let_pass]], ids=["plain", "with middleware"])
async def test_it_means_what_returning_it_means_in_code_of_every_kind(harness: Harness, middleware: list[Any]) -> None:
    failed: list[telemetry.Event] = []
    detach = telemetry.attach(failed.append, telemetry.JobException)

    @job(registry=harness.registry, name="loop")
    async def on_loop() -> None:
        deep(Cancel("from the loop"))

    @job(registry=harness.registry, name="limited", timeout=60)
    async def limited() -> None:
        deep(Snooze(500, meta={"page": 2}))

    @job(registry=harness.registry, name="thread")
    def in_thread() -> None:
        deep(Record({"a": 1}))

    @worker(registry=harness.registry, name="async session")
    class InAsyncSession:
        async def process(self, session: AsyncSession) -> None:
            for statement in NOTE.split(";"):
                await session.execute(text(statement))
            deep(Cancel("from a session"))

    @job(registry=harness.registry, name="sync session")
    def in_sync_session(session: Session) -> None:
        session.execute(text("INSERT INTO notes VALUES ('kept too')"))
        deep(Record("r"))

    harness.registry.register(elsewhere.answering.__oban_definition__)
    made = [on_loop.new(), limited.new(), in_thread.new(), InAsyncSession.new(), elsewhere.answering.new(records=True)]
    ids = await harness.enqueue(*made)
    await harness.drain(middleware=middleware)
    ids += await harness.enqueue(in_sync_session.new())
    await harness.drain(middleware=middleware)
    detach()

    ended = {found.worker: found for found in [await harness.job(each) for each in ids]}
    assert {name: str(found.state) for name, found in ended.items()} == {
        "loop": "cancelled",
        "limited": "scheduled",
        "thread": "completed",
        "async session": "cancelled",
        "sync session": "completed",
        elsewhere.answering.__oban_definition__.name: "completed",
    }
    assert ended["loop"].errors[0]["error"] == "AttemptCancelled: from the loop"
    assert (ended["limited"].attempt, ended["limited"].meta) == (0, {"page": 2, "snoozed": 1})
    assert [ended[each].recorded() for each in ("thread", "sync session")] == [{"a": 1}, "r"]
    assert ended[elsewhere.answering.__oban_definition__.name].recorded() == {"from": "afar"}
    async with harness.engine.connect() as connection:
        assert (await connection.scalars(text("SELECT t FROM notes"))).all() == ["kept", "kept too"]
    assert failed == []


async def test_an_answer_that_something_catches_is_not_given(harness: Harness) -> None:
    @job(registry=harness.registry, name="catches")
    async def catches() -> Record:
        with suppress(Cancel):
            deep(Cancel("never mind"))
        return Record("went on")

    async def raising(job: Job, call_next: CallNext) -> Any:
        answer = await call_next(job)
        raise Record([answer.value, "and more"])

    [job_id] = await harness.enqueue(catches.new())
    await harness.drain(middleware=[raising])
    assert (await harness.job(job_id)).recorded() == ["went on", "and more"]


def test_perform_job_answers_with_it() -> None:
    mine = Registry()

    @job(registry=mine)
    def in_thread() -> None:
        deep(Snooze("1 minute"))

    @job(registry=mine)
    async def on_loop() -> None:
        deep(Cancel("why"))

    assert perform_job(in_thread) == Snooze(60)
    assert perform_job(on_loop) == Cancel("why")


def test_a_job_is_refused_as_middleware() -> None:
    @job(registry=Registry())
    async def tick(job: Any, call_next: Any) -> None: ...

    with pytest.raises(InvalidOption, match=r"tick is a @job.*async def tick\(job, call_next\), without @job"):
        Chain([tick])
