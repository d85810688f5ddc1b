"""Code that another process can import."""

from __future__ import annotations

from oban_sa import Record, job


@job(executor="process", name="tests.runner.execution.elsewhere.answering")
def answering(*, fails: bool = False, records: bool = False) -> str:
    """Answer, or fail, or raise an answer."""
    if records:
        raise Record({"from": "afar"}, limit=1_000)
    if fails:
        raise ZeroDivisionError("division by nothing")
    return "answer"
