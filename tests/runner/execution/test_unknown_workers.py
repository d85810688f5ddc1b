"""Jobs of workers that a program does not know are left to programs that do, and spend no attempt."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from oban_sa import Job, Oban, job, telemetry
from oban_sa.jobs.verdicts import Attempt
from oban_sa.runner.execution.unknown_workers import MOST, Named, UnknownWorkers
from oban_sa.workers import Registry
from tests.factories import producer
from tests.runner.conftest import Harness
from tests.support import eventually

HOUR = timedelta(hours=1)
LATE = datetime(2030, 1, 1, tzinfo=UTC)


def queue_of(registry: Registry, *, after: float | None = 3600) -> UnknownWorkers:
    return UnknownWorkers("mail", after=after, registry=registry, allow=(), source=telemetry.Source(node="here"))


def meet(unknown: UnknownWorkers, named: Named, *, at: datetime = LATE, due: datetime = LATE, **meta: Any) -> Any:
    attempt = Attempt(1, 3, 20, meta, ("here", "uuid"), at)
    return unknown.met(named, attempt, scheduled_at=due, error=LookupError("no worker is registered"))


async def test_jobs_of_a_new_worker_wait_for_the_new_program_beside_the_old_one(harness: Harness, of) -> None:
    new = Registry()

    @job(registry=harness.registry, name="shop.old")
    async def old() -> None: ...

    @job(registry=new, name="shop.old")
    async def same() -> None: ...

    @job(registry=new, name="shop.new")
    async def late() -> None: ...

    ids = await harness.enqueue(*(late.new() for _ in range(24)), *(old.new() for _ in range(3)))
    async with harness.runner(node="old", queues={"default": 2}):
        for job_id in ids[24:]:
            await harness.becomes(job_id, "completed")
        waiting = [await harness.job(job_id) for job_id in ids[:24]]
        assert {(each.state, each.attempt, tuple(each.errors)) for each in waiting} == {("available", 0, ())}
        assert [(each.queue, each.worker, each.version) for each in of(telemetry.WorkerUnknown)] == [
            ("default", "shop.new", None)
        ]
        async with harness.runner(node="new", registry=new):
            for job_id in ids[:24]:
                done = await harness.becomes(job_id, "completed")
                assert (done.attempt, done.errors, done.attempted_by[0]) == (1, [], "new")


async def test_jobs_with_args_of_a_later_version_wait_while_earlier_ones_are_done(harness: Harness) -> None:
    @job(registry=harness.registry, name="shop.mail")
    async def mail(to: str) -> None: ...

    later, now = await harness.enqueue(
        Job("shop.mail", args={"to": "ada"}, meta={"args_version": 2}), mail.new(to="bob")
    )
    async with harness.runner() as runner:
        await harness.becomes(now, "completed")

        async def told() -> None:
            (check,) = await Oban(harness.engine).check_queues()
            assert check.unknown == ("shop.mail (args of version 2)",)

        await eventually(told)
        detail = (await runner.checks.ready())["queue default"].detail
        assert detail == "jobs wait for a program that knows shop.mail (args of version 2)"
        assert (await harness.job(later)).attempt == 0
        new = Registry()

        @job(registry=new, name="shop.mail", version=2, upgrade=lambda args, version: args)
        async def newer(to: str) -> None: ...

        async with harness.runner(node="new", registry=new):
            assert (await harness.becomes(later, "completed")).attempt == 1


async def test_a_job_that_no_program_knew_for_that_long_fails_with_words(harness: Harness) -> None:
    typo, fresh = await harness.enqueue(Job("shop.Typo", max_attempts=1), Job("shop.Typo", max_attempts=1))
    await harness.sql(
        "UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '2 hours', meta = CAST(:meta AS jsonb) "
        "WHERE id = :id",
        id=typo,
        meta='{"unknown_since": "2020-01-01T00:00:00+00:00"}',
    )
    async with harness.runner(unknown_after=10):
        failed = await harness.becomes(typo, "discarded")
        assert failed.attempt == 1
        assert failed.errors[0]["error"].splitlines()[0] == (
            "WorkerNotFound: no worker is registered as 'shop.Typo'; none is registered at all: import the modules "
            "that define them (--import myapp.jobs); no program that works on queue default has known it for 10 seconds"
        )
        # Each has its own time: it has not been there for that long.
        assert (await harness.job(fresh)).state == "available"


async def test_another_node_that_may_know_the_worker_keeps_its_jobs_from_failing(harness: Harness) -> None:
    (known,) = await harness.enqueue(Job("shop.Known", max_attempts=1))
    await harness.sql(
        "UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '2 hours', "
        """meta = '{"unknown_since": "2020-01-01T00:00:00+00:00"}'"""
    )
    await harness.add(producer("busy"))
    reviews = 0
    whole = UnknownWorkers.reviewed

    def counted(self: UnknownWorkers, now: datetime, others: str | None) -> None:
        nonlocal reviews
        reviews += 1
        whole(self, now, others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnknownWorkers, "reviewed", counted)
        async with harness.runner(unknown_after=0.4):

            async def several() -> None:
                assert reviews >= 6

            await eventually(several)
            waiting = await harness.job(known)
            assert (waiting.state, waiting.attempt, waiting.errors) == ("available", 0, [])
            await harness.sql("DELETE FROM oban_producers WHERE node = 'busy'")
            await harness.becomes(known, "discarded")


async def test_ten_thousand_unknown_jobs_neither_block_those_behind_them_nor_are_all_taken(
    harness: Harness, of
) -> None:
    ran: list[int] = []

    @job(registry=harness.registry, name="shop.known")
    async def known(job: Job) -> None:
        ran.append(job.id)

    await harness.sql("INSERT INTO oban_jobs (worker, args) SELECT 'shop.Unknown', '{}' FROM generate_series(1, 10000)")
    ids = await harness.enqueue(*(known.new() for _ in range(5)))
    async with harness.runner(queues={"default": 3}):
        for job_id in ids:
            await harness.becomes(job_id, "completed")
    taken = sum(event.count for event in of(telemetry.ProducerFetch))
    assert ran == ids
    assert taken == len(ids) + 3  # one fetch full of them, and no other
    (touched,) = await harness.sql(
        "SELECT count(*) FROM oban_jobs WHERE attempted_at IS NOT NULL AND worker = 'shop.Unknown'"
    )
    assert touched[0] == 3


async def test_what_the_program_knows_by_now_is_done(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    (waiting,) = await harness.enqueue(Job("shop.late"))
    caplog.set_level(logging.INFO, "oban_sa.runner")
    async with harness.runner():

        async def marked() -> None:
            assert "unknown_since" in (await harness.job(waiting)).meta

        await eventually(marked)

        @job(registry=harness.registry, name="shop.late")
        async def late() -> None: ...

        done = await harness.becomes(waiting, "completed")
    assert done.attempt == 1
    assert "queue default: this program knows shop.late by now, and does its jobs" in caplog.messages


async def test_a_runner_until_idle_does_not_wait_for_what_it_does_not_know(harness: Harness) -> None:
    (waiting,) = await harness.enqueue(Job("MyApp.Foo"))
    async with asyncio.timeout(30):
        await harness.drain()
    assert (await harness.job(waiting)).state == "available"


async def test_a_cancelled_job_of_an_unknown_worker_is_not_given_back(harness: Harness) -> None:
    (called_off,) = await harness.enqueue(Job("shop.Unknown"))
    async with harness.runner():

        async def met() -> None:
            assert "unknown_since" in (await harness.job(called_off)).meta

        await eventually(met)
        await Oban(harness.engine).cancel_job(called_off)
    assert (await harness.job(called_off)).state == "cancelled"


def test_giving_back_spends_nothing_and_keeps_the_first_moment() -> None:
    verdict = meet(queue_of(Registry()), Named("a"), unknown_since="2029-12-31T23:30:00+00:00")
    assert (verdict.state, verdict.refund, verdict.error, verdict.delay) == ("available", True, None, None)
    assert verdict.meta == {"unknown_since": "2029-12-31T23:30:00+00:00"}


@pytest.mark.parametrize("mark", [7, None, "yesterday", "9999-12-31T00:00:00+00:00", ["2020"]])
def test_a_mark_that_is_none_of_ours_is_replaced(mark: Any) -> None:
    assert meet(queue_of(Registry()), Named("a"), unknown_since=mark).meta == {"unknown_since": LATE.isoformat()}


def test_a_worker_is_overdue_once_no_other_program_can_have_known_it_for_that_long() -> None:
    unknown = queue_of(Registry())
    meet(unknown, Named("a"))
    theirs = '[[{"worker": "a", "version": null}], [{"worker": "a"}, {"worker": "b"}]]'
    for moment, others, overdue in [
        (LATE + HOUR / 2, theirs, []),
        (LATE + HOUR, theirs, ["a"]),
        (LATE + HOUR, None, ["a"]),
        (LATE + 2 * HOUR, '[[], [{"worker": "a"}]]', []),
        (LATE + 2.5 * HOUR, theirs, []),
        (LATE + 3 * HOUR, theirs, ["a"]),
        (LATE + 4 * HOUR, '["strange", {"worker": "a"}, [7], [{"version": 2}]]', []),
    ]:
        unknown.reviewed(moment, others)
        condition = unknown.condition()
        assert condition is not None and condition["overdue"] == overdue
    assert isinstance(meet(unknown, Named("a"), at=LATE + 9 * HOUR), tuple)
    unknown.reviewed(LATE + 9 * HOUR, None)
    assert not isinstance(meet(unknown, Named("a"), at=LATE + 9 * HOUR, due=LATE + 8.5 * HOUR), Exception)
    assert isinstance(meet(unknown, Named("a"), at=LATE + 9 * HOUR, due=LATE + 8 * HOUR), Exception)


def test_without_a_time_limit_nothing_ever_fails() -> None:
    unknown = queue_of(Registry(), after=None)
    meet(unknown, Named("a"))
    unknown.reviewed(LATE + 100_000 * HOUR, None)
    assert meet(unknown, Named("a"), at=LATE + 100_000 * HOUR).state == "available"


def test_beyond_a_hundred_workers_jobs_are_put_off_and_still_end() -> None:
    unknown = queue_of(Registry())
    for number in range(MOST):
        meet(unknown, Named(f"w{number}"))
    verdict = meet(unknown, Named("another"))
    assert (verdict.state, verdict.refund, 60 <= verdict.delay <= 90) == ("scheduled", True, True)
    assert len(unknown.listed()) == MOST
    old = {"unknown_since": (LATE - HOUR).isoformat()}
    assert isinstance(meet(unknown, Named("another"), due=LATE - HOUR, **old), Exception)
    assert meet(unknown, Named("another"), due=LATE, **old).state == "scheduled"
