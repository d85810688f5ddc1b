"""Metrics: what was done in the last hour, day, week or month, how long it took, and what waited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from oban_sa.client.counts import SHARES
from oban_sa.client.metrics import SPANS, Moment, read_metrics, span_of
from oban_sa.web.page import Page

SHOWN: Final = 100
"""Workers that are listed, those with the most failures first."""

CLASSES: Final = 5
"""Classes of errors that are listed of each."""

_LONGEST: Final = 200


async def metrics(page: Page) -> Response:
    """Show the sums that runners have written, by time and by worker."""
    params = page.request.query_params
    span = span_of(params.get("span", "") or "1h")
    queue, worker = _name(params.get("queue", "")), _name(params.get("worker", ""))
    queues = page.access.queues
    if queue:
        queues = frozenset({queue}) if page.access.sees(queue) else frozenset[str]()
    found = await read_metrics(page.instance.reader, span, queues=queues, worker=worker or None)
    known = found.queues if not queue else sorted({*found.queues, queue} if page.access.sees(queue) else found.queues)
    return page.render(
        "metrics.html",
        title="Metrics",
        now=found.now,
        found=found,
        spans=list(SPANS),
        shares=[f"p{round(share * 100)}" for share in SHARES],
        moments=_from_the_first(found.moments),
        workers=list(found.workers.items())[:SHOWN],
        more=max(0, len(found.workers) - SHOWN),
        most_classes=CLASSES,
        queue=queue,
        worker=worker,
        queues=known,
    )


def _from_the_first(moments: Sequence[Moment]) -> list[Moment]:
    """Return the moments from the first on of which something is known, the last one first."""
    known = [at for at, each in enumerate(moments) if each.sums.total or each.backlog is not None]
    return list(reversed(moments[known[0] :])) if known else []


def _name(given: str) -> str:
    if len(given) > _LONGEST or not given.isprintable():
        raise HTTPException(400, f"That is no name of a queue or a worker: {given[:40]!r}")
    return given.strip()
