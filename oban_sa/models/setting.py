"""What is assigned to a job's attributes is looked at there, as the constructor looks at what it is given.

A job that is made, loaded or written doesn't pass here: that goes past the instrumentation, and costs nothing.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from oban_sa.models import rules
from oban_sa.models.job import Job


def listen() -> None:
    """Look at what is assigned to every job from now on."""
    for column, rule in rules.RULES.items():
        event.listen(getattr(Job, column), "set", _checked(rule), retval=True, propagate=True)


def _checked(rule: Callable[[Any], Any]) -> Callable[..., Any]:
    def checked(job: Job, value: Any, before: Any, initiator: Any) -> Any:
        return rule(value)

    return checked
