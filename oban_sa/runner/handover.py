"""A thread that runs code, and waits with its transaction open until the loop has decided what the answer is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from oban_sa.runner.threads import ThreadCall, raise_in, settled_future


class Handover:
    """Between a thread's code and its commit stands what runs on the loop: middleware, whose clients live there.

    `future` is done when the code ended, while the thread still waits; `call` is the thread's call as a whole.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()
        self.call: ThreadCall | None = None
        self._skipped = False
        self._answer: Any = None
        self._kept: Future[bool] = Future()
        self._over = False
        self._lock = threading.Lock()

    def begin(self, start: Callable[[], ThreadCall]) -> ThreadCall:
        """Start the thread's call."""
        self.call = start()
        self.call.future.add_done_callback(self._thread_left)
        return self.call

    def skip(self, start: Callable[[], ThreadCall]) -> ThreadCall:
        """Start it without the code: nobody wanted that to run."""
        self._skipped = True
        return self.begin(start)

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` in the code, and only there."""
        with self._lock:
            if self.call is not None and not self._over:
                self.call.interrupt(error)

    def forget(self) -> None:
        """Hold what came of the code no longer: an error's frames hold this, and would keep themselves alive."""
        self.future = settled_future(self._loop)

    def decide(self, answer: Any) -> None:
        """Let the thread commit, with this for an answer."""
        self._answer = answer
        self._kept.set_result(True)

    def drop(self) -> None:
        """Let the thread roll back."""
        self._kept.set_result(False)

    def around(self, code: Callable[[], Any]) -> Any:
        """In the thread: run the code, tell the loop how it ended, and wait for what it says."""
        error: BaseException | None = None
        if not self._skipped:
            answer: Any = None
            answered = False
            try:
                try:
                    answer = code()
                    answered = True
                finally:
                    self._end()
            except BaseException as raised:
                self._end()
                if not answered:  # else the interruption came just as the code ended, and interrupts nothing
                    error = raised
            self._tell(answer, error)
        if not self._kept.result():
            try:
                raise error or Dropped
            finally:
                del error  # a traceback refers to this frame
        return self._answer

    def _end(self) -> None:
        # What follows is not the code's any more, and nothing may be raised into it.
        while not self._over:
            with contextlib.suppress(BaseException), self._lock:
                raise_in(threading.get_ident(), None)
                self._over = True

    def _tell(self, answer: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, answer, error)
        except RuntimeError:  # the loop is closed: nobody will decide any more
            with contextlib.suppress(Exception):
                self._kept.set_result(False)

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

    def _thread_left(self, ended: asyncio.Future[Any]) -> None:
        # It failed before it came to the code, or was struck between the code and what follows.
        if not self._skipped and not self.future.done() and not ended.cancelled() and (error := ended.exception()):
            self.future.set_exception(error)


class Dropped(Exception):
    """The answer was not wanted; the transaction rolls back."""
