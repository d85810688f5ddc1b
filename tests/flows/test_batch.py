"""A batch makes one job for each event, whatever becomes of its members, in the order in which it happens."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Batch, Cancel, Job, Oban, Snooze, Unique, current_job, enqueue, hooks
from oban_sa.errors import InvalidJob
from oban_sa.jobs import encryption
from oban_sa.jobs.flow import EVENTS
from oban_sa.testing import drain
from oban_sa.workers import Registry, job

REGISTRY = Registry()

SEEN: list[tuple[str, str]] = []
FAILING: set[str] = set()


@job(registry=REGISTRY, max_attempts=2, backoff=0)
def work(how: str = "well") -> object:
    if how in FAILING:
        raise ValueError(how)
    return Cancel("no") if how == "cancel" else Snooze(0) if how == "snooze" else None


SECRETS: list[str] = []


@job(registry=REGISTRY, encrypt=True)
def tell_secretly(card: str) -> None:
    SECRETS.append(card)


@job(registry=REGISTRY, queue="callbacks", priority=3, max_attempts=7, tags=["batch"])
def tell(run: int) -> None:
    meta = current_job().meta
    SEEN.append((meta["batch_id"], meta["batch_event"]))
    assert run == 7


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    SEEN.clear()
    FAILING.clear()
    SECRETS.clear()
    yield
    SEEN.clear()
    FAILING.clear()


def batch(*hows: str, **options: Any) -> Batch:
    return Batch([work.new(how) for how in hows], **{event: tell.new(run=7) for event in EVENTS}, **options)


def run(engine: Engine, made: Batch, **options: Any) -> list[str]:
    """Enqueue and drain a batch: the events that were told, in alphabetical order."""
    with Session(engine) as session:
        enqueue(session, made)
        session.commit()
    drain(engine, registry=REGISTRY, with_safety=True, **options)
    return told(made)


def told(made: Batch) -> list[str]:
    assert {each for each, _ in SEEN} <= {str(made.id)}
    return sorted(event for _, event in SEEN)


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_a_batch_all_of_which_is_completed(sync_engine: Engine, count: int) -> None:
    assert run(sync_engine, batch(*["well"] * count)) == ["on_attempt", "on_complete", "on_success"]


def test_one_that_is_cancelled_or_discarded_is_told_once_and_in_the_end_the_batch_is_exhausted(
    sync_engine: Engine,
) -> None:
    FAILING.add("fail")
    made = batch("cancel", "fail", "cancel", "fail", "well")
    expected = ["on_attempt", "on_cancel", "on_complete", "on_discard", "on_exhausted"]
    assert run(sync_engine, made, with_retries=True) == expected


def test_all_have_run_once_before_all_have_ended(sync_engine: Engine) -> None:
    FAILING.add("fail")
    made = batch("well", "fail")
    assert run(sync_engine, made) == ["on_attempt"]
    FAILING.clear()
    drain(sync_engine, registry=REGISTRY, with_retries=True)
    assert told(made) == ["on_attempt", "on_complete", "on_success"]


def test_an_attempt_that_is_put_off_does_not_count(sync_engine: Engine) -> None:
    assert run(sync_engine, batch("snooze", "well")) == []


def test_one_that_ran_twice_counts_once(sync_engine: Engine) -> None:
    FAILING.add("fail")
    assert run(sync_engine, batch("fail", "snooze"), with_retries=True) == ["on_discard"]


async def test_a_batch_that_failed_and_is_retried_is_successful_then(sync_engine: Engine, engine: AsyncEngine) -> None:
    FAILING.add("fail")
    made = batch("fail", "well", name="newsletter")
    assert "on_success" not in await _drained(engine, made)
    oban = Oban(engine)
    status = await oban.workflow(made)
    assert (status.name, status.state, status.total, status.discarded) == ("newsletter", "discarded", 2, 1)
    FAILING.clear()
    assert await oban.retry_workflow(made) == 1
    await drain(engine, registry=REGISTRY)
    assert (await oban.workflow(made.id)).state == "completed"
    assert told(made) == ["on_attempt", "on_complete", "on_discard", "on_exhausted", "on_success"]


async def test_callbacks_run_again_where_that_is_asked_for_and_not_before_all_have_ended_anew(
    sync_engine: Engine, engine: AsyncEngine
) -> None:
    FAILING.add("fail")
    made = batch("fail", "well", "cancel")
    first = ["on_attempt", "on_cancel", "on_complete", "on_discard", "on_exhausted"]
    assert await _drained(engine, made) == first
    SEEN.clear()
    assert await Oban(engine).retry_workflow(made, callbacks=True) == 2
    # Booked, and nothing run.
    await drain(engine, registry=REGISTRY, queue="callbacks")
    assert told(made) == []
    await drain(engine, registry=REGISTRY, with_retries=True, with_safety=True)
    assert told(made) == ["on_cancel", "on_complete", "on_discard", "on_exhausted"]
    SEEN.clear()
    assert await Oban(engine).retry_workflow(made) == 2
    await drain(engine, registry=REGISTRY, with_retries=True, with_safety=True)
    assert told(made) == []


async def test_what_still_holds_is_not_told_again_by_a_retry_of_others(
    sync_engine: Engine, engine: AsyncEngine
) -> None:
    FAILING.update(("fail", "fail too"))
    made = batch("fail", "fail too")
    await _drained(engine, made)
    SEEN.clear()
    FAILING.clear()
    [(name,)] = await _sql(engine, "SELECT name FROM oban_sa_members ORDER BY job_id LIMIT 1")
    assert await Oban(engine).retry_workflow(made, from_=name, callbacks=True) == 1
    await drain(engine, registry=REGISTRY)
    assert told(made) == ["on_complete", "on_exhausted"]
    SEEN.clear()
    assert await Oban(engine).retry_workflow(made, callbacks=True) == 1
    await drain(engine, registry=REGISTRY)
    assert told(made) == ["on_complete", "on_success"]


async def test_a_completed_batch_that_runs_again_is_successful_again(sync_engine: Engine, engine: AsyncEngine) -> None:
    made = batch("well", "well")
    await _drained(engine, made)
    SEEN.clear()
    [(name,)] = await _sql(engine, "SELECT name FROM oban_sa_members ORDER BY job_id LIMIT 1")
    for _ in range(2):
        assert await Oban(engine).retry_workflow(made, from_=name, callbacks=True) == 1
        await drain(engine, registry=REGISTRY)
    assert told(made) == ["on_complete", "on_complete", "on_success", "on_success"]


async def test_more_members_than_are_booked_at_once_tell_of_their_batch_once_more(
    sync_engine: Engine, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("oban_sa.testing.drain"), "LIMIT", 2)
    FAILING.add("fail")
    made = batch(*["fail"] * 7)
    await _drained(engine, made)
    SEEN.clear()
    assert await Oban(engine).retry_workflow(made, callbacks=True) == 7
    await drain(engine, registry=REGISTRY, with_retries=True, with_safety=True)
    assert told(made) == ["on_complete", "on_discard", "on_exhausted"]


async def _sql(engine: AsyncEngine, statement: str) -> list[Any]:
    async with engine.connect() as connection:
        return list(await connection.execute(text(statement)))


async def _drained(engine: AsyncEngine, made: Batch) -> list[str]:
    async with AsyncSession(engine) as session:
        enqueue(session, made)
        await session.commit()
    await drain(engine, registry=REGISTRY, with_retries=True, with_safety=True)
    return told(made)


def test_one_job_that_is_retried_by_hand_makes_it_successful_too(sync_engine: Engine) -> None:
    FAILING.add("fail")
    made = batch("fail")
    run(sync_engine, made, with_retries=True)
    FAILING.clear()
    with sync_engine.begin() as connection:
        connection.execute(text("UPDATE oban_jobs SET state = 'available', max_attempts = 9 WHERE state = 'discarded'"))
    drain(sync_engine, registry=REGISTRY)
    assert told(made).count("on_success") == 1
    assert set(Counter(told(made)).values()) == {1}


async def test_cancelling_a_batch_that_has_not_begun(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    made = batch("well", "well")
    async with sessions.begin() as session:
        enqueue(session, made)
    assert await Oban(engine).cancel_workflow(made) == 2
    await drain(engine, registry=REGISTRY)
    assert told(made) == ["on_attempt", "on_cancel", "on_complete", "on_exhausted"]


def test_callbacks_are_ordinary_jobs_of_their_worker(sync_engine: Engine) -> None:
    made = Batch([], on_complete=tell.options(meta={"mine": 1}, priority=5).new(run=7))
    run(sync_engine, made)
    with sync_engine.connect() as connection:
        [row] = connection.execute(text("SELECT * FROM oban_jobs")).mappings()
    assert (row["worker"], row["queue"], row["priority"], row["max_attempts"]) == (
        f"{__name__}.tell",
        "callbacks",
        5,
        7,
    )
    assert (row["args"], row["tags"], row["state"]) == ({"run": 7}, ["batch"], "completed")
    assert row["meta"] == {"mine": 1, "batch_id": str(made.id), "batch_event": "on_complete"}


def test_members_have_the_meta_of_a_batch(sync_engine: Engine) -> None:
    made = Batch([work.new()], name="letters")
    run(sync_engine, made)
    with sync_engine.connect() as connection:
        [meta] = connection.scalars(text("SELECT meta FROM oban_jobs"))
        [row] = connection.execute(text("SELECT kind, name, total, callbacks FROM oban_sa_flows"))
    assert {"batch": True, "batch_id": str(made.id)}.items() <= meta.items()
    assert "batch_attempt" not in meta
    assert tuple(row) == ("batch", "letters", 1, None)


def test_hooks_see_callbacks_when_the_batch_is_written(sync_engine: Engine) -> None:
    def mark(each: Job) -> None:
        each.meta = {**each.meta, "marked": True}

    remove = hooks.before_insert(mark)
    try:
        run(sync_engine, Batch([work.new()], on_complete=tell.new(run=7)))
    finally:
        remove()
    with sync_engine.connect() as connection:
        metas = list(connection.scalars(text("SELECT meta FROM oban_jobs")))
    assert [meta["marked"] for meta in metas] == [True, True]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Batch(work.new()), r"Batch takes several jobs; for one write Batch\(\[job\]\)"),
        (lambda: Batch(None), "Batch takes a list of jobs, and this is a NoneType"),  # type: ignore[arg-type]
        (lambda: Batch("abc"), "Batch takes a list of jobs, and this is a str: 'abc'"),  # type: ignore[arg-type]
        (lambda: Batch([twice := work.new()], on_complete=twice), "the job of on_complete is also one of the batch"),
        (lambda: Batch([], name=" "), "the name of a batch is a text that is not empty"),
        (lambda: Batch([Job("w", unique=Unique())]), "the job of '0' is unique, and a member can't be"),
        (lambda: Batch([], on_success=Job("w", unique=Unique())), "the job of on_success is unique"),
        (lambda: Batch([], on_success=Job("w", schedule_in=5)), "is available as soon as that happens"),
        (lambda: Batch([], on_success=Job("w", id=5)), "gets its id when it is made"),
        (lambda: Batch([twice := Job("w"), twice]).tree(), "the same Job stands twice in <Batch>"),
    ],
)
def test_a_mistake_is_refused_with_words(build: Any, message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        build()
    with pytest.raises(TypeError, match=r"write enqueue\(session, tell\.new|a Job is enqueued"):
        Batch([], on_success=tell)  # type: ignore[arg-type]


def test_many_batches_of_one_make_a_job_each(sync_engine: Engine) -> None:
    made = [Batch([work.new()], on_success=tell.new(run=7)) for _ in range(300)]
    with Session(sync_engine) as session:
        for each in made:
            enqueue(session, each)
        session.commit()
    drain(sync_engine, registry=REGISTRY)
    assert sorted(SEEN) == sorted((str(each.id), "on_success") for each in made)


@pytest.mark.parametrize("newer", [False, True], ids=["one key", "sealed anew"])
async def test_args_of_an_encrypted_callback_can_not_be_read(
    engine: AsyncEngine, sync_engine: Engine, monkeypatch: pytest.MonkeyPatch, newer: bool
) -> None:
    old, new = (base64.b64encode(bytes([each]) * 32).decode() for each in b"on")
    monkeypatch.setattr(encryption, "_keys", {})
    encryption.use([old])
    made = Batch([work.new()], on_complete=tell_secretly.new("4929-5554"), on_success=tell.new(7))
    with Session(sync_engine) as session:
        enqueue(session, made)
        session.commit()
    everything = (
        "SELECT row_to_json(f)::text FROM oban_sa_flows f UNION ALL SELECT row_to_json(j)::text FROM oban_jobs j"
    )
    assert "4929" not in str(await _sql(engine, everything))
    if newer:
        encryption.use([new])
        assert (await Oban(engine).reseal_jobs()).resealed == 1
        assert (await Oban(engine).reseal_jobs()).resealed == 0
        monkeypatch.setattr(encryption, "_keys", {})
        encryption.use([new])
    await drain(engine, registry=REGISTRY)
    assert SECRETS == ["4929-5554"]
    assert "4929" not in str(await _sql(engine, everything))
