"""A span for the jobs of a queue that are written together by one flush or COPY, and for those of one statement."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from oban_sa import hooks
from oban_sa.describe import exceptions
from oban_sa.models import Job
from oban_sa.otel import context, names


class Sends:
    """Makes a span `send <queue>` for each queue that gets jobs, whose context all of these jobs carry."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def together(self) -> AbstractContextManager[None]:
        """Return a block in which all jobs that are added are those of one sending; a hook of `around_insert`."""
        return self._together()

    @contextmanager
    def _together(self) -> Generator[None]:
        sending = _Sending(self._tracer)
        token = _sending.set(sending)
        try:
            yield
        except BaseException as error:
            sending.end(error)
            raise
        else:
            sending.end()
        finally:
            _sending.reset(token)

    def add(self, job: Job) -> None:
        """Give a job the context of its span; a hook of `before_insert`."""
        sending = _sending.get()
        if sending is not None:
            sending.add(job)
        else:  # the mapper inserts it alone
            alone = _Sending(self._tracer)
            alone.add(job)
            alone.end()

    def statement(self, statement: hooks.Statement) -> AbstractContextManager[Mapping[str, Any]]:
        """Return a block in which a statement makes jobs, with the context that they carry.

        A hook of `around_statement`: one span, since its jobs have one meta, also where each chooses its queue.
        """
        return self._statement(statement)

    @contextmanager
    def _statement(self, statement: hooks.Statement) -> Generator[Mapping[str, Any]]:
        span = _begun(self._tracer, statement.queue)
        span.set_attribute(names.WORKER, statement.worker)
        failed: BaseException | None = None
        try:
            yield context.of(span)
        except BaseException as error:
            failed = error
            raise
        finally:
            span.set_attribute(names.BATCH, 0 if failed else sum(statement.made.values()))
            _end(span, failed)


class _Sending:
    """What is being sent, by queues."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._queues: dict[str, _Queue] = {}

    def add(self, job: Job) -> None:
        if (queue := self._queues.get(job.queue)) is None:
            queue = self._queues[job.queue] = _Queue(self._tracer, job)
        queue.add(job)

    def end(self, error: BaseException | None = None) -> None:
        for queue in self._queues.values():
            queue.end(error)


class _Queue:
    """The span of one queue, and how many jobs it is of."""

    def __init__(self, tracer: Tracer, first: Job) -> None:
        self._span: Span = _begun(tracer, first.queue)
        self._context = context.of(self._span)
        self._first = first
        self._count = 0
        self._unique: list[Job] = []  # which may meet another that stands in their way

    def add(self, job: Job) -> None:
        context.add(job, self._context)
        self._count += 1
        if "_unique" in vars(job):
            self._unique.append(job)

    def end(self, error: BaseException | None) -> None:
        span, count = self._span, self._count - sum(job.conflict is not None for job in self._unique)
        if self._count != 1:
            span.set_attribute(names.BATCH, count)
        else:
            span.set_attribute(names.WORKER, self._first.worker)
            if (identity := vars(self._first).get("id")) is not None:
                span.set_attribute(names.MESSAGE, str(identity))
        _end(span, error)


def _begun(tracer: Tracer, queue: str | None) -> Span:
    attributes = {names.SYSTEM: names.OBAN, names.OPERATION: "send", names.OPERATION_TYPE: "send"}
    if queue is None:
        return tracer.start_span("send", kind=SpanKind.PRODUCER, attributes=attributes)
    return tracer.start_span(f"send {queue}", kind=SpanKind.PRODUCER, attributes={**attributes, names.QUEUE: queue})


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute(names.ERROR, exceptions.kind(error))
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, exceptions.describe(error)))
    span.end()


_sending: Final[ContextVar[_Sending | None]] = ContextVar("oban_sending", default=None)
