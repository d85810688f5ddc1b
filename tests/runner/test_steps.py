"""Durable steps on real runners: what runs once, what is replayed, and what an attempt that lost its job may not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Snooze, current_job, progress, step, telemetry
from oban_sa.errors import AttemptLost
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness
from tests.support import eventually


@dataclass
class Paid:
    order: int
    cents: int


@pytest.fixture
def called() -> Counter[str]:
    """How often each step's function was called."""
    return Counter()


def fails_first(times: int = 1) -> None:
    if current_job().attempt <= times:
        raise RuntimeError("not yet")


async def journal(harness: Harness) -> list[Any]:
    return [
        tuple(row) for row in await harness.sql("SELECT name, code, value, attempt FROM oban_sa_journal ORDER BY 1")
    ]


async def test_a_step_runs_once_and_later_attempts_get_its_result(
    harness: Harness, registry: Registry, called: Counter[str]
) -> None:
    seen = []

    async def charge(order: int, *, cents: int) -> Paid:
        called["charge"] += 1
        return Paid(order, cents)

    @job(registry=registry, backoff=lambda _: 0)
    async def checkout(order: int) -> None:
        seen.append(await step("charge", charge, order, cents=300))
        fails_first(2)

    [job_id] = await harness.enqueue(checkout.new(7))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert seen == [Paid(7, 300)] * 3
    assert called == {"charge": 1}
    assert done.attempt == 3
    [(name, code, value, attempt)] = await journal(harness)
    assert (name, value, attempt) == ("charge", {"order": 7, "cents": 300}, 1)
    assert code.endswith("charge")


async def test_a_step_in_a_thread_has_the_same_name_and_needs_no_await(
    harness: Harness, registry: Registry, called: Counter[str]
) -> None:
    def charge(order: int) -> Paid:
        called["charge"] += 1
        return Paid(order, 1)

    seen = []

    @job(registry=registry, backoff=lambda _: 0)
    def checkout(order: int) -> None:
        seen.append(step("charge", charge, order))
        fails_first()

    [job_id] = await harness.enqueue(checkout.new(7))
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert (seen, called) == ([Paid(7, 1)] * 2, {"charge": 1})


async def test_a_name_that_is_used_again_counts_on_and_order_does_not_matter(
    harness: Harness, registry: Registry, called: Counter[str]
) -> None:
    seen = []

    async def ship(item: str, delay: float) -> str:
        called[item] += 1
        await asyncio.sleep(delay)
        return f"shipped {item}"

    @job(registry=registry, backoff=lambda _: 0)
    async def work() -> None:
        first = current_job().attempt == 1
        seen.append(
            await asyncio.gather(
                step("ship", ship, "a", 0.05 if first else 0.0), step("ship", ship, "b", 0.0 if first else 0.05)
            )
        )
        fails_first()

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert seen == [["shipped a", "shipped b"]] * 2
    assert called == {"a": 1, "b": 1}
    assert [row[0] for row in await journal(harness)] == ["ship", "ship#2"]


async def test_a_step_that_raises_is_not_journalled_and_attempts_retry_it_in_place(
    harness: Harness, registry: Registry, called: Counter[str]
) -> None:
    async def flaky(fails: int) -> int:
        called["flaky"] += 1
        if called["flaky"] <= fails:
            raise ConnectionError("away")
        return called["flaky"]

    @job(registry=registry, backoff=lambda _: 0)
    async def work() -> None:
        await step("flaky", flaky, 4, attempts=3, backoff=lambda failed: failed / 1000)

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert (called["flaky"], done.attempt) == (5, 2)
    assert [row[2:] for row in await journal(harness)] == [(5, 2)]


