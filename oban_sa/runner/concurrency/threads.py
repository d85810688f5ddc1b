"""Threads for synchronous code, so that it never blocks the loop, and how such code is interrupted.

An interruption is an error that is raised in the thread from outside of it, at its next Python instruction. Python
looks for such an error where a function begins, at the end of each turn of a loop, and after each call of a function
written in C, and nowhere between. So a line here is sometimes one line for that reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from oban_sa.describe import exceptions
from oban_sa.errors import AttemptCancelled
from oban_sa.models import Job
from oban_sa.runner.concurrency.bridge import LoopCall
from oban_sa.runner.concurrency.wait import joined
from oban_sa.workers.current import job_of

logger = logging.getLogger("oban_sa.runner")

T = TypeVar("T")

# A prototype of our own: types given to `ctypes.pythonapi.PyThreadState_SetAsyncExc` would change for all its users.
_raise: Any = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

_SPINS: Final = sys.version_info < (3, 12)


class Target:
    """A thread, and whether errors may be raised in it just now.

    The thread itself says when no more may be: `open = False`, an assignment, is all it takes. What was sent before is
    met at the next instruction, of `met` for example.
    """

    __slots__ = ("open", "thread_id")

    def __init__(self) -> None:
        self.open = False
        self.thread_id = 0

    def strike(self, error: type[BaseException]) -> bool:
        """Raise an error there if that may be; returns whether it was sent. One that was not met yet is replaced."""
        me = threading.get_ident()
        # One line: Python changes threads at none of its instructions, so the target is still open when it is struck.
        sent = self.open and _raise(self.thread_id, error) > 0
        if not (_SPINS and sent):
            return bool(sent)
        # Python 3.11 has one mark for all threads which says that some error waits to be met somewhere. A thread with a
        # trace or profile function that enters a function meanwhile looks for it again and again, and does nothing else
        # until the mark is gone: this one, the heartbeat's, all of them, for as long as the target waits inside C. So
        # this thread meets an error too, which takes the mark away; the target's is still there when it goes on. No
        # function must be entered before that.
        try:
            _raise(me, _Passing)
            for _ in _TURNS:
                pass
        except _Passing:
            pass
        except BaseException:  # the handler of a signal was first
            with contextlib.suppress(_Passing):
                for _ in _TURNS:
                    pass
            raise
        return True


def met() -> None:
    """Meet here, in this thread, what was sent to it: nothing that was sent before is raised after this."""


class _Passing(BaseException):
    """Raised by a thread in itself, and caught at once."""


_TURNS: Final = range(1000)
"""One is enough; an end, in case a trace function has caught it."""


class ThreadCall:
    """One call in a thread: awaitable through `future`, and interruptible.

    `afterwards` is called in the thread once the code has ended, uninterrupted, with whether its answer is waited for:
    it is not where the code failed, was left behind, or has no loop any more that could hear of it.
    """

    def __init__(self, function: Callable[[], object], *, context: contextvars.Context | None = None) -> None:
        """`context` holds the context variables of the code, by default a copy of those that are set here."""
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[object] = self._loop.create_future()
        self.afterwards: Callable[[bool], object] | None = None
        self._function: Callable[[], object] | None = function
        self.context = contextvars.copy_context() if context is None else context
        self.target = Target()
        """The code, where it may be interrupted."""
        self.late = 0
        """Interruptions that were sent while the code ended, and interrupted nothing."""
        self._begun = False
        self._ended = False
        self._refusal: type[BaseException] | None = None
        self.left_behind = False
        """Whether it is not waited for any more, although its code still runs."""
        self._loop_call: LoopCall[Any] | None = None
        self._shielded = False
        self._held_back = False
        self._struck: type[BaseException] | None = None
        self._strikes = 0
        self._answered = False
        self._answer: object = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    @property
    def struck(self) -> bool:
        """Whether the code was interrupted, anywhere in it."""
        return self._struck is not None

    def is_about(self, job: Job) -> bool:
        """Whether it runs the code of this job."""
        return job_of(self.context) is job

    def ignored(self) -> type[BaseException] | None:
        """In the thread, or once it has ended: what the code was interrupted with and went on after.

        An interruption that is only on its way is met here.
        """
        with self._lock:
            met()
            return self._struck if self._strikes > self.late else None

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` in the code at its next Python instruction; code that waits inside C first returns.

        What the code has done for it on the loop is cancelled at once. Code that has not begun yet never does.
        """
        with self._lock:
            if not self._begun:
                self._refusal = error
                return
            if not self.target.open:
                return
            if self._loop_call is not None:
                self._loop_call.cancel(error)
            elif self._shielded:
                self._held_back = True
            elif not self.target.strike(error):
                return
            self._struck = error
            self._strikes += 1

    def on_loop(self, awaitable: Awaitable[T]) -> T:
        """In the thread: await something on the loop that the call came from, and return or raise its result.

        Where the thread is interrupted meanwhile, that is raised instead of the result.
        """
        loop_call = LoopCall(self._loop, awaitable)
        try:
            with self._lock:
                met()  # or not while waiting: from here on an interruption cancels the loop_call instead
                if self.left_behind and self.target.open:
                    raise AttemptCancelled("the runner has stopped and left this code behind")
                self._loop_call = loop_call
        except BaseException:
            loop_call.drop()
            raise
        try:
            loop_call.go()
            loop_call.wait()
        finally:
            with self._lock:
                self._loop_call = None
        return loop_call.result()

    def shielded(self, function: Callable[[], T]) -> T:
        """In the thread: call what must not be interrupted half-way; an interruption is raised after it."""
        with self._lock:
            met()
            self._shielded, self._held_back = True, False
        try:
            return function()
        finally:
            with self._lock:
                self._shielded = False
                if self._held_back and self._struck is not None:
                    raise self._struck

    def spare(self) -> None:
        """In the thread: from here on no interruption is raised in it, as before a commit."""
        self.target.open = False
        try:
            with self._lock:
                pass  # an interruption that is under way has been sent now, or was not
            met()
        except BaseException:  # it was sent while the code ended, and interrupts nothing
            self.late += 1

    def abandon(self) -> None:
        """Wait for the code no longer: the runner stops. An answer that the code has given already still counts."""
        with self._lock:
            if self._ended:
                return
            self.left_behind = True
            if self._loop_call is not None and self.target.open:
                self._loop_call.cancel(AttemptCancelled)
        if not self.future.done():
            self.future.set_exception(AttemptCancelled("the code could not be interrupted and was left behind"))

    def forget(self) -> None:
        """Drop the result of the call: an error's frames refer to the call, and would keep themselves alive."""
        self._error = self._answer = None
        self.future = self._loop.create_future()
        self.future.set_result(None)

    def run(self) -> None:
        """Make the call in this thread; `tell` passes its result on to the loop. Never raises."""
        target = self.target
        # Assignments on one line: at most one interruption is on its way after that, and `spare` meets it.
        try:
            try:
                self._call(target)
            except BaseException as error:
                target.open, self._error = False, error
        except BaseException as error:  # in our own lines, where a trace function runs and is interrupted too
            target.open, self._error = False, error if self._error is None else self._error
        try:
            met()
        except BaseException:
            self.late += 1
        self.spare()
        if self._answered and self._error is not None:  # it came just as the code ended, and interrupts nothing
            self._error = None
            self.late += 1
        # Together, under the lock: either `abandon` comes first, or this answer is waited for.
        with self._lock:
            self._ended, wanted = True, self._answered and not self.left_behind
        self._call_afterwards(wanted)

    def fail(self, error: BaseException) -> None:
        """End with this error, unless there is an answer or another error."""
        self.target.open = False
        if not self._answered and self._error is None:
            self._error = error

    def _call(self, target: Target) -> None:
        with self._lock:
            self._begun = True
            function, self._function = self._function, None
            if self._refusal is not None:
                raise self._refusal
            target.thread_id = threading.get_ident()
            target.open = function is not None
        if function is not None:  # a call is made once
            self._answer, self._answered, target.open = self.context.run(function), True, False

    def _call_afterwards(self, wanted: bool) -> None:
        if self.afterwards is not None:
            try:
                self.context.run(self.afterwards, wanted)
            except BaseException as error:
                logger.debug("a session could not be closed: %s", exceptions.describe(error))

    def tell(self) -> None:
        """Set the result of the future, on its loop."""
        try:
            self._loop.call_soon_threadsafe(self._set_result)
        except RuntimeError:  # the loop is closed
            self._call_afterwards(False)

    def _set_result(self) -> None:
        answer, error = self._answer, self._error
        self._answer = self._error = None  # a traceback refers to this object
        if self.future.done():
            return
        if isinstance(error, StopIteration):  # a future refuses it
            wrapped = RuntimeError("the code raised StopIteration")
            wrapped.__cause__ = error
            error = wrapped
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(answer)


