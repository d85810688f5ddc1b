"""Durable steps, sleeps and signals in users' tests: drained, inline, and performed by themselves."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Job, Signal, current_job, enqueue, job, signal, sleep, step, wait_for
from oban_sa.errors import InvalidOption, Suspended
from oban_sa.models import Entry, SentSignal
from oban_sa.testing import drain, inline, perform_job
from oban_sa.workers import Registry

registry = Registry()
called: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def anew() -> None:
    called.clear()


async def charge(order: int) -> int:
    called["charge"] += 1
    return order * 100


def charge_sync(order: int) -> int:
    called["charge"] += 1
    return order * 100


async def book(session: AsyncSession, cents: int) -> int:
    called["book"] += 1
    await session.execute(text("INSERT INTO oban_sa_queues (name) VALUES ('booked')"))
    return cents


def book_sync(session: Session, cents: int) -> int:
    called["book"] += 1
    session.execute(text("INSERT INTO oban_sa_queues (name) VALUES ('booked')"))
    return cents


@job(registry=registry)
async def checkout(session: AsyncSession, order: int, fails: bool = False) -> None:
    await session.execute(text("SELECT 1"))
    cents = await step("charge", charge, order)
    await step.commit(session, "book", book, cents)
    if fails and current_job().attempt == 1:
        raise RuntimeError("once")
    await sleep("cool down", "1 day")
    answer = await wait_for("approval", within="1 day")
    called[f"approved {answer and answer.payload}"] += 1


@job(registry=registry)
def checkout_sync(session: Session, order: int) -> None:
    cents = step("charge", charge_sync, order)
    step.commit(session, "book", book_sync, cents)
    sleep("cool down", "1 day")
    answer: Any = wait_for("approval")
    called[f"approved {answer and answer.payload}"] += 1


@job(registry=registry)
async def ask() -> None:
    called["ask"] += 1
    answer = await wait_for("go")
    called[f"got {answer and answer.payload}"] += 1


@job(registry=registry)
async def answer(session: AsyncSession, job_id: int) -> None:
    signal(session, job_id, "go", "word")


async def test_a_drained_job_stops_at_a_sleep(session: AsyncSession) -> None:
    made = enqueue(session, checkout.new(7))
    assert await drain(session, registry=registry) == {"scheduled": 1}
    assert called == {"charge": 1, "book": 1}
    entries = list(await session.scalars(select(Entry).order_by(Entry.recorded_at, Entry.name)))
    assert {(entry.name, entry.value) for entry in entries} == {("book", 700), ("charge", 700), ("cool down", None)}
    await session.refresh(made)
    assert made.attempt == 0


async def test_with_scheduled_nothing_waits_and_signals_are_given(session: AsyncSession) -> None:
    enqueue(session, checkout.new(7))
    counts = await drain(session, registry=registry, with_scheduled=True, with_signals={"approval": "yes"})
    assert counts == {"completed": 1}
    assert called == {"charge": 1, "book": 1, "approved yes": 1}


async def test_without_a_signal_the_time_is_up(session: AsyncSession) -> None:
    enqueue(session, checkout.new(7))
    assert await drain(session, registry=registry, with_scheduled=True) == {"completed": 1}
    assert called["approved None"] == 1


async def test_a_step_of_an_attempt_whose_session_rolled_back_is_replayed(session: AsyncSession) -> None:
    enqueue(session, checkout.new(7, fails=True))
    counts = await drain(session, registry=registry, with_retries=True, with_scheduled=True)
    assert counts == {"completed": 1}
    assert called == {"charge": 1, "book": 1, "approved None": 1}


def test_synchronous_jobs_are_drained(sync_session: Session) -> None:
    enqueue(sync_session, checkout_sync.new(7))
    counts = drain(sync_session, registry=registry, with_scheduled=True, with_signals={"approval": 1})
    assert counts == {"completed": 1}
    assert called == {"charge": 1, "book": 1, "approved 1": 1}


async def test_a_signal_that_a_drained_job_sends_wakes_another(session: AsyncSession) -> None:
    waits = enqueue(session, ask.new())
    await session.flush()
    assert await drain(session, registry=registry) == {"suspended": 1}
    enqueue(session, answer.new(waits.id))
    assert await drain(session, registry=registry) == {"completed": 2}
    assert called == {"ask": 2, "got word": 1}
    assert list(await session.scalars(select(SentSignal))) == []


async def test_inline_a_signal_wakes_a_job_as_its_transaction_commits(
    sessions: async_sessionmaker[AsyncSession], engine: AsyncEngine
) -> None:
    with inline(registry=registry):
        async with sessions.begin() as session:
            waits = enqueue(session, ask.new())
        assert called == {"ask": 1}
        async with sessions.begin() as session:
            signal(session, waits.id, "go", 3)
        assert called == {"ask": 2, "got 3": 1}
    with inline(registry=registry, with_signals={"go": 4}):
        async with sessions.begin() as session:
            enqueue(session, ask.new())
    assert called["got 4"] == 1


async def test_code_is_performed_with_a_journal_and_signals(session: AsyncSession) -> None:
    given: dict[str, Any] = {"journal": {"charge": 5}, "signals": {"approval": {"ok": 1}}}
    await perform_job(checkout, {"order": 7}, session=session, registry=registry, **given)
    assert called == {"book": 1, "approved {'ok': 1}": 1}
    assert await session.scalar(text("SELECT count(*) FROM oban_sa_queues WHERE name = 'booked'")) == 1
    assert list(await session.scalars(select(Entry))) == []


async def test_synchronous_code_is_performed_on_the_loop_of_an_async_session(session: AsyncSession) -> None:
    await perform_job(checkout_sync, {"order": 7}, session=session, registry=registry, signals={"approval": 2})
    assert called == {"charge": 1, "book": 1, "approved 2": 1}


def test_code_is_performed_where_there_is_no_loop(sync_session: Session) -> None:
    perform_job(checkout_sync, {"order": 7}, session=sync_session, registry=registry, signals={"approval": 2})
    assert called == {"charge": 1, "book": 1, "approved 2": 1}


def test_performed_code_that_waits_for_good_says_so() -> None:
    with pytest.raises(Suspended, match="waits for go"):
        perform_job(ask, {}, registry=registry)


@job(registry=registry)
async def ask_twice() -> None:
    for _ in range(2):
        answer = await wait_for("go")
        called[f"got {answer and answer.payload}"] += 1


async def test_several_signals_of_a_name_are_given_by_their_numbers(session: AsyncSession) -> None:
    both = {"go": 1, "go#2": 2}
    await perform_job(ask_twice, {}, registry=registry, signals=both)
    assert called == {"got 1": 1, "got 2": 1}
    enqueue(session, ask_twice.new())
    assert await drain(session, registry=registry, with_signals=both) == {"completed": 1}
    assert called == {"got 1": 2, "got 2": 2}
    await perform_job(ask_twice, {}, registry=registry, signals={"go": 3})
    assert called["got 3"] == 2


async def test_what_is_given_wrongly_says_what_to_write(session: AsyncSession) -> None:
    anything: Any = perform_job
    for word in ("journal", "signals", "deps"):
        for wrong in (["go"], {1: 2}, "go"):
            with pytest.raises(InvalidOption, match=f"{word} is a dict by names, such as {word}="):
                await anything(ask, {}, registry=registry, **{word: wrong})
    wrong_signals: Any = ["go"]
    with pytest.raises(InvalidOption, match="with_signals is a dict by names"):
        await drain(session, registry=registry, with_signals=wrong_signals)
    with pytest.raises(InvalidOption, match=r"write signals=\{'go': \.\.\.\} in place of journal="):
        await perform_job(ask, {}, registry=registry, journal={"go": {"ok": True}})
    await perform_job(ask, {}, registry=registry, journal={"go": None})
    assert called["got None"] == 1


async def test_a_signal_is_what_a_runner_gives(session: AsyncSession) -> None:
    seen: list[Signal | None] = []

    @job(registry=registry, name="tests.looks")
    async def looks() -> None:
        seen.append(await wait_for("x"))

    await perform_job(looks, {}, signals={"x": [1]})
    [received] = seen
    assert received is not None
    assert (received.name, received.payload, received.sent_at.tzinfo is None) == ("x", [1], False)
    assert isinstance(looks.new(), Job)
