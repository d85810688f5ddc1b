"""The journal of the attempt that runs here, and calls that are awaited on the loop and answer at once in a thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TypeVar, cast

from oban_sa.errors import InvalidOption, JobNotFound
from oban_sa.steps.journal import Journal, driven, on_loop
from oban_sa.workers.current import ATTEMPT

T = TypeVar("T")


def journal(what: str) -> Journal:
    """Return the journal of the attempt that runs here; `what` names who asks.

    Raises `JobNotFound` outside of a worker, and `InvalidOption` in a chunk, which is a call for many jobs.
    """
    attempt = ATTEMPT.get(None)
    if attempt is None:
        raise JobNotFound(
            f"no job is running here; {what} works only below the code of a worker; "
            "code in a thread of your own begins in its context: contextvars.copy_context().run(function)"
        )
    if attempt.is_of_many:
        raise InvalidOption(
            f"{what} is of one job, and a chunk is one call for many; have the code of the chunk enqueue a job for "
            "what needs steps"
        )
    return cast("Journal", attempt.journal)


def here(at: Journal, what: str, call: Callable[[], Coroutine[object, object, T]]) -> Coroutine[object, object, T] | T:
    """Return a coroutine to be awaited, where a loop runs here, and in a thread its result.

    `what` is the call as the code has it: one that is never awaited is refused in the end.
    """
    coroutine = call()
    return at.give(what, coroutine) if on_loop() else driven(coroutine)