class Threads:
    """Daemon threads that take calls in turn; as many as there were calls at once.

    Daemon threads, unlike those of `concurrent.futures`, never keep a stopping process from ending.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[ThreadCall | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._working: dict[threading.Thread, ThreadCall] = {}
        self._free = 0
        self._closed = False
        self._lock = threading.Lock()

    def call(self, function: Callable[[], object]) -> ThreadCall:
        """Run `function` in a thread, with the caller's context variables."""
        return self.start(ThreadCall(function))

    def start(self, call: ThreadCall, *, last: bool = False) -> ThreadCall:
        """Make a call in a thread that is free, or in another one; the call fails where none can be started.

        Once the threads were let go, only a `last` call is made, which ends what an earlier one has begun.
        """
        try:
            self._have_one(last=last)
        except (RuntimeError, AttemptCancelled) as error:
            call.future.set_exception(error)
        else:
            self._calls.put(call)
            if self._closed:
                self._calls.put(None)  # for the thread that was just started
        return call

    def working_on(self, job: Job) -> int | None:
        """Return the id of the thread that runs a job's code, or None."""
        with self._lock:
            found = [call.target.thread_id for call in self._working.values() if call.is_about(job)]
        return found[0] if found else None

    def current(self) -> ThreadCall | None:
        """Return the call that this very thread makes, or None where it is none of these threads."""
        return self._working.get(threading.current_thread())

    def abandon(self) -> None:
        """Wait no longer for code that still runs."""
        with self._lock:
            calls = list(self._working.values())
        for call in calls:
            call.abandon()

    async def close(self, within: float) -> None:
        """Let the threads end; those that are free are given some time, those at work end once their code returns."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
            busy = set(self._working)
        for _ in threads:
            self._calls.put(None)
        await joined([thread for thread in threads if thread not in busy], within)

    def _have_one(self, *, last: bool) -> None:
        with self._lock:
            if self._closed and not last:
                raise AttemptCancelled("the runner has stopped and begins no code any more")
            if self._free > 0 and not self._closed:
                self._free -= 1
            else:
                thread = threading.Thread(target=self._work, name=f"oban_sa-{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)  # only now: one that could not be started can't be joined either

    def _work(self) -> None:
        me = threading.current_thread()
        while (call := self._calls.get()) is not None:
            with self._lock:
                self._working[me] = call
            try:
                call.run()
            except BaseException as error:
                # Nothing is expected to come through here; were it to, the call must still end, and this thread go on.
                call.fail(error)
            with self._lock:
                del self._working[me]
                # Before the caller hears that the call has ended, and makes the next one.
                self._free += 1
            call.tell()
            del call
