"""What the dashboard tells: each action of a visitor, and each that was refused."""

from __future__ import annotations

from typing import ClassVar

from oban_sa.telemetry.events import Event, event


@event
class WebAction(Event):
    """A visitor of the dashboard did something, or was refused (`allowed` is False, and nothing was changed).

    `action` is a word such as "retry" or "pause". What it was done to are `job_ids`, all jobs of a `query`, or the
    `target`, such as a queue; `count` is how many were changed. `runner.node` is the host of the dashboard, and
    `address` the visitor's.
    """

    name: ClassVar[str] = "oban.web.action"
    user: str | None
    action: str
    allowed: bool
    job_ids: tuple[int, ...] = ()
    query: str | None = None
    target: str | None = None
    count: int = 0
    address: str | None = None
