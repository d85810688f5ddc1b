"""What may be asked of one job may be asked of each job of a chunk: deadlines, secrets, results of others."""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import (
    Chunk,
    ChunkResult,
    Job,
    Record,
    Snooze,
    Workflow,
    deps,
    enqueue,
    progress,
    sleep,
    step,
    telemetry,
    wait_for,
)
from oban_sa.errors import DependencyNotLoaded, InvalidOption
from oban_sa.jobs import encryption
from oban_sa.testing import drain, perform_job
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness

ONE_SLOT = {"default": 1}

CARDS = ["4929-5554-3321", "4000-0566-5566", "5105-1051-0510"]


@pytest.fixture
def calls() -> list[list[Any]]:
    return []


@pytest.fixture(params=["runner", "drain"])
def run(request: pytest.FixtureRequest, harness: Harness, registry: Registry) -> Any:
    """Run all jobs, in one slot."""

    async def drained() -> None:
        await drain(harness.engine, registry=registry, with_safety=True)

    async def ran() -> None:
        await harness.drain(queues=ONE_SLOT)

    return ran if request.param == "runner" else drained


# Deadlines


@pytest.mark.parametrize("first", [True, False])
async def test_a_job_that_came_too_late_is_cancelled_and_the_others_of_its_chunk_run(
    harness: Harness, registry: Registry, calls: list[list[Any]], run: Any, first: bool, of: Any
) -> None:
    @job(registry=registry, chunk=Chunk(10, within=0.1), deadline="1 hour")
    async def index(jobs: list[Job]) -> None:
        calls.append([each.args["n"] for each in jobs])

    late = index.options(priority=0 if first else 5).new(n=0)
    made = await harness.enqueue(late, *[index.options(priority=1).new(n=number) for number in (1, 2)])
    await harness.sql(
        "UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '61 minutes' WHERE id = :id", id=made[0]
    )
    await run()
    assert calls == [[1, 2]]
    assert await harness.states() == {"cancelled": 1, "completed": 2}
    [error] = (await harness.job(made[0])).errors
    assert "its deadline passed at " in error["error"]
    assert {each.job_id: each.state for each in of(telemetry.JobStop)} == {
        made[0]: "cancelled",
        made[1]: "completed",
        made[2]: "completed",
    }


async def test_a_deadline_stays_where_it_is_when_a_chunk_runs_again(
    harness: Harness, registry: Registry, run: Any
) -> None:
    @job(registry=registry, chunk=Chunk(10, within=0.1), deadline="1 hour", backoff=60)
    async def index(jobs: list[Job]) -> Any:
        return ChunkResult(retry={jobs[0]: "later"}) if jobs[0].args["n"] else Snooze(60)

    first = await harness.enqueue(*[index.new(n=1) for _ in range(2)])
    await run()
    others = await harness.enqueue(*[index.new(n=0) for _ in range(2)])
    await run()
    metas = [(await harness.job(number)).meta for number in (*first, *others)]
    assert ["deadline_at" in meta for meta in metas] == [True, False, True, True]


# Secrets


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_keys", {})
    monkeypatch.setenv("OBAN_KEYS", base64.b64encode(secrets.token_bytes(32)).decode())


@pytest.mark.usefixtures("key")
async def test_the_code_of_a_chunk_reads_encrypted_args(
    harness: Harness, registry: Registry, calls: list[list[Any]], run: Any
) -> None:
    @job(registry=registry, chunk=Chunk(10, within=0.1, by="meta.tenant"), encrypt=True)
    async def charge(jobs: list[Job], session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))
        calls.append([each.args for each in jobs])

    await harness.enqueue(*[charge.options(meta={"tenant": 1}).new(card=card) for card in CARDS])
    assert all(list(args) == ["data"] for (args,) in await harness.sql("SELECT args FROM oban_jobs"))
    await run()
    assert calls == [[{"card": card} for card in CARDS]]
    assert all(list(args) == ["data"] for (args,) in await harness.sql("SELECT args FROM oban_jobs"))


@pytest.mark.usefixtures("key")
async def test_a_job_that_no_key_reads_fails_by_itself(
    harness: Harness, registry: Registry, calls: list[list[Any]], run: Any
) -> None:
    @job(registry=registry, chunk=Chunk(10, within=0.1), encrypt=True, backoff=60)
    async def charge(jobs: list[Job]) -> None:
        calls.append([each.args["card"] for each in jobs])

    made = await harness.enqueue(*[charge.new(card=card) for card in CARDS])
    unread = """UPDATE oban_jobs SET args = '{"data": "00000000:AAAA"}' WHERE id = :id"""
    await harness.sql(unread, id=made[1])
    await run()
    assert calls == [[CARDS[0], CARDS[2]]]
    [error] = (await harness.job(made[1])).errors
    assert error["error"].startswith("KeyMissing")
    assert await harness.states() == {"retryable": 1, "completed": 2}


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("option", [{"encrypt": True}, {"redact": ["card"]}])
@pytest.mark.parametrize("how", ["raise", "retry", "discard"])
async def test_no_error_of_a_chunk_shows_what_another_job_hides(
    harness: Harness, registry: Registry, run: Any, option: dict[str, Any], how: str, of: Any
) -> None:
    @job(registry=registry, chunk=Chunk(10, within=0.1), backoff=60, **option)
    async def charge(jobs: list[Job]) -> ChunkResult:
        said = f"refused {' and '.join(each.args['card'] for each in jobs)}"
        if how == "raise":
            raise ValueError(said)
        if how == "retry":
            return ChunkResult(retry={each: said if each.id % 2 else ValueError(said) for each in jobs})
        return ChunkResult(discard={each: ValueError(said) for each in jobs})

    made = await harness.enqueue(*[charge.new(card=card) for card in CARDS])
    await run()
    assert await harness.states() == {"discarded" if how == "discard" else "retryable": 3}
    for number in made:
        [error] = (await harness.job(number)).errors
        assert "refused [redacted] and [redacted] and [redacted]" in error["error"]
        assert not any(card in str(error) for card in CARDS)
    assert {str(each.error) for each in of(telemetry.JobException)} == {
        "refused [redacted] and [redacted] and [redacted]"
    }


