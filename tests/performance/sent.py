"""What programs send to the database: every statement, counted where the driver sends it.

What counts is a round trip: `BEGIN` and `COMMIT` are one each, and statements that are sent together are one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa import Runner
from oban_sa.workers import Registry
from tests.support import eventually


class Sent:
    """The statements of an engine's connections, and of those that runners open beside its pool."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def about_jobs(self) -> list[str]:
        return [statement for statement in self.statements if "oban_jobs" in statement]

    @contextmanager
    def watching(self, engine: AsyncEngine) -> Iterator[None]:
        """Count inside of the block, on connections of asyncpg's that are opened there."""

        def connected(connection: Any, _: Any) -> None:
            connection.driver_connection.add_query_logger(lambda logged: self.statements.append(logged.query))

        def executed(_connection: Any, _cursor: Any, statement: str, _: Any, _context: Any, many: bool) -> None:
            # SQLAlchemy prepares its statements, and the driver tells its loggers of those that run many times only.
            if not many:
                self.statements.append(statement)

        event.listen(engine.sync_engine, "connect", connected)
        event.listen(engine.sync_engine, "before_cursor_execute", executed)
        try:
            yield
        finally:
            event.remove(engine.sync_engine, "connect", connected)
            event.remove(engine.sync_engine, "before_cursor_execute", executed)


@dataclass(frozen=True)
class AtRest:
    """What nodes with nothing to do sent in so many seconds."""

    statements: list[str]
    seconds: float

    @property
    def each_second(self) -> float:
        return len(self.statements) / self.seconds

    def about(self, *words: str) -> int:
        """How many statements have all these words in them."""
        return sum(all(word in statement for word in words) for statement in self.statements)

    def __str__(self) -> str:
        counts = Counter(" ".join(statement.split())[:150] for statement in self.statements)
        lines = [f"{count:5}  {statement}" for statement, count in counts.most_common()]
        return "\n".join([f"{self.each_second:.1f} statements a second, in {self.seconds:g} s:", *lines])


async def at_rest(
    database_url: str, *, queues: int = 1, nodes: int = 1, seconds: float = 4.0, settle: float = 1.0, **options: Any
) -> AtRest:
    """Let nodes with so many queues each have nothing to do, and count what they send.

    `options` are those of `Runner`: without them each interval is what users have. Counting begins once a node leads
    and each has looked for jobs, so starting is not among it; it takes `seconds`, in which this process sleeps.
    """
    engine, sent = create_async_engine(database_url), Sent()
    names = {f"queue{number}": 10 for number in range(queues)}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        stack.enter_context(sent.watching(engine))
        for number in range(nodes):
            runner = Runner(engine, queues=names, node=f"node{number}", registry=Registry(), **options)
            await stack.enter_async_context(runner)
        await eventually(lambda: any("oban_leaders" in statement for statement in sent.statements))
        await asyncio.sleep(settle)  # what a start leaves for its first seconds
        sent.statements.clear()
        await asyncio.sleep(seconds)
        counted = list(sent.statements)
    return AtRest(counted, seconds)
