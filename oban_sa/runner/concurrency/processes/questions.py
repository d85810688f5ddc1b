"""What a process asks about its attempt, answered by this runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from oban_sa.describe import exceptions
from oban_sa.runner.concurrency.processes import protocol
from oban_sa.runner.concurrency.processes.protocol import AskJournal, Happened, PlainEntry, Told, Used

if TYPE_CHECKING:
    from oban_sa.steps.journal import Journal


class Journalling(Protocol):
    """An attempt that has a journal."""

    @property
    def journal(self) -> object:
        """What its durable steps are written into: an `oban_sa.steps.journal.Journal`."""
        ...

    @property
    def durable(self) -> object:
        """The same, or None while no code has asked for it."""
        ...


class Questions:
    """Answers what the code of one attempt asks from its process."""

    def __init__(self, attempt: Journalling, send: Callable[[object], None]) -> None:
        """`send` sends a message to the process."""
        self._attempt = attempt
        self._send = send
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def entries(self) -> tuple[PlainEntry, ...] | None:
        """The entries of the journal, where they were read already."""
        journal = cast("Journal | None", self._attempt.durable)
        return None if journal is None or journal.entries is None else tuple(map(tuple, journal.entries))

    def asked(self, message: AskJournal, context: Context) -> None:
        """Answer, as soon as the database does."""
        task = asyncio.get_running_loop().create_task(self._answer(message), context=context, name="oban_sa answer")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def told(self, message: Happened | Used, context: Context) -> None:
        """Take note of what the process tells of the job."""
        journal = cast("Journal", self._attempt.journal)
        if isinstance(message, Used):
            journal.use(message.keys)
        else:
            context.run(partial(journal.emit, message.event, **message.facts))

    def close(self) -> None:
        """Answer no more: the code has ended."""
        for task in self._answering:
            task.cancel()

    async def _answer(self, message: AskJournal) -> None:
        from oban_sa.runner.concurrency.processes import steps  # loaded once code in a process takes a step

        try:
            value = await steps.answered(cast("Journal", self._attempt.journal), message)
        except Exception as error:
            failure = protocol.failed(message.number, error, exceptions.traceback_of(error))
            self._send(Told(message.number, message.asked, None, failure))
        else:
            self._send(Told(message.number, message.asked, value))
