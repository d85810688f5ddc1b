"""What a step that is committed with a session asks of it: the session alone, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import current_job, step
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness


async def write(session: AsyncSession, word: str) -> None:
    await session.execute(text("INSERT INTO written VALUES (:word)"), {"word": word})


def write_sync(session: Session, word: str) -> None:
    session.execute(text("INSERT INTO written VALUES (:word)"), {"word": word})


@pytest.fixture
async def written(harness: Harness) -> Callable[[], Awaitable[list[str]]]:
    """The words that are committed, each as often as it is."""
    await harness.sql("CREATE TABLE written (word text)")

    async def words() -> list[str]:
        return sorted(row[0] for row in await harness.sql("SELECT word FROM written"))

    return words


Written = Callable[[], Awaitable[list[str]]]


async def named(harness: Harness) -> list[str]:
    return [row[0] for row in await harness.sql("SELECT name FROM oban_sa_journal ORDER BY 1")]


async def test_steps_side_by_side_in_one_session_are_committed_one_after_the_other(
    harness: Harness, registry: Registry, written: Written
) -> None:
    @job(registry=registry, backoff=lambda _: 0)
    async def work(session: AsyncSession) -> None:
        await asyncio.gather(*(step.commit(session, f"n{n}", write, f"word {n}") for n in range(4)))
        if current_job().attempt == 1:
            raise RuntimeError("once more")

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert "once more" in done.errors[0]["error"]
    assert await written() == ["word 0", "word 1", "word 2", "word 3"]
    assert await named(harness) == ["n0", "n1", "n2", "n3"]


async def test_a_step_inside_of_another_in_the_same_session_is_refused(
    harness: Harness, registry: Registry, written: Written
) -> None:
    async def outer(session: AsyncSession) -> None:
        await write(session, "outer")
        await asyncio.create_task(asyncio.wait_for(step.commit(session, "inner", write, "inner"), 10))

    @job(registry=registry, max_attempts=1)
    async def work(session: AsyncSession) -> None:
        await step.commit(session, "outer", outer)

    def outer_sync(session: Session) -> None:
        write_sync(session, "outer")
        step.commit(session, "inner", write_sync, "inner")

    @job(registry=registry, max_attempts=1)
    def work_sync(session: Session) -> None:
        step.commit(session, "outer", outer_sync)

    ids = await harness.enqueue(work.new(), work_sync.new())
    async with harness.runner():
        for job_id in ids:
            lost = await harness.becomes(job_id, "discarded")
            assert "'inner', ...) stands inside of step 'outer'" in lost.errors[0]["error"]
    assert await written() == []
    assert await named(harness) == []


async def test_another_session_may_be_committed_inside_of_a_step(
    harness: Harness, registry: Registry, written: Written
) -> None:
    async def outer(session: AsyncSession) -> None:
        await write(session, "outer")
        async with harness.sessions() as other:
            await step.commit(other, "inner", write, "inner")

    @job(registry=registry)
    async def work(session: AsyncSession) -> None:
        await step.commit(session, "outer", outer)

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert await written() == ["inner", "outer"]


@pytest.mark.parametrize("how", ["commit", "commit in a block", "close", "rollback"])
async def test_a_function_that_ends_the_transaction_itself_is_refused(
    harness: Harness, registry: Registry, written: Written, how: str
) -> None:
    async def ends(session: AsyncSession) -> None:
        if how == "commit in a block":
            async with session.begin():
                await write(session, "word")
            return
        await write(session, "word")
        await getattr(session, how)()

    def ends_sync(session: Session) -> None:
        if how == "commit in a block":
            with session.begin():
                write_sync(session, "word")
            return
        write_sync(session, "word")
        getattr(session, how)()

    @job(registry=registry, max_attempts=1)
    async def work(session: AsyncSession) -> None:
        await step.commit(session, "book", ends)

    @job(registry=registry, max_attempts=1)
    def work_sync(session: Session) -> None:
        step.commit(session, "book", ends_sync)

    ids = await harness.enqueue(work.new(), work_sync.new())
    async with harness.runner():
        for job_id in ids:
            said = (await harness.becomes(job_id, "discarded")).errors[0]["error"]
            assert ("commits the session" if "commit" in how else "closes the session or rolls it back") in said
            assert "step 'book'" in said
    assert await written() == []
    assert await named(harness) == []


async def test_a_function_may_use_savepoints_and_begin_anew_after_a_rollback(
    harness: Harness, registry: Registry, written: Written
) -> None:
    async def tries(session: AsyncSession) -> None:
        async with session.begin_nested():
            await write(session, "nested")
        async with session.begin_nested() as savepoint:
            await write(session, "nested and gone")
            await savepoint.rollback()

    async def anew(session: AsyncSession) -> None:
        await write(session, "gone")
        await session.rollback()
        await write(session, "instead")

    @job(registry=registry)
    async def work(session: AsyncSession) -> None:
        await step.commit(session, "tries", tries)
        await step.commit(session, "anew", anew)
        await session.commit()  # which is nothing to a step that is done

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert await written() == ["instead", "nested"]


anything: Any = step


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda session: anything.commit("book", write, "x"), "write step.commit(session, 'book', function, argument)"),
        (lambda session: anything.commit(session, "book", write, "x", attempts=3), "takes no attempts"),
        (lambda session: step.commit(session, "", write, "x"), "has a name of 1 to 300 characters"),
    ],
)
async def test_what_can_t_be_committed_says_what_to_write(
    harness: Harness, registry: Registry, given: Any, words: str
) -> None:
    @job(registry=registry, max_attempts=1)
    async def work(session: AsyncSession) -> None:
        await given(session)

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        assert words in (await harness.becomes(job_id, "discarded")).errors[0]["error"]
