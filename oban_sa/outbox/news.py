"""What runners are to hear of new jobs: of which queues, how many are available, and whether some are due soon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.models.later import Later
from oban_sa.schedule import clock
from oban_sa.wire.messages import News

SOON: Final = timedelta(seconds=0.95)
"""Scheduled jobs that are due within this time are announced like available ones; a runner finds later ones in time by
itself, for it looks every second."""

_AVAILABLE: Final = JobState.AVAILABLE  # Python 3.11 takes longer to find a member than to compare it


def concerns_runners(loaded: Mapping[str, Any]) -> bool:
    """Whether runners are to hear of a job: it is available, or due before they look for due jobs by themselves."""
    state = loaded.get("state", _AVAILABLE)
    if state != JobState.SCHEDULED:
        return state == _AVAILABLE  # type: ignore[no-any-return]
    moment = loaded.get("scheduled_at")
    if isinstance(moment, Later):
        return moment.span <= SOON
    return moment is not None and moment <= clock.now() + SOON


def add_news(queues: dict[str, News], jobs: Iterable[Job]) -> None:
    """Add to `queues` what runners are to hear of new jobs."""
    for loaded in map(vars, jobs):
        add_one(queues, loaded)


def add_one(queues: dict[str, News], loaded: Mapping[str, Any]) -> None:
    """Add to `queues` what runners are to hear of a new job, whose attributes are `loaded`."""
    if not concerns_runners(loaded):
        return
    queue = loaded.get("queue", "default")
    if (news := queues.get(queue)) is None:
        news = queues[queue] = News()
    if loaded.get("state", _AVAILABLE) != _AVAILABLE:
        news.due = True
    elif news.jobs is not None:
        news.jobs += 1
