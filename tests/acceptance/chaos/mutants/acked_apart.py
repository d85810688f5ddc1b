"""A session commits its writes in a transaction of their own, before the job's completion."""

from __future__ import annotations

from typing import Any

from oban_sa.runner import sessions, settling

PROMISES = ("P4", "P1")
KIND = "mixed"

_conclude = settling.conclude


def _apart(session: Any, *rest: Any, **more: Any) -> None:
    if session.is_active and session.in_transaction():
        session.commit()
        session.begin()
    _conclude(session, *rest, **more)


settling.conclude = sessions.conclude = _apart
