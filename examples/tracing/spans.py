"""Spans that are logged, and carried through jobs as W3C's `traceparent` in their meta."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from oban_sa import Job, hooks
from oban_sa.workers.middleware import CallNext

logger = logging.getLogger("examples.tracing")

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass
class Span:
    """A piece of work; those of one trace have its id in common."""

    name: str
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    parent_id: str | None = None
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def traceparent(self) -> str:
        """What another process needs to know to go on."""
        return f"00-{self.trace_id}-{self.span_id}-01"


_current: ContextVar[Span | None] = ContextVar("examples.tracing.span", default=None)


@contextmanager
def span(name: str, *, traceparent: object = None, **facts: Any) -> Iterator[Span]:
    """Log how long the block took and how it ended, as a part of the span around it or of the one in `traceparent`."""
    outer = _current.get()
    found = TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if found:
        here = Span(name, trace_id=found[1], parent_id=found[2])
    elif outer is not None:
        here = Span(name, trace_id=outer.trace_id, parent_id=outer.span_id)
    else:
        here = Span(name)
    token, started, outcome = _current.set(here), time.perf_counter(), "ok"
    try:
        yield here
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        _current.reset(token)
        logger.info(
            "span %s trace=%s span=%s parent=%s outcome=%s seconds=%.3f",
            name,
            here.trace_id,
            here.span_id,
            here.parent_id or "-",
            outcome,
            time.perf_counter() - started,
            extra={"trace_id": here.trace_id, "span_id": here.span_id, **facts},
        )


async def trace(job: Job, call_next: CallNext) -> Any:
    """Put each attempt into a span; what its code enqueues belongs to the same trace."""
    name = job.worker.rpartition(".")[2]
    with span(name, traceparent=job.meta.get("traceparent"), queue=job.queue, executor=call_next.definition.executor):
        return await call_next(job)


def carry(job: Job) -> None:
    """Write the current span into a job that is about to be written; one that has a trace already keeps it."""
    here = _current.get()
    if here is not None:
        job.meta.setdefault("traceparent", here.traceparent)


def install() -> Callable[[], None]:
    """Carry traces in all jobs of this process from now on; returns the way to stop it."""
    return hooks.before_insert(carry)
