"""Threads for synchronous code, so that it never blocks the loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from oban_sa import clock


class ThreadCall:
    """One call in a thread: awaitable through `future`, and interruptible."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._function = function
        self._context = contextvars.copy_context()
        self._thread_id: int | None = None
        self._ended = False
        self._lock = threading.Lock()

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` in the code at its next Python instruction; code that waits inside C first returns."""
        with self._lock:
            if self._thread_id is not None and not self._ended:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), ctypes.py_object(error))

    def run(self) -> None:
        """Make the call, in whichever thread this is."""
        with self._lock:
            self._thread_id = threading.get_ident()
        try:
            try:
                answer = self._context.run(self._function)
            finally:
                # From here on nothing may be raised into this thread: it belongs to the next call.
                with self._lock:
                    self._ended = True
        except BaseException as error:
            self._tell(None, error)
        else:
            self._tell(answer, None)

    def _tell(self, answer: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.future.get_loop().call_soon_threadsafe(self._settle, answer, error)

    def _settle(self, answer: Any, error: BaseException | None) -> None:
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
    """Daemon threads that take calls in turn; as many as there are calls at once, up to the sum of all queues' limits.

    Daemon threads, unlike those of `concurrent.futures`, never keep a stopping process from ending.
    """

    def __init__(self, *, leaving: Callable[[], None]) -> None:
        """`leaving` is called in each thread when it ends, to close what the thread kept for itself."""
        self._leaving = leaving
        self._calls: SimpleQueue[ThreadCall | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
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

    def close(self, within: float) -> None:
        """Let the threads end; those that are free do so within the time, those at work once their code returns."""
        with self._lock:
            threads, self._threads, self._free = self._threads, [], 0
        for _ in threads:
            self._calls.put(None)
        deadline = clock.monotonic() + within
        for thread in threads:
            thread.join(max(deadline - clock.monotonic(), 0))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            del call
            with self._lock:
                self._free += 1
        self._leaving()
