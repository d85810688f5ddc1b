"""Every action and every refusal, as an event and as a line of the log `oban_sa.web`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

from starlette.exceptions import HTTPException

from oban_sa import telemetry
from oban_sa.describe import printable
from oban_sa.telemetry.sentences import sentence
from oban_sa.web.access import Verb
from oban_sa.web.page import Page

logger = logging.getLogger("oban_sa.web")


def tell(
    page: Page,
    action: str,
    *,
    allowed: bool = True,
    job_ids: Sequence[int] = (),
    query: str | None = None,
    target: str | None = None,
    count: int = 0,
) -> None:
    """Tell what a visitor did, or was refused."""
    oban = page.instance.oban
    client = page.request.client
    event = telemetry.WebAction(
        runner=telemetry.Source(node=socket.gethostname(), name=oban.name, schema=oban.schema),
        user=page.access.user,
        action=action,
        allowed=allowed,
        job_ids=tuple(job_ids),
        query=query,
        target=target,
        count=count,
        address=None if client is None else client.host,
    )
    telemetry.emit(event)
    level = logging.INFO if allowed else logging.WARNING
    logger.log(level, "%s", printable.line(sentence(event)), extra={"event": event})


def refuse(
    page: Page, action: str, *, job_ids: Sequence[int] = (), query: str | None = None, target: str | None = None
) -> HTTPException:
    """Tell of a refusal; return the error to raise."""
    tell(page, action, allowed=False, job_ids=job_ids, query=query, target=target)
    return HTTPException(403, f"You may not {action.replace('_', ' ')} here. Nothing was changed.")


def require(page: Page, verb: Verb, queue: str | None = None, *, target: str | None = None) -> None:
    """Raise where a visitor may not do something in a queue; without one, in any."""
    if not page.access.may(verb, queue):
        raise refuse(page, verb, target=target)
