"""Jobs that are written: a span for each, and the context of the trace in their meta."""

from __future__ import annotations

from typing import Protocol

import sentry_sdk

from oban_sa.jobs import values
from oban_sa.models import Job
from oban_sa.sentry import context, names


class Options(Protocol):
    """What of an integration's options is asked here."""

    publish_spans: bool


def publish(job: Job, options: Options | None) -> None:
    """Let a job that is written within a span know its trace; nothing happens outside of one, or without `options`."""
    if options is None or sentry_sdk.get_current_span() is None:
        return
    if not options.publish_spans:
        context.add(job, context.current())
        return
    with sentry_sdk.start_span(op=names.PUBLISH, name=job.worker, origin=names.ORIGIN) as span:
        span.set_data(names.SYSTEM, names.OBAN)
        span.set_data(names.QUEUE, job.queue)
        if (size := body_size(job)) is not None:
            span.set_data(names.SIZE, size)
        context.add(job, context.current())


def body_size(job: Job) -> int | None:
    """Return the bytes of a job's args as JSON; None where they are no JSON yet."""
    try:
        return len(values.dumps(job.args or {}).encode())
    except TypeError:
        return None
