"""Threads for synchronous code, so that it never blocks the loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

from oban_sa import clock
from oban_sa.errors import AttemptCancelled


class ThreadCall:
    """One call in a thread: awaitable through `future`, and interruptible."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._function = function
        self._context = contextvars.copy_context()
        self._thread_id: int | None = None
        self._ended = False
        self._refusal: type[BaseException] | None = None
        self._answered = False
        self._answer: Any = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` in the code at its next Python instruction; code that waits inside C first returns.

        Code that has not begun yet never does.
        """
        with self._lock:
            if self._ended:
                return
            if self._thread_id is None:
                self._refusal = error
            else:
                _raise_in(self._thread_id, error)

    def abandon(self) -> None:
        """Wait for the code no longer: this process is about to end, or nobody wants the answer."""
        if not self.future.done():
            self.future.set_exception(AttemptCancelled("the code could not be interrupted and was left behind"))

    def run(self) -> None:
        """Make the call, in whichever thread this is; `tell` passes on what came of it."""
        with self._lock:
            self._thread_id = threading.get_ident()
        try:
            try:
                if self._refusal is not None:
                    raise self._refusal
                self._answer = self._context.run(self._function)
                self._answered = True
            finally:
                self._end()
        except BaseException as error:
            self._end()
            if not self._answered:  # else the interruption came just as the code ended, and interrupts nothing
                self._error = error

    def tell(self) -> None:
        """Settle the future on its loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.future.get_loop().call_soon_threadsafe(self._settle)

    def _end(self) -> None:
        # From here on nothing may be raised into this thread: it belongs to the next call.
        while not self._ended:
            with contextlib.suppress(BaseException), self._lock:
                _raise_in(threading.get_ident(), None)
                self._ended = True

    def _settle(self) -> None:
        if self.future.done():
            return
        error = self._error
        if isinstance(error, StopIteration):  # a future refuses it
            wrapped = RuntimeError("the code raised StopIteration")
            wrapped.__cause__ = error
            error = wrapped
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self._answer)


class Threads:
    """Daemon threads that take calls in turn; as many as there were calls at once.

    Daemon threads, unlike those of `concurrent.futures`, never keep a stopping process from ending.
    """

    def __init__(self, *, leaving: Callable[[], None]) -> None:
        """`leaving` is called in each thread when it ends, to close what the thread kept for itself."""
        self._leaving = leaving
        self._calls: SimpleQueue[ThreadCall | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._working: dict[threading.Thread, ThreadCall] = {}
        self._free = 0
        self._lock = threading.Lock()

    def call(self, function: Callable[[], Any]) -> ThreadCall:
        """Run `function` in a thread, with the caller's context variables."""
        call = ThreadCall(function)
        with self._lock:
            if self._free > 0:
                self._free -= 1
            else:
                thread = threading.Thread(target=self._work, name=f"oban_sa-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._calls.put(call)
        return call

    def abandon(self) -> None:
        """Wait no longer for code that still runs."""
        with self._lock:
            calls = list(self._working.values())
        for call in calls:
            call.abandon()

    async def close(self, within: float) -> None:
        """Let the threads end; those that are free are given some time, those at work end once their code returns."""
        with self._lock:
            threads, self._threads, self._free = self._threads, [], 0
            busy = set(self._working)
        for _ in threads:
            self._calls.put(None)
        await joined([thread for thread in threads if thread not in busy], within)

    def _work(self) -> None:
        me = threading.current_thread()
        while (call := self._calls.get()) is not None:
            with self._lock:
                self._working[me] = call
            call.run()
            with self._lock:
                del self._working[me]
                # Before anybody hears that the call has ended, and makes the next one.
                self._free += 1
            call.tell()
            del call
        with contextlib.suppress(Exception):  # whatever an interruption has left behind
            self._leaving()


async def joined(threads: Iterable[threading.Thread], within: float) -> None:
    """Wait until threads have ended, for so many seconds at most.

    In a thread made for that: those of the loop's own executor may all be taken by what jobs do with them.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wait() -> None:
        deadline = clock.monotonic() + within
        for thread in threads:
            thread.join(max(deadline - clock.monotonic(), 0))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, name="oban_sa joining", daemon=True).start()
    await ended.wait()


def _raise_in(thread_id: int, error: type[BaseException] | None) -> None:
    """Raise an error in a thread at its next instruction; None takes back one that it has not met yet."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), raised)
