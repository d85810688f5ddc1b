"""What a fork of the runner's process must not share with it, and where a fork made by a job has to end.

A fork copies more than a job wants: the socket through which signals wake up the event loop, the handlers that hand
signals to that loop, the loop itself, and connections to the database. With them a SIGTERM for the child would stop the
runner and leave the child alone, and a child that returns from the job's code would go on as a second runner on the
connections of the first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar, cast

from oban_sa.errors import JobNotFound
from oban_sa.jobs.answers import Answer, raised
from oban_sa.workers.current import current_job

T = TypeVar("T")

generation: int = 0
"""How many forks there are between this process and the one that imported this; compared before and after a job."""

_taken: Final[dict[int, Any]] = {}
_former: Final = threading.local()


def take(number: int, handler: object = None) -> None:
    """Note that this process has a signal handled for itself, so that forks of it get back the default.

    That is done for handlers that belong to an event loop, and for `handler`.
    """
    _taken[number] = handler


def leave_alone(number: int) -> None:
    """Note that a signal is handled for others again."""
    _taken.pop(number, None)


def called(function: Callable[..., T], *arguments: object) -> T:
    """Call a job's code in its thread; a fork that comes out of it ends here. An answer that it raises is returned."""
    before = generation
    try:
        answer = function(*arguments)
    except Answer as said:
        answer = cast("T", raised(said))
    except BaseException as error:
        if generation != before:
            leave(error)
        raise
    if generation != before:
        leave()
    return answer


async def awaited(awaitable: Awaitable[T]) -> T:
    """The same for code on the loop."""
    before = generation
    try:
        answer = await awaitable
    except Answer as said:
        answer = cast("T", raised(said))
    except BaseException as error:
        if generation != before:
            leave(error)
        raise
    if generation != before:
        leave()
    return answer


def leave(answer: object = None) -> NoReturn:
    """End this fork as a program with that code would have ended, without touching what it shares with the runner."""
    code = 0
    if isinstance(answer, SystemExit):
        code = answer.code if isinstance(answer.code, int) else 0 if answer.code is None else 1
        if code and not isinstance(answer.code, int):
            print(answer.code, file=sys.stderr)
    elif isinstance(answer, BaseException):
        code = 1
        traceback.print_exception(answer)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    # Nothing that waits for the end of a program may run: it would close connections that the runner goes on to use.
    os._exit(code & 0xFF)


def _before() -> None:
    # In a program that runs a Runner beside other things, only forks made by jobs are ours to look after.
    if _taken or _in_job():
        ours = [number for number in signal.valid_signals() if _is_ours(number)]
        # Held back until the child has its own handlers: what comes for it in between would reach the runner's loop.
        _former.ours, _former.mask = ours, signal.pthread_sigmask(signal.SIG_BLOCK, ours)


def _let_signals_in() -> None:
    mask = _former.__dict__.pop("mask", None)
    _former.__dict__.clear()
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    global generation
    generation += 1
    ours: list[int] | None = _former.__dict__.pop("ours", None)
    if ours is not None:
        signal.set_wakeup_fd(-1)
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        _let_signals_in()
        if signal.SIGINT in ours:  # not before: what it raises in here would be lost
            signal.signal(signal.SIGINT, signal.default_int_handler)
        # Python 3.12 does this itself: code in the child may run a loop of its own, and never awaits on ours.
        asyncio._set_running_loop(None)
    _taken.clear()


def _in_job() -> bool:
    try:
        current_job()
    except JobNotFound:
        return False
    return True


def _is_ours(number: int) -> bool:
    """Whether a signal is handled by what was noted, or by a loop: what that puts in place does nothing by itself."""
    handler = signal.getsignal(number)
    if handler is not None and handler == _taken.get(number):
        return True
    return getattr(handler, "__module__", None) in _LOOPS and "sighandler" in getattr(handler, "__name__", "")


_LOOPS: Final = ("asyncio.unix_events", "uvloop.loop")

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_let_signals_in, after_in_child=_in_child)
