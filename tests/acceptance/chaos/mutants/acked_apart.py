"""A session commits its writes in a transaction of their own, before the job's completion."""

from __future__ import annotations

from typing import Any

from oban_sa.runner.sessions import attempt_session, commit

PROMISES = ("P4", "P1")
KIND = "mixed"

_write_and_commit = commit.write_and_commit


def _apart(session: Any, *rest: Any, **more: Any) -> bool | None:
    if session.is_active and session.in_transaction():
        session.commit()
        session.begin()
    return _write_and_commit(session, *rest, **more)


commit.write_and_commit = attempt_session.write_and_commit = _apart
