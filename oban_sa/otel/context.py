"""The context of a trace in the meta of a job, by the names that other members of the family use as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from oban_sa.jobs.values import TRACE_KEYS
from oban_sa.models import Job

TRACEPARENT: Final = TRACE_KEYS[0]


def current() -> dict[str, str]:
    """Return the context of the span that is current here, as meta holds it; empty where there is none."""
    if not trace.get_current_span().get_span_context().is_valid:
        return {}
    return _written()


def of(span: Span) -> dict[str, str]:
    """Return the context of a span, as meta holds it."""
    return _written(trace.set_span_in_context(span))


def read(meta: Mapping[str, Any]) -> Context | None:
    """Return the context that a job's meta holds, or None: other programs may have anything there."""
    carrier = {name: value for name in TRACE_KEYS if isinstance(value := meta.get(name), str)}
    if TRACEPARENT not in carrier:
        return None
    context = propagate.extract(carrier, Context())
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def add(job: Job, found: dict[str, str]) -> None:
    """Write a context into the meta of a job, where the program has not chosen one."""
    meta: Any = job.meta
    if not meta:
        job.meta = {**found}
    elif TRACEPARENT not in meta:
        job.meta = {**meta, **found}


def _written(context: Context | None = None) -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return {name: value for name, value in carrier.items() if name in TRACE_KEYS}
