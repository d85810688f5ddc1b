"""The context of a trace in the meta of a job: the headers that Sentry's SDK sends elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sentry_sdk

from oban_sa.models import Job

TRACE: Final = "sentry-trace"
BAGGAGE: Final = "baggage"


def current() -> dict[str, str]:
    """Return the context of the span that is current here, as meta holds it; empty where there is none.

    Without a span there is only the trace of the whole process, in which everything would be one.
    """
    if sentry_sdk.get_current_span() is None:
        return {}
    return dict(sentry_sdk.get_current_scope().iter_trace_propagation_headers())


def read(meta: Mapping[str, object] | None) -> dict[str, str]:
    """Return the headers that a job's meta holds, whatever else other programs may have there."""
    return {name: value for name in (TRACE, BAGGAGE) if isinstance(value := (meta or {}).get(name), str)}


def add(job: Job, found: Mapping[str, str]) -> None:
    """Let the meta of a job have this context, unless the program has chosen one."""
    meta: dict[str, object] = job.meta or {}
    if TRACE in meta or TRACE not in found:
        return
    added = {**meta, **found}
    if isinstance(others := meta.get(BAGGAGE), str) and BAGGAGE in found:  # such as that of OpenTelemetry
        added[BAGGAGE] = f"{others},{found[BAGGAGE]}"
    job.meta = added
