"""Attempts: each has a scope and a transaction of its own, and its failure may be an error in Sentry."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import sentry_sdk
from sentry_sdk.scope import Scope, use_isolation_scope, use_scope
from sentry_sdk.tracing import Span
from sentry_sdk.utils import event_from_exception

from oban_sa import telemetry
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.sentry import context, names
from oban_sa.sentry.events import about
from oban_sa.sentry.publish import body_size
from oban_sa.workers.middleware import CallNext


class Captures(Protocol):
    """What of an integration is asked here."""

    def captures(self, state: JobState) -> bool:
        """Whether a failure that leads to this state is an error in Sentry."""
        ...


@dataclass(slots=True, eq=False)
class Opened:
    """What an attempt that runs has of its own; closing `stack` ends its transaction."""

    isolation: Scope
    current: Scope
    span: Span
    stack: ExitStack


class Attempts:
    """Follows attempts; `current` gives the integration of the client that listens, or None."""

    def __init__(self, current: Callable[[], Captures | None]) -> None:
        self._current = current
        self._open: dict[int, Opened] = {}
        """Of attempts that run, by the identity of their job, which is the attempt's own."""

    async def around(self, job: Job, call_next: CallNext) -> object:
        """The middleware: what the code says to Sentry belongs to its attempt."""
        if self._current() is None:
            return await call_next(job)
        with sentry_sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()
            scope.add_event_processor(about(job))
            # It ends with the verdict on the answer, of which a middleware does not know.
            stack = ExitStack()
            span = stack.enter_context(_transaction(job, names.PROCESS))
            _describe(span, job)
            self._open[id(job)] = Opened(scope, sentry_sdk.get_current_scope(), span, stack)
            if call_next.definition.executor == "process":
                # What crosses is the job, so its meta takes the context along; the row keeps that of its making.
                vars(job)["meta"] = {**(job.meta or {}), **context.current()}
            return await call_next(job)

    def entered(self, job: Job) -> AbstractContextManager[object]:
        """In a process: a scope for the code, and a transaction below the attempt's, which is the runner's."""
        return nullcontext() if self._current() is None else _inside(job)

    def ended(self, event: telemetry.JobEvent) -> None:
        """Hear of the verdict on an attempt."""
        opened = self._open.pop(id(event.job), None)
        if opened is None:
            if isinstance(event, telemetry.JobException) and self._current() is not None:
                # One of an unknown worker, for example, which no middleware sees.
                with sentry_sdk.isolation_scope() as scope:
                    scope.add_event_processor(about(event.job))
                    self._capture(event)
            return
        with use_isolation_scope(opened.isolation), use_scope(opened.current), opened.stack:
            self._capture(event)
            opened.span.set_status(_status(event))

    def _capture(self, event: telemetry.JobEvent) -> None:
        if not isinstance(event, telemetry.JobException) or event.error is None:
            return
        integration = self._current()
        if integration is None or not integration.captures(event.state):
            return
        said, hint = event_from_exception(
            event.error,
            client_options=sentry_sdk.get_client().options,
            mechanism={"type": names.OBAN, "handled": event.state is not JobState.DISCARDED},
        )
        sentry_sdk.capture_event(said, hint=hint)


def _transaction(job: Job, op: str) -> Span:
    begun = sentry_sdk.continue_trace(
        dict(context.read(job.meta)), op=op, name=job.worker, source="task", origin=names.ORIGIN
    )
    facts = {"id": job.id, "worker": job.worker, "queue": job.queue, "attempt": job.attempt}
    return sentry_sdk.start_transaction(begun, custom_sampling_context={"oban_job": facts})


def _describe(span: Span, job: Job) -> None:
    span.set_data(names.SYSTEM, names.OBAN)
    span.set_data(names.QUEUE, job.queue)
    span.set_data(names.MESSAGE, str(job.id))
    span.set_data(names.RETRIES, max(job.attempt - 1, 0))
    if (size := body_size(job)) is not None:
        span.set_data(names.SIZE, size)
    if job.attempted_at is not None:
        waited = (job.attempted_at - job.scheduled_at).total_seconds()
        span.set_data(names.LATENCY, max(round(waited * 1000), 0))


@contextmanager
def _inside(job: Job) -> Generator[None]:
    with sentry_sdk.isolation_scope() as scope:
        scope.clear_breadcrumbs()
        scope.add_event_processor(about(job))
        with _transaction(job, "function"):
            yield


def _status(event: telemetry.JobEvent) -> str:
    match event:
        case telemetry.JobException():
            return "internal_error"
        case telemetry.JobStale():
            return "aborted"
        case telemetry.JobStop(state=JobState.CANCELLED):
            return "cancelled"
        case _:
            return "ok"
