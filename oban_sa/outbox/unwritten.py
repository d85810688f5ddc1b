"""Jobs that a session was given and never wrote: a warning where it ends, an error where it has ended already.

A job waits in its session for a flush. Where none comes, because the session is closed or forgotten, the job is lost
like every other new object; but the program doesn't notice, for what the job was to do happens elsewhere and later. So
a `JobNeverWritten` warns, unless the session was rolled back, the job was taken out of it, or an exception prevents the
commit.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from types import FrameType, ModuleType
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, object_session
from sqlalchemy.orm.attributes import instance_state

from oban_sa.describe import caller
from oban_sa.describe.caller import warn
from oban_sa.errors import JobNeverWritten, SessionEnded
from oban_sa.models import Job

_ENDS: Final = frozenset({"__exit__", "close", "reset"})
_SESSIONS: Final = Session.__module__
_FRAMES: Final = 40
_OBJECTS: Final = 2_000


def refuse_ended(session: Session) -> None:
    """Raise `SessionEnded` where what is staged now would be forgotten with the transaction that is just ending.

    To be asked of a session that isn't active: within its `after_commit` and `after_rollback`, and after an error.
    """
    nested, root = session.get_nested_transaction(), session.get_transaction()
    committed = getattr(getattr(nested or root, "_state", None), "name", "") == "COMMITTED"
    if committed and nested is not None:
        return  # a savepoint is released, and the transaction around it goes on
    if committed:
        raise SessionEnded(
            "this session has just committed, and a job that it gets now would wait for another commit, which may "
            "never come; enqueue it before the commit, or here in a session of its own: "
            "with Session(session.get_bind()) as later, later.begin(): enqueue(later, job)"
        )
    raise SessionEnded(
        "the transaction of this session is rolled back or can't go on, and a job that it gets now would be "
        "forgotten with it; write session.rollback() first where an error was caught, or enqueue in a session of its "
        "own: with Session(session.get_bind()) as another, another.begin(): enqueue(another, job)"
    )


def is_closing(session: Session) -> bool:
    """Whether this is called from within the end of `session`; expunging, or rolling back, is not its end."""
    return any(
        frame.f_code.co_name in _ENDS
        and frame.f_globals.get("__name__") == _SESSIONS
        and frame.f_locals.get("self") is session
        for frame in _frames()
    )


def tell_of_closing(session: Session, job: Job) -> None:
    """Warn that a session is being closed with this job, unless it is an error that closes it."""
    if _is_raising():
        return
    message = f"{job} was enqueued in a session that is closed and has not written it{_ADVICE}"

    # Once it has given its connections back: a filter may make an error of the warning.
    @event.listens_for(session, "after_transaction_end", once=True)
    def tell(session: Session, transaction: SessionTransaction) -> None:
        warn(message, JobNeverWritten)


def tell_of_forgetting(job: Job) -> None:
    """Warn that a session is gone without being closed, if this job was still in it."""
    state = instance_state(job)
    if state.key is None and state.session_id is not None and object_session(job) is None:
        warn(f"{job} was enqueued in a session that is gone and has not written it{_ADVICE}", JobNeverWritten)


_ADVICE: Final = (
    ", so that it will never run; commit the session, as with sessions.begin() as session: ... does, and enqueue "
    "within its block; or say session.rollback() where nothing is to be written"
)


def _is_raising() -> bool:
    """Whether the session is closed because of an exception: one is being handled, or a caller has one in a variable.

    The latter is how `__exit__` and its like get it. An exception isn't seen where an asynchronous session is closed by
    hand, in a `finally` of the very function that fails.
    """
    if sys.exc_info()[1] is not None:
        return True
    if any(_is_error(value) for frame in _frames() for value in frame.f_locals.values()):
        return True
    # An asynchronous session is closed in a task of its own, from which no frame leads to the block that it ends.
    return any(_is_error(value) for waiting in _waiting() for value in gc.get_referents(waiting))


def _is_error(value: object) -> bool:
    return issubclass(type(value), BaseException)  # isinstance() would ask proxies, which may have no object


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = caller.frame()
    greenlets: Any = sys.modules.get("greenlet")
    within = greenlets.getcurrent() if greenlets else None
    for _ in range(_FRAMES):
        if frame is None:
            within = within and within.parent
            # A thread that stands in for one, where a synchronous session sends on the loop, has no frame to show.
            frame = getattr(within, "gr_frame", None)
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _waiting() -> Iterator[Any]:
    """Yield the coroutines of this task, and of the tasks that wait for it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return
    tasks = 0
    while task is not None and tasks < 3:
        waiting: Any = task.get_coro()
        for _ in range(_FRAMES):
            if waiting is None:
                break
            yield waiting
            waiting = _awaited(waiting)
        task, tasks = _task_behind(task), tasks + 1


def _awaited(waiting: Any) -> Any:
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        if hasattr(waiting, name):
            return getattr(waiting, name)
    # What stands between a coroutine and an asynchronous generator doesn't say of which.
    if type(waiting).__name__.startswith("async_generator"):
        return next((each for each in gc.get_referents(waiting) if hasattr(each, "ag_await")), None)
    return None


def _task_behind(task: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    """Return a task that waits for this one, found through this one's callbacks."""
    looked: set[int] = set()
    ahead = deque[Any](getattr(task, "_callbacks", None) or ())
    while ahead and len(looked) < _OBJECTS:
        each = ahead.popleft()
        if id(each) in looked or isinstance(each, (dict, type, ModuleType)):
            continue
        looked.add(id(each))
        if isinstance(each, asyncio.Task) and each is not task:
            return each  # pyright: ignore[reportUnknownVariableType]
        ahead.extend(islice(gc.get_referents(each), 50))
    return None
