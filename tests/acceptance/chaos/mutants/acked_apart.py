"""A session commits its writes in a transaction of their own, before the job's completion."""

from __future__ import annotations

from typing import Any

from oban_sa.runner import sessions, settling

PROMISES = ("P4", "P1")
KIND = "mixed"

_conclude = settling.conclude


def _apart(session: Any, job: Any, settled: Any, committing: Any = None) -> None:
    if session.is_active and session.in_transaction():
        session.commit()
        session.begin()
    _conclude(session, job, settled, committing)


settling.conclude = sessions.conclude = _apart
