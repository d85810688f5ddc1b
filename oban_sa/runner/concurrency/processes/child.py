"""A process that works for this runner, seen from here."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import multiprocessing
import multiprocessing.util
import pickle
import socket
import threading
import weakref
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from oban_sa.describe import exceptions
from oban_sa.errors import AttemptCancelled, AttemptCrashed, AttemptError, AttemptTimedOut
from oban_sa.models import Job
from oban_sa.runner.concurrency.processes import main, protocol
from oban_sa.runner.concurrency.processes.exit_status import described
from oban_sa.runner.concurrency.processes.protocol import (
    Answer,
    Ask,
    AskJournal,
    Begun,
    Cancel,
    Failure,
    Happened,
    Interrupt,
    Leave,
    Look,
    Plan,
    Ready,
    Seen,
    Used,
)
from oban_sa.runner.concurrency.processes.questions import Journalling, Questions
from oban_sa.schedule.periods import describe
from oban_sa.workers.current import job_of

logger = logging.getLogger("oban_sa.runner")

START_WITHIN: Final = 120.0
"""Seconds to import what the code needs, before an attempt begins."""

LOOK_WITHIN: Final = 1.0
"""Seconds in which a process has said where its code is; it does not while that holds the interpreter."""

CLEAN_UP_WITHIN: Final = 1.0
"""Seconds that code has to end after it was interrupted, before its process is killed."""

LEAVE_WITHIN: Final = 5.0
"""Seconds that a process has to end by itself once nothing more is asked of it."""

DRAIN_WITHIN: Final = 0.5
"""Seconds in which the last words of a process that has ended are read, in case a fork of it keeps the channel open."""

# Spawned, never forked: this process has threads and an event loop, and a fork would copy their locks.
_CONTEXT = multiprocessing.get_context("spawn")


class NotBegun(Exception):
    """A process was found dead before it began with what it was asked."""


class Child:
    """Runs one call at a time. An error or a crash in it ends this process and nothing else.

    A process that was interrupted is never used again: the interruption may have left anything half done.
    """

    def __init__(self, plan: Plan, *, ended: Callable[[Child], None]) -> None:
        """`ended` is called on the loop when the process is no more."""
        self.calls = 0
        self.usable = True
        self.ignored: AttemptError | None = None
        """The interruption in spite of which its last call came to an answer."""
        self._plan = plan
        self._tell_ended = ended
        self._loop = asyncio.get_running_loop()
        self._process: SpawnProcess | None = None
        self._lock = threading.Lock()
        self._doomed = False
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[int | None] = self._loop.create_future()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._call: _Call | None = None
        self._looking: asyncio.Future[str] | None = None
        self._exit: int | None = None

    async def start(self) -> None:
        """Start the process and wait until it has imported everything; raises `AttemptError` where it can't."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        thread = threading.Thread(target=self._live, args=(theirs,), name="oban_sa process", daemon=True)
        thread.start()
        try:
            connect: Any = getattr(asyncio, "open_unix_connection", asyncio.open_connection)
            reader, self._writer = await connect(sock=ours)
            self._reading = asyncio.create_task(self._read(reader))
            async with asyncio.timeout(START_WITHIN):
                await asyncio.shield(self._ready)
        except BaseException as error:
            self.kill()
            self._ready.cancel()
            if self._writer is None:
                ours.close()
            if isinstance(error, TimeoutError):
                raise AttemptError(f"a process for the job was not ready within {describe(START_WITHIN)}") from None
            raise

    async def call(
        self,
        name: str,
        module: str,
        row: dict[str, object],
        *,
        within: float | None,
        attempt: Journalling | None = None,
    ) -> object:
        """Run a worker's code there and return its answer, or raise what it raised.

        Its durable steps ask the journal of `attempt`. Time counts from the moment the code begins. When it is up, or
        the caller is cancelled, the code is interrupted where it is, and the process is killed if that doesn't end it.
        Raises `AttemptCrashed` where the process ended.
        """
        if self._gone.done():
            raise NotBegun
        self.calls += 1
        call = self._call = _Call(self.calls, self._loop.create_future(), contextvars.copy_context(), name, within)
        entries = None
        if attempt is not None:
            call.questions = Questions(attempt, self._send)
            entries = call.questions.entries
        stuck = AttemptTimedOut(f"{module} was not imported within {describe(START_WITHIN)}")
        call.timer = self._loop.call_later(START_WITHIN, self._interrupt, stuck)
        self._send(Ask(call.number, name, module, row, entries))
        try:
            while not call.future.done():
                try:
                    await asyncio.wait([call.future])
                except asyncio.CancelledError:
                    self._interrupt(AttemptCancelled())
        finally:
            self._call = None
            if call.questions is not None:
                call.questions.close()
            for timer in (call.timer, call.killer):
                if timer is not None:
                    timer.cancel()
        return self._outcome(call)

    def crashed(self, name: str) -> AttemptCrashed:
        """Return the error of an attempt at this worker's job, with which the process ended."""
        return AttemptCrashed(f"the process that ran {name} {described(self._exit)}")

    def ask_to_stop(self) -> None:
        """Let `job.cancelled()` be True there."""
        if self._call is not None:
            self._send(Cancel(self._call.number))

    def works_on(self, job: Job) -> bool:
        """Whether its call is about this job."""
        return self._call is not None and job_of(self._call.context) is job

    async def stack(self) -> str:
        """Return where its code is; raises `TimeoutError` where the process does not say so in a second."""
        if self._call is None:
            return ""
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_future()
            self._send(Look(self._call.number))
        async with asyncio.timeout(LOOK_WITHIN):
            return await asyncio.shield(self._looking)

    def leave(self) -> None:
        """Let the process end by itself, soon."""
        self.usable = False
        self._send(Leave())
        self._loop.call_later(LEAVE_WITHIN, self.kill)

    def kill(self) -> None:
        """End the process at once, also in the middle of a call."""
        self.usable = False
        with self._lock:
            self._doomed = True
            if self._process is not None:
                self._process.kill()

    async def gone(self) -> None:
        """Wait until the process has ended."""
        await asyncio.wait([self._gone])

    def _outcome(self, call: _Call) -> object:
        ended = call.future.result()
        if isinstance(ended, Answer):
            self.ignored = call.reason if ended.interrupted else None
            return ended.value()
        reason, call.reason = call.reason, None
        error = ended.error() if isinstance(ended, Failure) else None
        try:
            if error is not None:
                # The reason as it was given here, where the code just let it pass.
                if reason is not None and isinstance(error, type(reason)):
                    raise reason from error.__cause__
                raise error
            if reason is not None:
                raise reason
        finally:
            del error, reason  # a traceback refers to this frame
        if not call.begun:
            raise NotBegun
        raise self.crashed(call.name)

    def _interrupt(self, error: AttemptError) -> None:
        call = self._call
        if call is None or call.reason is not None or call.future.done():
            return
        self.usable = False
        call.reason = error
        self._send(Interrupt(call.number, error))
        call.killer = self._loop.call_later(CLEAN_UP_WITHIN, self.kill)

    # The channel

    def _send(self, message: object) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(protocol.framed(message))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (length,) = protocol.HEAD.unpack(await reader.readexactly(protocol.HEAD.size))
                self._receive(pickle.loads(await reader.readexactly(length)))  # noqa: S301 - from our own child
        except (asyncio.IncompleteReadError, OSError):
            pass
        except Exception:
            logger.exception("a process for jobs sent a message that can't be read, and is ended")
        finally:
            self.usable = False
            # Code may close what is not its own; without a channel the process is of no use.
            self._loop.call_later(DRAIN_WITHIN, self.kill)

    def _receive(self, message: object) -> None:
        call = self._call
        match message:
            case Ready():
                _set_result(self._ready, None)
            case protocol.Refused(words):
                self.usable = False
                if not self._ready.done():
                    self._ready.set_exception(AttemptError(f"a process for the job {words}"))
            case Seen(_, stack) if self._looking is not None:
                _set_result(self._looking, stack)
            case protocol.Said(pickled):
                _log(pickled, call.context if call is not None else None)
            case Begun(number) if call is not None and call.number == number:
                call.begun = True
                if call.timer is not None:
                    call.timer.cancel()
                if call.within is not None:
                    up = AttemptTimedOut(f"the attempt took longer than its timeout of {describe(call.within)}")
                    call.timer = self._loop.call_later(call.within, self._interrupt, up)
            case AskJournal(number) if call is not None and call.number == number and call.questions is not None:
                call.questions.asked(message, call.context)
            case Happened(number) | Used(number) if (
                call is not None and call.number == number and call.questions is not None
            ):
                call.questions.told(message, call.context)
            case Answer(number) | Failure(number) if call is not None and call.number == number:
                _set_result(call.future, message)
            case _:
                pass

    # The process, in a thread of its own: to start one takes a while, and only a thread can wait for its end.

    def _live(self, theirs: socket.socket) -> None:
        process = _CONTEXT.Process(target=main.main, args=(theirs, self._plan), name="oban_sa jobs")
        try:
            with theirs:
                process.start()
        except BaseException as error:
            self._on_loop(self._not_started, error)
            return
        _living.add(process)
        with self._lock:
            self._process = process
            if self._doomed:
                process.kill()
        process.join()
        with self._lock:
            code = process.exitcode
            self._process = None
        # Not closed: where the program ends just now, multiprocessing joins it too, and would find it closed. What it
        # holds open is closed with its last reference.
        _living.discard(process)
        del process
        self._on_loop(self._ended, code)

    def _on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and no task waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _not_started(self, error: BaseException) -> None:
        if not self._ready.done():
            self._ready.set_exception(
                AttemptError(f"a process for the job could not be started: {exceptions.describe(error)}")
            )
        self._ended(None)

    def _ended(self, code: int | None) -> None:
        self._exit = code
        self.usable = False
        if self._reading is None or self._reading.done():
            self._close()
        else:  # what it said last is still to be read
            self._reading.add_done_callback(lambda _: self._close())
            self._loop.call_later(DRAIN_WITHIN, self._reading.cancel)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if not self._ready.done():
            self._ready.set_exception(
                AttemptError(
                    f"a process for the job {described(self._exit)} before it was ready; it said why on standard error"
                )
            )
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # the task that started it may have been cancelled
        if self._call is not None:
            _set_result(self._call.future, None)
        _set_result(self._gone, self._exit)
        self._tell_ended(self)


