"""One trace in Sentry, from the request that enqueues a job to the code that works on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sentry_sdk
from sqlalchemy import literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Cancel, Job, Oban, Unique, enqueue, enqueue_select, hooks, job
from oban_sa.sentry import ObanIntegration
from tests.runner.conftest import Harness
from tests.sentry import jobs
from tests.sentry.conftest import Kept
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("unchanged_logging")

Sentry = Callable[..., None]


async def enqueued(harness: Harness, *made: Job) -> Any:
    """Enqueue within a transaction of the program, and return that."""
    with sentry_sdk.start_transaction(name="request", op="http.server") as request:
        await harness.enqueue(*made)
    return request


async def test_a_request_its_job_and_a_job_of_that_are_one_trace(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()

    @job(name="second", registry=harness.registry)
    async def second() -> None: ...

    @job(name="first", registry=harness.registry)
    async def first(session: AsyncSession) -> None:
        enqueue(session, second.new())

    await enqueued(harness, first.new())
    await harness.drain()
    request, one, two = kept.transactions
    assert [each["transaction"] for each in (request, one, two)] == ["request", "first", "second"]
    traces = [each["contexts"]["trace"] for each in (request, one, two)]
    assert len({each["trace_id"] for each in traces}) == 1
    for publisher, attempt in ((request, traces[1]), (one, traces[2])):
        [publish] = [span for span in publisher["spans"] if span["op"] == "queue.publish"]
        assert attempt["parent_span_id"] == publish["span_id"]


async def test_transactions_and_spans_say_what_the_page_of_queues_wants(
    harness: Harness, kept: Kept, sentry: Sentry
) -> None:
    sentry()

    @job(name="shop.mail", registry=harness.registry)
    async def mail(to: str) -> None: ...

    made = mail.new("ä")
    await enqueued(harness, made)
    await harness.sql("UPDATE oban_jobs SET scheduled_at = now() - interval '5 s'")
    await harness.drain()
    request, attempt = kept.transactions
    [publish] = request["spans"]
    same = {
        "messaging.system": "oban",
        "messaging.destination.name": "default",
        "messaging.message.body.size": len('{"to":"ä"}'.encode()),
    }
    assert publish["op"] == "queue.publish"
    assert same.items() <= publish["data"].items()
    trace = attempt["contexts"]["trace"]
    assert (trace["op"], trace["status"], trace["origin"]) == ("queue.process", "ok", "auto.queue.oban")
    assert attempt["transaction_info"] == {"source": "task"}
    data = trace["data"]
    assert same.items() <= data.items()
    assert (data["messaging.message.id"], data["messaging.message.retry.count"]) == (str(made.id), 0)
    assert data["messaging.message.receive.latency"] >= 5_000


async def test_every_way_in_takes_the_context_along(harness: Harness, sentry: Sentry) -> None:
    sentry()

    @job(name="mail", registry=harness.registry)
    async def mail(number: int) -> None: ...

    oban = Oban(harness.engine)
    with sentry_sdk.start_transaction(name="request") as request:
        await harness.enqueue(mail.new(1))
        await oban.enqueue(mail.new(2))
        await oban.enqueue_many([mail.new(3)])
        async with harness.sessions.begin() as session:
            await oban.enqueue_many([mail.new(4)], session=session)
            await enqueue_select(session, mail, select(literal(5).label("number")))
            session.add(mail.new(6))
    found = await harness.sql(
        "SELECT (args->>'number')::int, meta->>'sentry-trace', meta->>'baggage' FROM oban_jobs ORDER BY 1"
    )
    assert [number for number, _, _ in found] == [1, 2, 3, 4, 5, 6]
    assert {trace.partition("-")[0] for _, trace, _ in found} == {request.trace_id}
    assert all(f"sentry-trace_id={request.trace_id}" in baggage for _, _, baggage in found)


async def test_without_spans_for_jobs_an_attempt_goes_on_with_the_request(
    harness: Harness, kept: Kept, sentry: Sentry
) -> None:
    sentry(publish_spans=False)

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    request = await enqueued(harness, mail.new())
    await harness.drain()
    assert kept.transactions[0]["spans"] == []
    assert kept.attempt()["contexts"]["trace"]["parent_span_id"] == request.span_id


async def test_outside_of_a_span_nothing_is_written_and_each_attempt_is_a_trace(
    harness: Harness, kept: Kept, sentry: Sentry
) -> None:
    sentry()

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    await harness.enqueue(mail.new(), mail.new())
    async with harness.sessions.begin() as session:
        await enqueue_select(session, mail, select(literal(1).label("one")).with_only_columns())
    assert await harness.sql("SELECT 1 FROM oban_jobs WHERE meta <> '{}'") == []
    await harness.drain()
    traces = [each["contexts"]["trace"]["trace_id"] for each in kept.transactions]
    assert len(set(traces)) == len(traces) >= 2


async def test_without_a_client_that_has_it_nothing_happens(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()  # which attaches it to the process
    sentry_sdk.init(dsn="http://key@localhost/1", transport=kept, traces_sample_rate=1.0, default_integrations=False)

    @job(name="fails", registry=harness.registry, max_attempts=1)
    async def fails() -> None:
        raise LookupError("no such order")

    await enqueued(harness, made := fails.new())
    await harness.drain()
    assert [each["transaction"] for each in kept.transactions] == ["request"]
    assert kept.errors == []
    assert "sentry-trace" not in (await harness.job(made.id)).meta


async def test_once_removed_nothing_of_it_is_left(sentry: Sentry) -> None:
    before = [each.hooks for each in (hooks.BEFORE_INSERT, hooks.IN_STATEMENT, hooks.IN_PROCESS)]
    sentry()
    ObanIntegration.setup_once()
    assert [len(each.hooks) for each in (hooks.BEFORE_INSERT, hooks.IN_STATEMENT, hooks.IN_PROCESS)] == [
        len(each) + 1 for each in before
    ]
    ObanIntegration.remove()
    assert [each.hooks for each in (hooks.BEFORE_INSERT, hooks.IN_STATEMENT, hooks.IN_PROCESS)] == before


async def test_what_the_program_has_chosen_stays(harness: Harness, sentry: Sentry) -> None:
    sentry()
    chosen = {"sentry-trace": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1", "mine": 1}
    await enqueued(harness, Job(worker="mail", meta=chosen))
    assert await harness.sql("SELECT meta FROM oban_jobs") == [(chosen,)]


async def test_baggage_of_others_is_kept(harness: Harness, sentry: Sentry) -> None:
    sentry()
    request = await enqueued(harness, Job(worker="mail", meta={"baggage": "tenant=7"}))
    [(baggage,)] = await harness.sql("SELECT meta->>'baggage' FROM oban_jobs")
    assert baggage.startswith("tenant=7,")
    assert f"sentry-trace_id={request.trace_id}" in baggage


@pytest.mark.parametrize("there", ["nonsense", "", "00-0-0-0", f"{'0af':0<32}-{'b7':0<16}-1"])
async def test_what_others_left_in_meta_is_no_context(harness: Harness, kept: Kept, sentry: Sentry, there: str) -> None:
    sentry()

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    await harness.sql(
        "INSERT INTO oban_jobs (worker, meta) VALUES ('mail', jsonb_build_object('sentry-trace', "
        "CAST(:there AS text), 'baggage', 7))",
        there=there,
    )
    await harness.drain()
    assert kept.attempt()["contexts"]["trace"]["status"] == "ok"


async def test_a_trace_is_no_part_of_a_unique_key(harness: Harness, sentry: Sentry) -> None:
    sentry()

    @job(name="mail", registry=harness.registry, unique=Unique(fields=["worker", "meta"]))
    async def mail() -> None: ...

    for _ in range(2):
        await enqueued(harness, mail.new())
    with sentry_sdk.start_transaction(name="request"):
        async with harness.sessions.begin() as session:
            await enqueue_select(session, mail, select(literal(1).label("one")).with_only_columns())
    assert len(await harness.sql("SELECT 1 FROM oban_jobs")) == 1


async def test_the_verdict_is_the_status(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()

    @job(name="stops", registry=harness.registry)
    async def stops() -> Any:
        return Cancel("over")

    await harness.enqueue(stops.new())
    await harness.drain()
    assert kept.attempt()["contexts"]["trace"]["status"] == "cancelled"


async def test_the_scope_is_of_one_attempt(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()

    @job(name="tags", registry=harness.registry)
    async def tags(name: str) -> None:
        sentry_sdk.set_tag(name, "yes")
        with sentry_sdk.start_span(op="work", name="inside"):
            pass

    await harness.enqueue(tags.new("one"), tags.new("two"))
    await harness.drain()
    seen = [{"one", "two"} & set(each["tags"]) for each in kept.transactions]
    assert sorted(map(sorted, seen)) == [["one"], ["two"]]
    assert [[span["op"] for span in each["spans"]] for each in kept.transactions] == [["work"], ["work"]]


async def test_code_in_a_thread_is_part_of_its_attempt(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()

    @job(name="thread", registry=harness.registry)
    def thread() -> None:
        sentry_sdk.set_tag("from", "thread")

    await harness.enqueue(thread.new())
    await harness.drain()
    assert kept.attempt()["tags"]["from"] == "thread"


async def test_code_in_a_process_goes_on_with_the_trace_of_its_attempt(
    harness: Harness, kept: Kept, sentry: Sentry
) -> None:
    sentry()
    request = await enqueued(harness, made := jobs.current_trace.new())
    written = (await harness.job(made.id)).meta["sentry-trace"]
    from oban_sa.workers import registry

    await harness.drain(registry=registry, imports=["tests.sentry.jobs"], process_pool=1)
    ended = await harness.job(made.id)
    assert ended.state == "completed", ended.errors
    assert ended.recorded() == [request.trace_id, kept.attempt()["contexts"]["trace"]["span_id"]]
    # The row keeps the context in which it was made.
    assert ended.meta["sentry-trace"] == written


async def test_an_outcome_that_came_too_late_is_told(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()

    @job(name="writes", registry=harness.registry)
    async def writes(session: AsyncSession) -> None:
        session.add(Job(worker="other", queue="other"))
        await harness.sql("UPDATE oban_jobs SET attempt = attempt + 1")

    await harness.enqueue(writes.new())
    async with harness.runner():
        await eventually(lambda: kept.transactions)
    assert kept.attempt()["contexts"]["trace"]["status"] == "aborted"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_where_spans_are_streamed_there_are_errors_without_transactions(
    harness: Harness, kept: Kept, sentry: Sentry
) -> None:
    sentry(trace_lifecycle="stream")

    @job(name="fails", registry=harness.registry, max_attempts=1)
    async def fails() -> None:
        raise LookupError("no such order")

    await harness.enqueue(fails.new())
    await harness.drain()
    [error] = kept.errors
    assert error["contexts"]["oban"]["worker"] == "fails"
    assert kept.transactions == []
