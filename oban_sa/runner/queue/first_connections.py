"""The connections that a runner needs before its first fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from oban_sa.catalog.inspection import Found
from oban_sa.runner.cluster.notifier import Notifier
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.database import Database
from oban_sa.runner.queue.queues import Queues


class Taking(Protocol):
    """Takes a step of a start, again and again while the database is away: `start_steps.taken`."""

    async def __call__(self, step: Callable[[], Awaitable[Any]], /) -> Any:
        """Return what the step returns."""


async def connect_all(
    database: Database,
    notifier: Notifier,
    queues: Queues,
    *,
    taken: Taking,
    checked: Callable[[Found], Awaitable[None]],
) -> None:
    """Open the shared connection alone, since a database that is away is met once; then the others side by side.

    They are opened while the database says what it has of our tables, which `checked` accepts. Where it raises, they
    are given up again, and the notifier has said nothing.
    """
    others: list[asyncio.Future[Any]] = []

    def reached() -> None:
        if not others:  # else the tables are looked at once more
            notifier.start()
            others.append(asyncio.ensure_future(taken(queues.connect)))

    try:
        await checked(await taken(partial(database.begin, reached)))
        await asyncio.gather(*others)
    except BaseException:
        await asyncio.gather(notifier.stop(), cancelled(*others))
        raise
