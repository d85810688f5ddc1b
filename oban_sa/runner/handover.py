"""A thread that runs code, and waits with its transaction open until the loop has decided what the answer is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from oban_sa.runner.loop_calls import LOOK_EVERY
from oban_sa.runner.strikes import met
from oban_sa.runner.threads import ThreadCall, settled_future


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

    def begin(self, call: ThreadCall, *, skip: bool = False) -> None:
        """Take up a thread's call before it is started; `skip` leaves out the code, which nobody wanted to run."""
        self.call = call
        self._skipped = skip
        call.future.add_done_callback(self._thread_left)

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
        call = self.call
        assert call is not None  # noqa: S101 - it was told before the thread began
        answer: Any = None
        error: BaseException | None = None
        if not self._skipped:
            answered, target = False, call.target
            # Assignments on one line: at most one interruption is on its way after that.
            try:
                answer, answered, target.open = code(), True, False
            except BaseException as raised:
                target.open, error = False, raised
            try:
                met()
            except BaseException:
                call.late += 1
            with self._lock:
                self._over = True
            call.spare()
            if answered:
                error = None  # it came just as the code ended, and interrupts nothing
        # In a list that is emptied: were it to pass here again, its traceback would refer to these frames.
        errors, error = [error], None
        return call.shielded(partial(self._decided, call, answer, errors))

    def _decided(self, call: ThreadCall, answer: Any, errors: list[BaseException | None]) -> Any:
        error = errors.pop()
        # What follows the decision may be interrupted again; what comes before it is made up for then.
        call.target.open = True
        if not self._skipped:
            self._tell(answer, error)
        while not self._kept.done() and not self._loop.is_closed():
            wait([self._kept], timeout=LOOK_EVERY)
        if not self._kept.done() or not self._kept.result():
            try:
                raise Dropped if error is None else error
            finally:
                del error  # a traceback refers to this frame
        return self._answer

    def _tell(self, answer: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody will decide any more
            self._loop.call_soon_threadsafe(self._settle, answer, error)

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
