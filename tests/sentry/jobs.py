"""Work for a process, which tells Sentry where it is imported there."""

from __future__ import annotations

import multiprocessing

import sentry_sdk

from oban_sa import Record, job
from oban_sa.sentry import ObanIntegration

if multiprocessing.parent_process() is not None:
    sentry_sdk.init(integrations=[ObanIntegration()], auto_enabling_integrations=False, traces_sample_rate=1.0)


@job(executor="process")
def current_trace() -> Record:
    """The trace that is current in the code, and what it is a part of."""
    span = sentry_sdk.get_current_span()
    assert span is not None
    return Record([span.trace_id, span.parent_span_id])