async def test_what_is_no_json_is_refused_with_its_path(harness: Harness, registry: Registry) -> None:
    async def lookup() -> dict[str, object]:
        return {"rows": [{"at": object()}]}

    @job(registry=registry, max_attempts=1)
    async def work() -> None:
        await step("lookup", lookup)

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        done = await harness.becomes(job_id, "discarded")
    assert "InvalidArguments: result of step 'lookup'.rows[0].at" in done.errors[0]["error"]
    assert await journal(harness) == []


async def test_another_function_behind_a_name_is_told_and_strict_refuses_it(
    harness: Harness, registry: Registry, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    async def before() -> int:
        return 1

    async def after() -> int:
        return 2

    seen = []

    @job(registry=registry, backoff=lambda _: 0, max_attempts=3)
    async def work() -> None:
        attempt = current_job().attempt
        seen.append(await step("count", before if attempt == 1 else after, strict=attempt == 3))
        raise RuntimeError

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        done = await harness.becomes(job_id, "discarded")
    assert seen == [1, 1]
    assert done.errors[2]["error"].startswith("StepChanged: the journal of job")
    [changed] = of(telemetry.StepChanged)
    assert (changed.step, changed.recorded[-8:], changed.called[-7:]) == ("count", ">.before", ">.after")


async def test_the_journal_is_not_read_in_a_first_attempt_and_once_in_each_later_one(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oban_sa.runner.execution.journals import Journals

    reads = []
    read = Journals.read

    async def counted(self: Journals, attempt: Any) -> Any:
        reads.append(attempt.attempt)
        return await read(self, attempt)

    monkeypatch.setattr(Journals, "read", counted)

    async def one() -> int:
        return 1

    @job(registry=registry, backoff=lambda _: 0)
    async def work() -> None:
        await asyncio.gather(*(step("one", one) for _ in range(5)))
        await step("two", one)
        fails_first()

    @job(registry=registry)
    async def plain() -> None: ...

    [job_id, *_] = await harness.enqueue(work.new(), plain.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert reads == [2]


@pytest.mark.parametrize("how", ["shutdown", "snooze"])
async def test_an_attempt_that_is_given_back_is_remembered_although_the_next_one_has_its_number(
    harness: Harness, registry: Registry, called: Counter[str], how: str
) -> None:
    async def charge() -> int:
        called["charge"] += 1
        return called["charge"]

    @job(registry=registry)
    async def work() -> object:
        await step("charge", charge)
        called["runs"] += 1
        if called["runs"] == 1:
            if how == "snooze":
                return Snooze(0)
            await asyncio.sleep(60)
        return None

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner(grace=0):
        if how == "shutdown":
            await eventually(lambda: called["runs"] == 1)
        else:
            await harness.becomes(job_id, "completed")
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert (done.attempt, called["charge"], called["runs"]) == (1, 1, 2)


async def test_an_attempt_that_lost_its_job_journals_nothing_and_ends(harness: Harness, registry: Registry) -> None:
    ended: list[BaseException | None] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def charge() -> int:
        return 1

    @job(registry=registry)
    async def work(session: AsyncSession) -> None:
        begun.set()
        await go.wait()
        for call in (lambda: step("charge", charge), lambda: step.commit(session, "book", book)):
            try:
                await call()  # type: ignore[no-untyped-call]
            except AttemptLost as error:
                ended.append(error)
        async for _ in step.each("rows", one_row()):
            ended.append(None)

    async def one_row() -> AsyncIterator[int]:
        yield 1

    async def book(session: AsyncSession) -> None:
        await session.execute(text("UPDATE oban_sa_queues SET name = 'booked'"))

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await begun.wait()
        await harness.sql("UPDATE oban_jobs SET state = 'retryable', scheduled_at = now() + interval '1 day'")
        go.set()
        await eventually(lambda: len(ended) == 2)
    assert all(isinstance(error, AttemptLost) for error in ended)
    assert await journal(harness) == []
    assert (await harness.job(job_id)).state == "retryable"


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_committed_step_and_its_writes_are_there_together_and_once(
    harness: Harness, registry: Registry, kind: str
) -> None:
    await harness.sql("CREATE TABLE effects (name text)")
    insert = text("INSERT INTO effects VALUES (:name)")

    async def book(session: AsyncSession, name: str) -> str:
        await session.execute(insert, {"name": name})
        return name.upper()

    def book_sync(session: Session, name: str) -> str:
        session.execute(insert, {"name": name})
        return name.upper()

    got = []

    @job(registry=registry, backoff=lambda _: 0)
    async def on_loop(session: AsyncSession) -> None:
        for number, name in enumerate(("a", "b", "c"), 1):
            got.append(await step.commit(session, name, book, name))
            await session.execute(insert, {"name": "lost"})
            fails_first(number)
            await session.rollback()

    @job(registry=registry, backoff=lambda _: 0)
    def in_thread(session: Session) -> None:
        for number, name in enumerate(("a", "b", "c"), 1):
            got.append(step.commit(session, name, book_sync, name))
            session.execute(insert, {"name": "lost"})
            fails_first(number)
            session.rollback()

    [job_id] = await harness.enqueue((on_loop if kind == "loop" else in_thread).new())
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert [tuple(row) for row in await harness.sql("SELECT name FROM effects ORDER BY 1")] == [("a",), ("b",), ("c",)]
    assert (done.attempt, got) == (4, ["A", "A", "B", "A", "B", "C", "A", "B", "C"])


async def test_a_committed_step_that_raises_rolls_back(harness: Harness, registry: Registry) -> None:
    await harness.sql("CREATE TABLE effects (name text)")

    async def book(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO effects VALUES ('half')"))
        raise ValueError("no")

    @job(registry=registry)
    async def work(session: AsyncSession) -> None:
        with pytest.raises(ValueError, match="no"):
            await step.commit(session, "book", book)

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert await harness.sql("SELECT * FROM effects") == []
    assert await journal(harness) == []


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_items_go_on_after_the_last_one_that_the_code_was_through_with(
    harness: Harness, registry: Registry, kind: str
) -> None:
    seen: list[int] = []

    async def rows(after: object) -> AsyncIterator[int]:
        for number in range(int(str(after)) + 1 if after is not None else 0, 6):
            yield number

    def stop_at(row: int) -> None:
        if (row, current_job().attempt) in ((2, 1), (4, 2)):
            raise RuntimeError
        seen.append(row)

    @job(registry=registry, backoff=lambda _: 0)
    async def on_loop() -> None:
        async for row in step.each("rows", rows(after=step.cursor("rows"))):
            stop_at(row)
        fails_first(3)

    @job(registry=registry, backoff=lambda _: 0)
    def in_thread() -> None:
        after = step.cursor("rows")
        for row in step.each("rows", range(int(str(after)) + 1 if after is not None else 0, 6)):
            stop_at(row)
        fails_first(3)

    [job_id] = await harness.enqueue((on_loop if kind == "loop" else in_thread).new())
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert (seen, done.attempt) == ([0, 1, 2, 3, 4, 5], 4)


async def test_a_job_that_began_with_the_old_code_keeps_to_it(harness: Harness, registry: Registry) -> None:
    seen = []

    async def one() -> int:
        return 1

    @job(registry=registry, backoff=lambda _: 0)
    async def old_then_new() -> None:
        await step("one", one)
        fails_first()
        seen.append(("old", await step.version("v2")))
        fails_first(2)

    @job(registry=registry, backoff=lambda _: 0)
    async def new() -> None:
        seen.append(("new", await step.version("v2")))
        await step("one", one)
        fails_first()

    ids = await harness.enqueue(old_then_new.new(), new.new())
    async with harness.runner():
        for job_id in ids:
            await harness.becomes(job_id, "completed")
    assert sorted(seen) == [("new", True)] * 2 + [("old", False)] * 2


async def test_events_tell_of_steps(
    harness: Harness, registry: Registry, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    async def one() -> int:
        return 1

    @job(registry=registry, backoff=lambda _: 0)
    async def work() -> None:
        await step("one", one)
        fails_first()

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert [(each.step, each.replayed) for each in of(telemetry.StepStart)] == [("one", False), ("one", True)]
    assert [(each.step, each.job_id) for each in of(telemetry.StepStop)] == [("one", job_id)]


async def test_what_a_completed_job_has_not_asked_its_journal_for_is_told(
    harness: Harness, registry: Registry, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    async def one() -> int:
        return 1

    async def rows() -> AsyncIterator[int]:
        yield 1
        yield 2

    @job(registry=registry, backoff=lambda _: 0)
    async def renamed() -> None:
        attempt = current_job().attempt
        await progress(0.5)
        await step("kept", one)
        await step(f"charge {attempt}", one)
        if attempt == 2:
            await asyncio.gather(step("late", one), step("late", one))
        fails_first(2)

    @job(registry=registry, backoff=lambda _: 0)
    async def takes_no_step_any_more() -> None:
        if current_job().attempt == 1:
            await step("gone", one)
        fails_first()

    @job(registry=registry, backoff=lambda _: 0)
    async def goes_on_behind_items() -> None:
        async for row in step.each("rows", rows()):
            await step(f"row {row}", one)
        fails_first()

    @job(registry=registry, backoff=lambda _: 0)
    async def asks_for_all() -> None:
        await step("one", one)
        await step.version("v2")
        step.cursor("rows")
        fails_first()

    @job(registry=registry, max_attempts=2, backoff=lambda _: 0)
    async def fails() -> None:
        await step(f"charge {current_job().attempt}", one)
        raise RuntimeError

    workers = (renamed, takes_no_step_any_more, goes_on_behind_items, asks_for_all, fails)
    ids = await harness.enqueue(*(each.new() for each in workers))
    async with harness.runner():
        for job_id in ids[:-1]:
            await harness.becomes(job_id, "completed")
        await harness.becomes(ids[-1], "discarded")
    told = {each.job_id: each.steps for each in of(telemetry.StepsUnused)}
    assert told == {ids[0]: ("charge 1", "charge 2", "late", "late#2"), ids[1]: ("gone",)}


async def test_a_job_without_steps_has_no_mark_and_no_journal(harness: Harness, registry: Registry) -> None:
    @job(registry=registry, backoff=lambda _: 0)
    async def work() -> None:
        fails_first()

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert done.meta == {}


async def test_steps_refuse_what_can_t_be_meant(harness: Harness, registry: Registry) -> None:
    said: list[str] = []
    called: list[str] = []

    def sync() -> int:
        called.append("sync")
        return 1

    async def asynchronous() -> int:
        return 1

    async def rows() -> AsyncIterator[int]:
        yield 1

    async def all_of(items: Any) -> None:
        async for _ in items:
            pass

    anything: Any = step
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: step("sync", sync), "step 'sync' runs on the loop, which "),
        (lambda: step("sync", lambda: 7), "write step('sync', asyncio.to_thread, "),
        (lambda: anything("value", 7), "step('value', ...) takes a function and its arguments, not 7"),
        (lambda: anything("value", asynchronous()), "write step('value', asynchronous, argument)"),
        (lambda: step("none", asynchronous, attempts=0), "attempts of a step is a number from 1 on"),
        (lambda: anything("none", asynchronous, attempts=2, backoff="soon"), "backoff of a step: 'soon' is not"),
        (lambda: anything("none", asynchronous, backoff=1), "write how many, as attempts=5"),
        (lambda: anything.commit("session", "x", sync), "step.commit takes the session first, and"),
        (lambda: all_of(anything.each("x", rows)), "write step.each('x', "),
        (lambda: all_of(step.each("x", rows(), every="soon")), "every of step.each('x', ...): 'soon' is not"),
        (lambda: all_of(anything.each("x", rows(), cursor=1)), "write cursor=lambda item: item.id"),
        (
            lambda: all_of(step.each("x", rows(), cursor=lambda _: object())),
            "cursor of step.each('x', ...) is an object",
        ),
        (lambda: all_of(anything.each("x", [1])), "make the items an async generator"),
        (lambda: step.cursor(""), "a step has a name of 1 to 300 characters"),
    ]

    @job(registry=registry)
    async def work(session: AsyncSession) -> None:
        for name in ("", ":x", "x#2", "y" * 301, 7):
            with pytest.raises(ValueError, match="name"):
                step(name, asynchronous)  # type: ignore[call-overload]
        for call, _ in refused:
            with pytest.raises(ValueError, match=r"step|backoff|cursor") as error:
                await call()
            said.append(str(error.value))

    @job(registry=registry)
    def in_thread() -> None:
        with pytest.raises(ValueError, match="is async; give it a `def`"):
            step("asynchronous", asynchronous)
        with pytest.raises(ValueError, match=r"make them a generator: def rows\(after\)"):
            step.each("rows", rows())
        with pytest.raises(ValueError, match="goes through items, as of a list or a generator, not None"):
            anything.each("rows", None)

    ids = await harness.enqueue(work.new(), in_thread.new())
    async with harness.runner():
        for job_id in ids:
            await harness.becomes(job_id, "completed")
    for (_, words), found in zip(refused, said, strict=True):
        assert words in found
    assert called == []
    assert await harness.sql("SELECT * FROM oban_sa_journal") == []


async def test_items_that_are_no_cursor_say_that_one_is_to_be_named(harness: Harness, registry: Registry) -> None:
    @dataclass
    class Row:
        id: object

    async def rows() -> AsyncIterator[Row]:
        yield Row(object())

    @job(registry=registry)
    async def work() -> None:
        with pytest.raises(ValueError, match=r"is its item, a Row, which is no JSON; .*cursor=lambda item: item\.id"):
            async for _ in step.each("rows", rows()):
                pass

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")


def test_a_step_outside_of_a_worker_is_refused() -> None:
    with pytest.raises(LookupError, match=r"no job is running here; step\(\) works only below the code of a worker"):
        step("x", int)


async def test_a_step_may_be_taken_in_a_thread_that_the_code_has_started(
    harness: Harness, registry: Registry, called: Counter[str]
) -> None:
    def charge() -> int:
        called["charge"] += 1
        return 7

    seen = []

    @job(registry=registry, backoff=lambda _: 0)
    async def work(session: AsyncSession) -> None:
        seen.append(await asyncio.to_thread(lambda: step("charge", charge)))
        seen.append(await session.run_sync(lambda _: step("again", charge)))
        fails_first()

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert (seen, called) == ([7, 7, 7, 7], {"charge": 2})


async def test_a_job_that_was_rescued_knows_its_cursor_from_the_beginning(
    harness: Harness, registry: Registry, called: Counter[str]
) -> None:
    """Its node wrote no outcome, and so no mark in its meta."""
    seen: list[object] = []

    async def charge() -> int:
        called["charge"] += 1
        return 7

    async def rows(after: object) -> AsyncIterator[int]:
        for number in range(int(str(after)) + 1 if after is not None else 0, 4):
            yield number

    @job(registry=registry)
    async def work() -> None:
        called["runs"] += 1
        async for row in step.each("rows", rows(after=step.cursor("rows"))):
            await step(f"charge {row}", charge)
            if row == 2 and called["runs"] == 1:
                await asyncio.sleep(60)
            seen.append(row)

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner(grace=0):
        await eventually(lambda: len(seen) == 2)
        # As a rescue does it: the attempt stays spent.
        await harness.sql("UPDATE oban_jobs SET state = 'available', attempted_by = '{other,node}'")
        done = await harness.becomes(job_id, "completed")
    assert (called, seen, done.attempt) == ({"charge": 4, "runs": 2}, [0, 1, 2, 3], 2)
