"""One trace, from the request that enqueues a job to the code that works on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Integer, case, column, literal, select, values
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Cancel, Job, Oban, Snooze, enqueue, enqueue_select, job
from oban_sa.errors import InvalidArguments, InvalidOption
from oban_sa.otel import ObanInstrumentor
from oban_sa.runner.execution.attempt import Interrupted
from tests.otel import jobs
from tests.otel.conftest import Traced
from tests.runner.conftest import Harness
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("unchanged_logging")

Instrument = Callable[..., None]


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def parent(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


async def enqueued(harness: Harness, traced: Traced, *made: Job) -> ReadableSpan:
    """Enqueue within a span of the program, and return that."""
    with traced.tracer.start_as_current_span("request"):
        await harness.enqueue(*made)
    return traced.span("request")


async def test_a_request_its_job_and_a_job_of_that_are_one_trace(
    harness: Harness, traced: Traced, instrument: Instrument
) -> None:
    instrument()

    @job(name="second", registry=harness.registry)
    async def second() -> None:
        with traced.tracer.start_as_current_span("inside"):
            pass

    @job(name="first", registry=harness.registry)
    async def first(session: AsyncSession) -> None:
        enqueue(session, second.new())

    request = await enqueued(harness, traced, first.new())
    await harness.drain()
    # The second may end first: its job is there as soon as the first has committed, and before that is told of.
    spans = {(span.attributes or {})["oban.job.worker"]: span for span in traced.spans("process default")}
    one, two = spans["first"], spans["second"]
    inside = traced.span("inside")
    assert {trace_id(each) for each in (request, one, two, inside)} == {trace_id(request)}
    assert [parent(one), parent(two), parent(inside)] == [span_id(request), span_id(one), span_id(two)]


async def test_a_span_says_what_the_conventions_want(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    instrument()

    @job(name="shop.mail", registry=harness.registry, max_attempts=3)
    async def mail() -> None: ...

    made = mail.new()
    await enqueued(harness, traced, made)
    await harness.drain()
    span = traced.span("process default")
    assert span.kind is SpanKind.CONSUMER
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "messaging.system": "oban",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": str(made.id),
        "oban.job.worker": "shop.mail",
        "oban.job.attempt": 1,
        "oban.job.max_attempts": 3,
        "oban.job.state": "completed",
    }


async def test_a_failed_attempt_has_its_error(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    instrument()

    @job(name="fails", registry=harness.registry, max_attempts=1)
    async def fails() -> None:
        raise LookupError("no such order")

    await enqueued(harness, traced, fails.new())
    await harness.drain()
    span = traced.span("process default")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "LookupError: no such order"
    attributes = dict(span.attributes or {})
    assert (attributes["error.type"], attributes["oban.job.state"]) == ("LookupError", "discarded")
    [event] = span.events
    assert event.name == "exception"
    assert "no such order" in str((event.attributes or {})["exception.message"])


@pytest.mark.parametrize(("answer", "state"), [(Snooze(60), "scheduled"), (Cancel("over"), "cancelled")])
async def test_the_verdict_is_told(
    harness: Harness, traced: Traced, instrument: Instrument, answer: Any, state: str
) -> None:
    instrument()

    @job(name="answers", registry=harness.registry)
    async def answers() -> Any:
        return answer

    await enqueued(harness, traced, answers.new())
    await harness.drain()
    assert (traced.span("process default").attributes or {})["oban.job.state"] == state


async def test_a_commit_that_fails_is_part_of_the_span(
    harness: Harness, traced: Traced, instrument: Instrument
) -> None:
    instrument()

    @job(name="writes", registry=harness.registry, max_attempts=1)
    async def writes(session: AsyncSession) -> None:
        session.add(Job(worker="other", priority=-1))

    await enqueued(harness, traced, writes.new())
    await harness.drain()
    assert traced.span("process default").status.status_code is StatusCode.ERROR


async def test_every_way_in_takes_the_context_along(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    instrument()

    @job(name="mail", registry=harness.registry)
    async def mail(number: int) -> None: ...

    oban = Oban(harness.engine)
    with traced.tracer.start_as_current_span("request"):
        await harness.enqueue(mail.new(1))
        await oban.enqueue(mail.new(2))
        await oban.enqueue_many([mail.new(3)])
        async with harness.sessions.begin() as session:
            await oban.enqueue_many([mail.new(4)], session=session)
            await enqueue_select(session, mail, select(literal(5).label("number")))
            session.add(mail.new(6))
    request = traced.span("request")
    found = await harness.sql("SELECT (args->>'number')::int, meta->>'traceparent' FROM oban_jobs ORDER BY 1")
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 6]
    contexts = {traceparent.rpartition("-")[0] for _, traceparent in found}
    assert contexts == {f"00-{trace_id(request)}-{span_id(request)}"}


async def test_without_a_span_nothing_is_written(harness: Harness, instrument: Instrument) -> None:
    instrument()

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    await harness.enqueue(mail.new())
    async with harness.sessions.begin() as session:
        await enqueue_select(session, mail, select(literal(1).label("one")).with_only_columns())
    assert await harness.sql("SELECT 1 FROM oban_jobs WHERE meta <> '{}'") == []


async def test_what_the_program_has_chosen_stays(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    instrument()
    chosen = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await enqueued(harness, traced, Job(worker="mail", meta={"traceparent": chosen, "mine": 1}))
    [(meta,)] = await harness.sql("SELECT meta FROM oban_jobs")
    assert meta == {"traceparent": chosen, "mine": 1}


async def test_each_job_that_is_written_has_a_span_where_that_is_wanted(
    harness: Harness, traced: Traced, instrument: Instrument
) -> None:
    instrument(create_spans="each")

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    request = await enqueued(harness, traced, mail.new())
    await harness.drain()
    create, process = traced.span("create default"), traced.span("process default")
    assert create.kind is SpanKind.PRODUCER
    assert [parent(create), parent(process)] == [span_id(request), span_id(create)]


@pytest.mark.parametrize("way", ["flush", "mapper", "enqueue", "copy", "session"])
async def test_a_job_that_is_written_alone_has_a_span_that_says_which(
    harness: Harness, traced: Traced, instrument: Instrument, way: str
) -> None:
    instrument(create_spans=True)

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    oban = Oban(harness.engine)
    with traced.tracer.start_as_current_span("request"):
        match way:
            case "flush":
                await harness.enqueue(mail.new())
            case "mapper":
                await harness.enqueue(Job(id=7, worker="mail"))
            case "enqueue":
                await oban.enqueue(mail.new())
            case "copy":
                await oban.enqueue_many([mail.new()])
            case _:
                async with harness.sessions.begin() as session:
                    await oban.enqueue_many([mail.new()], session=session)
    await harness.drain()
    request, send, process = (traced.span(name) for name in ("request", "send default", "process default"))
    assert send.kind is SpanKind.PRODUCER
    assert [parent(send), parent(process)] == [span_id(request), span_id(send)]
    attributes = dict(send.attributes or {})
    [(identity,)] = await harness.sql("SELECT id FROM oban_jobs")
    # A COPY tells no ids, and the others have none before the span ends but by the statement's answer.
    known = {"messaging.message.id": str(identity)} if way in ("flush", "mapper", "enqueue") else {}
    assert attributes == {
        "messaging.system": "oban",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
        "oban.job.worker": "mail",
        **known,
    }


@pytest.mark.parametrize("way", ["flush", "copy", "session"])
async def test_jobs_that_are_written_together_have_one_span_for_each_queue(
    harness: Harness, traced: Traced, instrument: Instrument, way: str
) -> None:
    instrument(create_spans=True)

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    oban = Oban(harness.engine)
    made = [mail.new() for _ in range(5)] + [mail.options(queue="slow").new() for _ in range(300)]
    with traced.tracer.start_as_current_span("request"):
        match way:
            case "flush":
                await harness.enqueue(*made)
            case "copy":
                await oban.enqueue_many(made)
            case _:
                async with harness.sessions.begin() as session:
                    await oban.enqueue_many(made, session=session)
    request = traced.span("request")
    for queue, count in (("default", 5), ("slow", 300)):
        send = traced.span(f"send {queue}")
        assert parent(send) == span_id(request)
        assert (send.attributes or {})["messaging.batch.message_count"] == count
        found = await harness.sql(
            "SELECT meta->>'traceparent', count(*) FROM oban_jobs WHERE queue = :queue GROUP BY 1", queue=queue
        )
        [(traceparent, number)] = found
        assert (traceparent.split("-")[1:3], number) == ([trace_id(request), span_id(send)], count)


@pytest.mark.parametrize("queue", ["default", None])
@pytest.mark.parametrize("driven", ["async", "sync"])
async def test_a_statement_has_one_span_for_all_its_jobs(
    harness: Harness,
    traced: Traced,
    instrument: Instrument,
    sync_sessions: sessionmaker[Session],
    queue: str | None,
    driven: str,
) -> None:
    instrument(create_spans=True)

    @job(name="mail", registry=harness.registry)
    async def mail(number: int) -> None: ...

    rows = values(column("number", Integer), name="rows").data([(1,), (2,), (3,)])
    by_row = {} if queue else {"queue": case((rows.c.number == 1, "default"), else_="slow")}
    with traced.tracer.start_as_current_span("request"):
        if driven == "sync":
            with sync_sessions.begin() as sync_session:
                assert enqueue_select(sync_session, mail, select(rows.c.number), **by_row) == 3
        else:
            async with harness.sessions.begin() as session:
                assert await enqueue_select(session, mail, select(rows.c.number), **by_row) == 3
    await harness.drain(queues={"default": 1, "slow": 1})
    request, send = traced.span("request"), traced.span("send default" if queue else "send")
    assert (parent(send), send.kind) == (span_id(request), SpanKind.PRODUCER)
    assert dict(send.attributes or {}) == {
        "messaging.system": "oban",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        **({"messaging.destination.name": queue} if queue else {}),
        "messaging.batch.message_count": 3,
        "oban.job.worker": "mail",
    }
    attempts = [span for span in traced.spans() if span.name.startswith("process ")]
    assert [parent(each) for each in attempts] == [span_id(send)] * 3
    assert {span.name for span in attempts} == ({"process default"} if queue else {"process default", "process slow"})


async def test_a_statement_counts_what_it_made(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    from oban_sa import Unique

    instrument(create_spans=True)

    @job(name="mail", registry=harness.registry, unique=Unique(fields=("worker", "args")))
    async def mail(number: int) -> None: ...

    @job(name="plain", registry=harness.registry)
    async def plain(number: int) -> None: ...

    rows = values(column("number", Integer), name="rows").data([(1,), (1,), (2,)])
    async with harness.sessions.begin() as session:
        await enqueue_select(session, mail, select(rows.c.number))
        await enqueue_select(session, plain, select(rows.c.number).where(rows.c.number > 5))
    counts = [(span.attributes or {})["messaging.batch.message_count"] for span in traced.spans("send default")]
    assert counts == [2, 0]


@pytest.mark.parametrize("when", ["made", "run"])
async def test_a_statement_that_fails_has_its_error(
    harness: Harness, traced: Traced, instrument: Instrument, when: str
) -> None:
    instrument(create_spans=True)

    @job(name="mail", registry=harness.registry)
    async def mail(number: int) -> None: ...

    async with harness.sessions() as session:
        if when == "made":
            with pytest.raises(InvalidArguments):
                await enqueue_select(session, mail, select(literal(1).label("other")))
        else:
            with pytest.raises(DBAPIError):
                await enqueue_select(session, mail, select((literal(1) / literal(0)).label("number")))
    failed = traced.span("send default")
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == ("InvalidArguments" if when == "made" else "DBAPIError")


@pytest.mark.parametrize("creating", [False, "each"])
async def test_a_statement_has_no_span_where_that_is_not_wanted(
    harness: Harness, traced: Traced, instrument: Instrument, creating: Any
) -> None:
    instrument(create_spans=creating)

    @job(name="mail", registry=harness.registry)
    async def mail(number: int) -> None: ...

    with traced.tracer.start_as_current_span("request"):
        async with harness.sessions.begin() as session:
            await enqueue_select(session, mail, select(literal(5).label("number")))
    request = traced.span("request")
    assert traced.spans() == [request]
    [(traceparent,)] = await harness.sql("SELECT meta->>'traceparent' FROM oban_jobs")
    assert traceparent.split("-")[1:3] == [trace_id(request), span_id(request)]


@pytest.mark.parametrize(("creating", "name"), [(False, None), (True, "send default"), ("each", "create default")])
async def test_jobs_of_the_crontab_begin_a_trace_of_their_own(
    harness: Harness, traced: Traced, instrument: Instrument, creating: Any, name: str | None
) -> None:
    instrument(create_spans=creating)

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    async with harness.runner(crontab=[("@reboot", "mail")]):

        async def worked() -> None:
            assert len(traced.spans("process default")) == 1

        await eventually(worked)
    process = traced.span("process default")
    if name is None:
        assert parent(process) is None
        assert traced.spans() == [process]
    else:
        made = traced.span(name)
        assert (made.kind, parent(made), parent(process)) == (SpanKind.PRODUCER, None, span_id(made))
        assert (made.attributes or {})["oban.job.worker"] == "mail"


async def test_a_batch_is_of_those_that_were_inserted(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    from oban_sa import Unique

    instrument(create_spans=True)

    @job(name="mail", registry=harness.registry, unique=Unique(fields=("worker", "args")))
    async def mail(number: int) -> None: ...

    await enqueued(harness, traced, mail.new(1), mail.new(1), mail.new(2))
    assert (traced.span("send default").attributes or {})["messaging.batch.message_count"] == 2


async def test_jobs_that_can_not_be_written_have_their_error(
    harness: Harness, traced: Traced, instrument: Instrument
) -> None:
    instrument(create_spans=True)

    def broken() -> Iterator[Job]:
        yield Job(worker="mail")
        raise LookupError("no more")

    with pytest.raises(LookupError):
        await Oban(harness.engine).enqueue_many(broken())
    failed = traced.span("send default")
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "LookupError"
    # What is written after it is no part of it.
    await harness.enqueue(Job(worker="mail"))
    assert len(traced.spans("send default")) == 2


async def test_a_session_that_flushes_while_jobs_are_streamed_sends_its_own(
    harness: Harness, traced: Traced, instrument: Instrument, sync_sessions: sessionmaker[Session]
) -> None:
    instrument(create_spans=True)

    def streamed() -> Iterator[Job]:
        yield Job(worker="mail")
        with sync_sessions.begin() as session:
            session.add_all([Job(worker="other") for _ in range(3)])
        yield Job(worker="mail")

    await Oban(harness.engine).enqueue_many(streamed())
    counts = [(span.attributes or {})["messaging.batch.message_count"] for span in traced.spans("send default")]
    assert counts == [3, 2]


async def test_without_jobs_there_is_no_span(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    instrument(create_spans=True)
    await Oban(harness.engine).enqueue_many([])
    assert traced.spans() == []


@pytest.mark.parametrize(
    ("links", "hours", "goes_on"),
    [("late", 0, True), ("late", 2, False), ("always", 0, False), ("never", 2, True)],
)
async def test_a_late_attempt_begins_a_trace_with_a_link(
    harness: Harness, traced: Traced, instrument: Instrument, links: str, hours: int, goes_on: bool
) -> None:
    instrument(links=links)

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    request = await enqueued(harness, traced, mail.new())
    await harness.sql("UPDATE oban_jobs SET inserted_at = inserted_at - :hours * interval '1 hour'", hours=hours)
    await harness.drain()
    span = traced.span("process default")
    if goes_on:
        assert (parent(span), span.links) == (span_id(request), ())
    else:
        assert parent(span) is None
        assert trace_id(span) != trace_id(request)
        [link] = span.links
        assert f"{link.context.span_id:016x}" == span_id(request)


@pytest.mark.parametrize("there", ["nonsense", "", "00-0-0-0", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_what_others_left_in_meta_is_no_context(
    harness: Harness, traced: Traced, instrument: Instrument, there: str
) -> None:
    instrument()

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    await harness.sql(
        "INSERT INTO oban_jobs (worker, meta) VALUES ('mail', jsonb_build_object('traceparent', "
        "CAST(:there AS text), 'tracestate', 7))",
        there=there,
    )
    await harness.drain()
    assert parent(traced.span("process default")) is None


async def test_code_in_a_process_goes_on_with_the_span_of_its_attempt(
    harness: Harness, traced: Traced, instrument: Instrument
) -> None:
    instrument()
    made = jobs.current_trace.new()
    request = await enqueued(harness, traced, made)
    from oban_sa.workers import registry

    await harness.drain(registry=registry, imports=["tests.otel.jobs"], process_pool=1)
    span = traced.span("process default")
    ended = await harness.job(made.id)
    assert ended.state == "completed", ended.errors
    assert ended.recorded() == [trace_id(request), span_id(span)]
    # The row keeps the context in which it was made.
    assert ended.meta["traceparent"].split("-")[2] == span_id(request)


async def test_a_trace_is_no_part_of_a_unique_key(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    from oban_sa import Unique

    instrument()

    @job(name="mail", registry=harness.registry, unique=Unique(fields=("worker", "meta")))
    async def mail() -> None: ...

    await enqueued(harness, traced, mail.new())
    with traced.tracer.start_as_current_span("another"):
        again = mail.new()
        await harness.enqueue(again)
        async with harness.sessions.begin() as session:
            made = await enqueue_select(session, mail, select(literal(1).label("one")).with_only_columns())
    assert again.conflict is not None
    assert (made, made.conflicts) == (0, 1)


async def test_switched_off_it_leaves_nothing_behind(harness: Harness, traced: Traced, instrument: Instrument) -> None:
    instrument()
    ObanInstrumentor().uninstrument()

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    await enqueued(harness, traced, mail.new())
    await harness.drain()
    assert [span.name for span in traced.spans()] == ["request"]
    assert await harness.sql("SELECT 1 FROM oban_jobs WHERE meta <> '{}'") == []


@pytest.mark.parametrize("interrupted", [False, True], ids=["found at its commit", "told while it ran"])
async def test_an_attempt_that_lost_its_job_is_an_error(
    harness: Harness, traced: Traced, instrument: Instrument, interrupted: bool
) -> None:
    instrument()
    lost = asyncio.Event()

    @job(name="writes", registry=harness.registry)
    async def writes(session: AsyncSession) -> None:
        await session.execute(select(literal(1)))
        await harness.sql(
            "UPDATE oban_jobs SET attempted_by = '{another}', attempted_at = attempted_at + interval '1 s'"
        )
        lost.set()
        if interrupted:
            await asyncio.Event().wait()

    made = writes.new()
    await enqueued(harness, traced, made)
    async with harness.runner() as runner:
        await lost.wait()
        if interrupted:
            [producer] = runner._queues.all
            producer.interrupt(Interrupted.LOST)
        await eventually(lambda: traced.spans("process default"))
    span = traced.span("process default")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["oban.job.state"] == "stale"


def test_an_unknown_option_is_refused_with_those_there_are(traced: Traced) -> None:
    with pytest.raises(InvalidOption, match="links: 'sometimes' is not one of late, always, never"):
        ObanInstrumentor().instrument(tracer_provider=traced.tracers, links="sometimes")
    with pytest.raises(InvalidOption, match="create_spans: 'some' is not one of False, True, 'each'"):
        ObanInstrumentor().instrument(tracer_provider=traced.tracers, create_spans="some")
    with pytest.raises(InvalidOption, match=r"there is no option 'link'; did you mean 'links'\?"):
        ObanInstrumentor().instrument(tracer_provider=traced.tracers, link="never")
    ObanInstrumentor().instrument(tracer_provider=traced.tracers, of_the_launcher=True)
    ObanInstrumentor().uninstrument()


def test_it_is_found_by_the_command_that_instruments_programs() -> None:
    from importlib.metadata import entry_points

    [found] = [each for each in entry_points(group="opentelemetry_instrumentor") if each.name == "oban_sa"]
    assert found.load() is ObanInstrumentor
