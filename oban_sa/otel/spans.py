"""Spans: one for each attempt, and for jobs that are written where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from oban_sa import hooks, telemetry
from oban_sa.describe import exceptions
from oban_sa.models import Job
from oban_sa.otel import context, names
from oban_sa.otel.sends import Sends
from oban_sa.workers import middleware
from oban_sa.workers.middleware import CallNext

Links: TypeAlias = Literal["late", "always", "never"]
"""Which attempts begin a trace of their own, with a link to the one in which their job was made."""

Creating: TypeAlias = Literal[False, True, "each"]
"""Which spans are made where jobs are written: none, one for those that are written together, or one for each."""

LATE: Final = timedelta(hours=1)
"""From when on an attempt counts as late: a trace that goes on after that long is of no use."""


class Spans:
    """Makes spans from its making until it is closed."""

    def __init__(self, tracer: Tracer, *, creating: Creating, links: Links) -> None:
        self._tracer = tracer
        sends = Sends(tracer)
        self._links = links
        self._open: dict[int, Span] = {}
        """Of attempts that run, by the identity of their job, which is the attempt's own."""
        self._detach: Sequence[Callable[[], None]] = (
            hooks.before_insert(self._create if creating == "each" else sends.add if creating else _inject),
            hooks.around_insert(sends.together) if creating is True else _nothing,
            hooks.around_statement(sends.statement) if creating is True else hooks.in_statement(context.current),
            hooks.in_process(_entered),
            middleware.attach(self._around),
            telemetry.attach(self._ended, telemetry.JobStop, telemetry.JobException, telemetry.JobStale),
        )

    def close(self) -> None:
        """Make no more."""
        for detach in self._detach:
            detach()

    def _create(self, job: Job) -> None:
        """Let a job that is written have a span of its own, below the current one."""
        attributes = {
            names.SYSTEM: names.OBAN,
            names.OPERATION: "create",
            names.OPERATION_TYPE: "create",
            names.QUEUE: job.queue,
            names.WORKER: job.worker,
        }
        span = self._tracer.start_span(f"create {job.queue}", kind=SpanKind.PRODUCER, attributes=attributes)
        context.add(job, context.of(span))
        span.end()

    async def _around(self, job: Job, call_next: CallNext) -> object:
        parent, links = self._origin(job)
        attributes: dict[str, str | int] = {
            names.SYSTEM: names.OBAN,
            names.OPERATION: "process",
            names.OPERATION_TYPE: "process",
            names.QUEUE: job.queue,
            names.MESSAGE: str(job.id),
            names.WORKER: job.worker,
            names.ATTEMPT: job.attempt,
            names.MAX_ATTEMPTS: job.max_attempts,
        }
        span = self._tracer.start_span(
            f"process {job.queue}", context=parent, kind=SpanKind.CONSUMER, attributes=attributes, links=links
        )
        self._open[id(job)] = span
        if call_next.definition.executor == "process":
            # What crosses is the job, so its meta takes the context along; the row keeps that of its making.
            vars(job)["meta"] = {**(job.meta or {}), **context.of(span)}
        # It ends with the verdict on the answer, of which a middleware does not know.
        with trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            return await call_next(job)

    def _origin(self, job: Job) -> tuple[Context, Sequence[Link]]:
        """Return the context in which a job's attempt begins, and the links that it has."""
        made = context.read(job.meta or {})
        if made is None:
            return Context(), ()
        if self._links == "never" or (self._links == "late" and not _is_late(job)):
            return made, ()
        return Context(), (Link(trace.get_current_span(made).get_span_context()),)

    def _ended(self, event: telemetry.JobEvent) -> None:
        span = self._open.pop(id(event.job), None)
        if span is None:
            return
        match event:
            case telemetry.JobException():
                span.set_attribute(names.STATE, event.state.value)
                if event.error is not None:
                    span.set_attribute(names.ERROR, exceptions.kind(event.error))
                    span.record_exception(event.error)
                    span.set_status(Status(StatusCode.ERROR, exceptions.describe(event.error)))
                else:
                    span.set_status(Status(StatusCode.ERROR))
            case telemetry.JobStale():
                span.set_attribute(names.STATE, "stale")
                span.set_status(Status(StatusCode.ERROR, "the attempt had lost its job, and nothing was written"))
            case telemetry.JobStop():
                span.set_attribute(names.STATE, event.state.value)
            case _:
                pass
        span.end()


def _is_late(job: Job) -> bool:
    begun: Any = job.attempted_at
    made: Any = job.inserted_at
    return begun is not None and made is not None and begun - made >= LATE


def _nothing() -> None: ...


def _inject(job: Job) -> None:
    """Let a job that is written know the current span."""
    if found := context.current():
        context.add(job, found)


def _entered(job: Job) -> AbstractContextManager[object]:
    """In a process: go on with the span of the attempt, which is the runner's."""
    parent = context.read(job.meta or {})
    if parent is None:
        return nullcontext()
    return trace.use_span(trace.get_current_span(parent), end_on_exit=False)