class _Call:
    """What a process was asked last."""

    def __init__(
        self,
        number: int,
        future: asyncio.Future[Answer | Failure | None],
        context: contextvars.Context,
        name: str,
        within: float | None,
    ) -> None:
        self.number = number
        self.future = future
        self.context = context
        self.name = name
        self.within = within
        self.begun = False
        self.questions: Questions | None = None
        self.reason: AttemptError | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.killer: asyncio.TimerHandle | None = None


def _set_result(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _log(pickled: bytes, context: contextvars.Context | None) -> None:
    """Give a record to this process's handlers, as if the code had run here."""
    try:
        record = logging.makeLogRecord(pickle.loads(pickled))  # noqa: S301 - from our own child
        target = logging.getLogger(record.name)
        if not target.isEnabledFor(record.levelno):
            return
        if context is None:
            target.handle(record)
        else:
            context.run(target.handle, record)
    except Exception:
        logger.debug("what a process logged could not be logged here", exc_info=True)


_living: weakref.WeakSet[SpawnProcess] = weakref.WeakSet()


def _kill_all() -> None:
    for process in list(_living):
        with contextlib.suppress(Exception):
            process.kill()


# For a runner that was not closed. Among multiprocessing's own finalizers, after which it waits for every process.
multiprocessing.util.Finalize(None, _kill_all, exitpriority=100)
