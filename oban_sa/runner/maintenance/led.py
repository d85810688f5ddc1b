"""Until when the cluster has had a leader: what tells a late tick of the crontab from a missed one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from oban_sa.jobs.cron_entry import Span

HANDOVER: Final = timedelta(seconds=5)
"""How long the cluster may be without a leader, between two, before ticks count as missed."""

_JUST_BEFORE: Final = timedelta(seconds=1)
"""The same for a leader that has seen none before it, as after a restart of the only node."""

EVER: Final = datetime.min.replace(tzinfo=UTC)
"""Before all moments."""


class Led(NamedTuple):
    """Until when at least the cluster has a leader, and the last time in which it had none."""

    until: datetime
    without: Span

    @classmethod
    def seen(cls, now: datetime, elected_at: datetime, expires_at: datetime, before: Led | None) -> Led:
        """Take a lease into account: ticks that its node, frozen or dead, left undone while it ran were not missed."""
        if before is None:
            return cls(expires_at, Span(EVER, max(elected_at, EVER + _JUST_BEFORE) - _JUST_BEFORE))
        until = max(before.until, expires_at)
        if expires_at <= now or now <= before.until:
            return cls(until, before.without)
        # A node that renewed its lease after it had run out, since no other took it, was still elected long ago.
        began = elected_at if elected_at > before.until else now
        broken = began > before.until + HANDOVER
        return cls(until, Span(before.until, began - _JUST_BEFORE) if broken else before.without)
