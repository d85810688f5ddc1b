"""A job that a shutdown gives back has spent its attempt."""

from __future__ import annotations

from oban_sa.jobs import verdicts
from oban_sa.jobs.values import JSONDict
from oban_sa.jobs.verdicts import Attempt, Verdict
from oban_sa.runner.execution import executor
from oban_sa.runner.queue import attempts

PROMISES = ("P6",)
KIND = "mixed"

_given_back = verdicts.given_back


def _counted(attempt: Attempt, meta: JSONDict | None = None) -> Verdict:
    return _given_back(attempt, meta)._replace(refund=False)


verdicts.given_back = attempts.given_back = executor.given_back = _counted
