"""All doors for new jobs - flush, COPY, cron and select - refuse the same with the same words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Integer, func, select, text
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from oban_sa import Job, JobState, Oban, enqueue, enqueue_many, hooks, ref, telemetry
from oban_sa.bulk.select import enqueue_select
from oban_sa.errors import InvalidArguments, InvalidJob, NaiveMoment
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.outbox.admission import plain
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance.scheduler import Scheduler
from oban_sa.sql.lease import lease_name
from oban_sa.workers import Registry, job
from oban_sa.workers.crontab import resolved
from tests.places import AppDatabase, User

REGISTRY = Registry()
ROWS = select(func.generate_series(1, 3, type_=Integer).label("n"))


@job(name="admission.send", registry=REGISTRY)
async def send(n: int = 0) -> None: ...


def refused(work: Callable[[], object]) -> tuple[type[Exception], str]:
    with pytest.raises((InvalidJob, TypeError)) as caught:
        work()
    return type(caught.value), str(caught.value)


BAD: dict[str, Callable[[], Any]] = {
    "stored": lambda: Job.from_row({"id": 7, "worker": "w"}),
    "executing": lambda: Job("w", state=JobState.EXECUTING),
    "completed": lambda: Job("w", state=JobState.COMPLETED),
    "no JSON": lambda: Job("w", args={"x": [{1}]}),
    "no JSON in meta": lambda: Job("w", meta={"x": {"y": object()}}),
    "no text": lambda: Job("w", args={"x": "\0"}),
    "no job": lambda: "w",
    "a worker": lambda: send,
    "a session": lambda: Session(),
    "a list": lambda: [Job("w")],
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_flush_and_a_copy_refuse_the_same_jobs_with_the_same_words(engine: AsyncEngine, bad: str) -> None:
    with Session() as session:  # without a database: nothing here may ask for one
        kind, words = refused(lambda: enqueue_many(session, [Job("w"), BAD[bad]()]))
    with pytest.raises(kind) as copied:
        await Oban(engine).enqueue_many([Job("w"), BAD[bad]()])
    # Addresses differ, and a copy numbers what is no job as well.
    said = [re.sub(r"0x\w+|^jobs\[1\]: ", "", each) for each in (words, str(copied.value))]
    assert said[0] == said[1]


async def test_a_copy_refuses_a_job_that_a_session_is_to_write(engine: AsyncEngine) -> None:
    with Session() as session:
        waiting = enqueue(session, Job("w"))
        with pytest.raises(InvalidJob, match="is in a session, which will write it; enqueue a new one made of"):
            await Oban(engine).enqueue_many([waiting])
        session.expunge_all()


def in_an_enqueue(at: datetime) -> None:
    with Session() as session:
        enqueue(session, Job("w", scheduled_at=at))
        session.rollback()


def in_a_select(at: datetime) -> None:
    with Session() as session, suppress(UnboundExecutionError):
        enqueue_select(session, send, ROWS, scheduled_at=at)


def in_a_hook(at: datetime) -> None:
    remove = hooks.after_new(lambda job: setattr(job, "scheduled_at", at))
    try:
        Job("w")
    finally:
        remove()


def test_every_way_to_say_a_naive_schedule_is_warned_of_in_the_same_words() -> None:
    said: list[str] = []
    for write in (in_an_enqueue, in_a_select, in_a_hook):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", NaiveMoment)
            write(datetime(2030, 1, 2, 12))
        (one,) = [str(each.message) for each in told if each.category is NaiveMoment]
        said.append(one)
    assert "has no time zone and is taken as UTC; write datetime.now(UTC)" in said[0]
    assert len(set(said)) == 1


def scheduler(engine: AsyncEngine) -> Scheduler:
    entries = [CronEntry("* * * * * *", "admission.send", name="often")]
    source = telemetry.Source(node="one", name="Oban")
    return Scheduler(Database(engine), resolved(entries, REGISTRY), source=source, registry=REGISTRY)


@pytest.mark.parametrize(
    ("value", "words"),
    [({1}, r"meta\.x is a set"), (ref(User()), r"meta holds ref\(\.\.\.\), .* only a session can write")],
    ids=["a set", "a reference"],
)
async def test_what_a_hook_adds_to_a_job_of_the_crontab_is_refused_in_the_words_of_a_copy(
    engine: AsyncEngine, value: Any, words: str
) -> None:
    async with engine.begin() as connection:
        now = "timezone('UTC', clock_timestamp())"
        await connection.execute(
            text(
                "INSERT INTO oban_leaders (name, node, elected_at, expires_at) "
                f"VALUES ('{lease_name('Oban')}', 'one', {now} - interval '1 hour', {now} + interval '1 hour')"
            )
        )
    ticking = scheduler(engine)
    remove = hooks.before_insert(lambda job: job.meta.update(x=value))
    try:
        with pytest.raises(InvalidArguments, match=words):
            await Oban(engine).enqueue_many([Job("w")])
        with pytest.raises(InvalidArguments, match=words):
            await ticking.tick()  # the entry is stored, and a second may begin between that and the look at it
            async with engine.begin() as connection:
                await connection.execute(
                    text("UPDATE oban_sa_crons SET updated_at = updated_at - interval '9 seconds'")
                )
            await ticking.tick()
    finally:
        remove()
        await ticking.close()


def test_a_select_makes_no_job_that_a_hook_could_see(app_db: AppDatabase) -> None:
    shown: list[Job] = []

    def work(session: Session) -> int:
        made = enqueue_select(session, send, ROWS)
        session.commit()
        return made

    remove = hooks.before_insert(shown.append)
    try:
        assert app_db.run(work) == 3
    finally:
        remove()
    assert shown == []


def test_values_are_copied_and_none_is_an_empty_object() -> None:
    flat, nested = {"a": 1}, {"a": [1]}
    assert plain(None, "args") == {}
    for value in (flat, nested):
        made = plain(value, "args")
        assert made == value
        assert made is not value
    assert plain({"at": datetime(2030, 1, 2, tzinfo=UTC)}, "args") == {"at": "2030-01-02T00:00:00+00:00"}


def test_a_row_of_another_program_whose_args_are_no_object_can_be_changed(app_db: AppDatabase) -> None:
    app_db.execute("INSERT INTO oban_jobs (worker, args) VALUES ('other', '[1]')")

    def work(session: Session) -> None:
        session.scalars(select(Job)).one().queue = "slow"
        session.commit()

    app_db.run(work)

    assert [(stored["args"], stored["queue"]) for stored in app_db.jobs()] == [([1], "slow")]