@pytest.mark.usefixtures("key")
async def test_what_can_not_be_taken_out_of_an_error_is_taken_out_of_what_is_kept_of_it(
    harness: Harness, registry: Registry, run: Any
) -> None:
    @job(registry=registry, chunk=Chunk(10, within=0.1), encrypt=True, backoff=60)
    async def charge(jobs: list[Job]) -> None:
        raise ValueError([each.args["card"] for each in jobs])

    made = await harness.enqueue(*[charge.new(card=card) for card in CARDS])
    await run()
    for number in made:
        [error] = (await harness.job(number)).errors
        assert "ValueError: ['[redacted]', '[redacted]', '[redacted]']" in error["error"]
        assert not any(card in str(error) for card in CARDS)


# Workflows


async def test_each_job_of_a_chunk_has_the_results_that_it_takes_as_arguments(
    harness: Harness, registry: Registry, calls: list[list[Any]], run: Any
) -> None:
    @job(registry=registry)
    async def page(number: int) -> Record[int]:
        return Record(number * 10)

    @job(registry=registry, chunk=Chunk(10, within=0.1))
    async def index(jobs: list[Job]) -> ChunkResult:
        calls.append(sorted((each.args["n"], each.args["page"]) for each in jobs))
        return ChunkResult(record={each: each.args["page"] + 1 for each in jobs})

    @job(registry=registry)
    async def last(one: int, two: int) -> Record[list[int]]:
        return Record([one, two])

    flow = Workflow()
    indexed = []
    for number in (1, 2):
        made = flow.call(f"page {number}", page, number)
        indexed.append(flow.call(f"index {number}", index, n=number, page=made.result))
    ended = flow.call("last", last, indexed[0].result, indexed[1].result)
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    await run()
    # A drain runs one member after another, as each is released.
    assert sorted(pair for each in calls for pair in each) == [(1, 10), (2, 20)]
    assert (await harness.job(ended.job.id)).recorded() == [11, 21]


async def test_a_member_whose_argument_was_never_recorded_fails_by_itself(
    harness: Harness, registry: Registry, calls: list[list[Any]]
) -> None:
    @job(registry=registry)
    async def page(number: int) -> Any:
        return Record(number) if number != 2 else None

    @job(registry=registry, chunk=Chunk(3, within=20), backoff=60)
    async def index(jobs: list[Job]) -> None:
        calls.append(sorted(each.args["page"] for each in jobs))

    flow = Workflow()
    for number in (1, 2, 3):
        flow.call(f"index {number}", index, page=flow.call(f"page {number}", page, number).result)
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    await harness.drain(queues={"default": 2})
    assert calls == [[1, 3]]
    assert await harness.states() == {"completed": 5, "retryable": 1}


# What is of one job


async def _step() -> None:
    await step("charge", asyncio.sleep, 0)


async def _sleep() -> None:
    await sleep("a while", 1)


async def _wait_for() -> None:
    await wait_for("paid")


async def _progress() -> None:
    await progress(0.4, "rows")


async def _deps() -> None:
    deps()


@pytest.mark.parametrize("asked", [_step, _sleep, _wait_for, _progress, _deps])
async def test_what_is_of_one_job_is_refused_with_words(
    harness: Harness, registry: Registry, run: Any, asked: Any
) -> None:
    @job(registry=registry, chunk=Chunk(3, within=0.1), backoff=60)
    async def index(jobs: list[Job]) -> None:
        await asked()

    await harness.enqueue(*[index.new(n=number) for number in range(3)])
    await run()
    assert await harness.states() == {"retryable": 3}
    said = {
        error["error"].splitlines()[0]
        for (errors,) in await harness.sql("SELECT errors FROM oban_jobs")
        for error in errors
    }
    assert len(said) == 1
    assert " is of one job, and a chunk is one call for many; " in said.pop()
    assert await harness.sql("SELECT 1 FROM oban_sa_journal") == []
    with pytest.raises((InvalidOption, DependencyNotLoaded), match="a chunk is one call for many"):
        await perform_job(index, {"n": 1}, registry=registry)


async def test_a_job_that_slept_before_its_worker_took_chunks_runs_and_waits_for_nothing_any_more(
    harness: Harness, registry: Registry, run: Any
) -> None:
    @job(registry=registry, name="index", chunk=Chunk(3, within=0.1))
    async def index(jobs: list[Job]) -> None: ...

    waited = {"journal": True, "wait_until": "2026-01-01T00:00:00Z", "waits_for": "paid"}
    made = await harness.enqueue(*[index.options(meta=waited).new() for _ in range(2)])
    await run()
    for number in made:
        found = await harness.job(number)
        assert (found.state, found.meta.get("waits_for"), found.meta.get("wait_until")) == ("completed", None, None)


async def test_in_a_thread_it_is_refused_too(harness: Harness, registry: Registry, run: Any) -> None:
    @job(registry=registry, chunk=Chunk(3, within=0.1), backoff=60)
    def index(jobs: list[Job]) -> None:
        step("charge", len, jobs)

    await harness.enqueue(*[index.new(n=number) for number in range(2)])
    await run()
    for (errors,) in await harness.sql("SELECT errors FROM oban_jobs"):
        assert "a chunk is one call for many" in errors[0]["error"]
