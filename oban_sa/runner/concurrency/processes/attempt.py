"""The attempt that runs in a process, and what it has asked the runner."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING

from oban_sa.errors import AttemptLost, InvalidOption
from oban_sa.models import Job
from oban_sa.runner.concurrency.processes.protocol import Ask, AskJournal, Happened, Question, Told, Used
from oban_sa.telemetry import JobEvent

if TYPE_CHECKING:
    from oban_sa.runner.concurrency.processes.steps import ChannelJournal


class ProcessAttempt:
    """An attempt in its process; see `oban_sa.workers.current.Attempting`.

    What is asked is answered by another thread. No lock is held meanwhile, and none is needed: the code that asks may
    be interrupted anywhere.
    """

    is_of_many = False
    """No chunk runs in a process."""

    def __init__(self, ask: Ask, job: Job, send: Callable[[object], None]) -> None:
        self._number = ask.number
        self._entries = ask.entries
        self._job = job
        self._send = send
        self._pid = os.getpid()
        self._count = itertools.count(1)
        self._waiting: dict[int, Future[object]] = {}
        self._ended = False

    @cached_property
    def journal(self) -> ChannelJournal:
        """What its durable steps are written into."""
        from oban_sa.runner.concurrency.processes.steps import ChannelJournal

        return ChannelJournal(self, self._job, self._entries)

    def ask(self, what: Question, *values: object) -> Future[object]:
        """Ask the journal of the attempt; raises `AttemptLost` where the attempt has ended, as in a thread left behind.

        The answer is what the runner says, or the error that it met.
        """
        if os.getpid() != self._pid:
            raise InvalidOption(
                "this process was forked by the code of a job, and does not reach the job's journal; take steps in the "
                "process that the code began in"
            )
        number = next(self._count)
        answer = self._waiting[number] = Future[object]()
        answer.set_running_or_notify_cancel()  # an answer may come for what was given up
        if self._ended:
            self._give_up()
        else:
            self._send(AskJournal(self._number, number, what, values))
        return answer

    def told(self, message: Told) -> None:
        """Take an answer of the runner."""
        if message.number == self._number and (answer := self._waiting.pop(message.asked, None)) is not None:
            if message.failure is None:
                answer.set_result(message.value)
            else:
                answer.set_exception(message.failure.error())

    def tell(self, event: type[JobEvent], facts: dict[str, object]) -> None:
        """Have the runner tell of something that happened to the job."""
        self._send(Happened(self._number, event, facts))

    def refuse_unawaited(self) -> None:
        """Raise `TypeError` where the code has not awaited a step."""
        journal: ChannelJournal | None = vars(self).get("journal")
        if journal is not None:
            journal.refuse_unawaited()

    def end(self) -> None:
        """Wait for nothing any more: the code has ended, and threads that it has left behind are told so."""
        self._ended = True
        self._give_up()
        journal: ChannelJournal | None = vars(self).get("journal")
        if journal is not None:
            self._send(Used(self._number, journal.used))

    def _give_up(self) -> None:
        for number in list(self._waiting):
            if (answer := self._waiting.pop(number, None)) is not None:
                answer.set_exception(AttemptLost("the attempt has ended"))
