"""What `Oban` does with entries of the crontab: pause and resume them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Executable

from oban_sa.client.transactions import Transactions, Work
from oban_sa.errors import InvalidOption, nearest, shown
from oban_sa.outbox.sessions import AnySession
from oban_sa.sql import cron_pauses
from oban_sa.sql.cron_pauses import cron_key, entry_of

MOST_NAMED: Final = 20
"""Names of entries that an error lists."""


@dataclass(frozen=True, slots=True)
class PausedCron:
    """An entry of the crontab that makes no jobs, since `paused_at`, by the database's clock."""

    name: str
    paused_at: datetime


class CronControl:
    """Methods on entries of the crontab of this instance, in a transaction of their own or a `session`'s. Whichever
    node leads obeys from the moment of the commit. Entries are named as in `CronEntry(name=...)`, or as `cron list`
    shows them. Raises `InvalidOption` for an entry that no runner has led with yet.
    """

    name: str
    _transactions: Transactions

    async def pause_cron(self, name: str, *, session: AnySession | None = None) -> None:
        """Make no more jobs of an entry until it is resumed; its ticks of that time are not made up for."""
        await self._set_pause(cron_pauses.pause, name, session)

    async def resume_cron(self, name: str, *, session: AnySession | None = None) -> None:
        """Make jobs of an entry again, from its next tick on."""
        await self._set_pause(cron_pauses.resume, name, session)

    async def check_cron_pauses(self) -> list[PausedCron]:
        """Return the entries of this instance that are paused, by name."""

        def work(work: Work) -> list[PausedCron]:
            rows = work.execute(cron_pauses.listed()).all()
            return [PausedCron(name, row.paused_at) for row in rows if (name := entry_of(row.name, self.name))]

        return await self._transactions.run(work)

    async def _set_pause(self, statement: Callable[[], Executable], name: object, session: AnySession | None) -> None:
        if not isinstance(name, str) or not name.strip():
            raise InvalidOption(f"an entry is named as `cron list` shows it, such as 'nightly', not {shown(name)}")
        key = cron_key(name, self.name)

        def work(work: Work) -> None:
            if work.execute(statement(), {"key": key}).scalar_one():
                return
            rows = work.execute(cron_pauses.names()).scalars()
            raise InvalidOption(_unknown(name, [known for row in rows if (known := entry_of(row, self.name))]))

        await self._transactions.run(work, session)


def _unknown(name: str, known: list[str]) -> str:
    said = f"there is no crontab entry {shown(name)}"
    if not known:
        return f"{said}, nor any other; entries are known once a runner has led with them"
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"{said}; there are {', '.join(known[:MOST_NAMED])}{more}{nearest(name, known)}"
