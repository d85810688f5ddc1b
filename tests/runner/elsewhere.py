"""Code that another process can import."""

from __future__ import annotations

from oban_sa import job


@job(executor="process", name="tests.runner.elsewhere.answering")
def answering(*, fails: bool = False) -> str:
    """Answer, or fail."""
    if fails:
        raise ZeroDivisionError("division by nothing")
    return "answer"
