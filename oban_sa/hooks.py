"""What users may attach on the enqueueing side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from oban_sa.describe import callables

Hook: TypeAlias = Callable[[Any], object]
"""A function of one `Job`; what it returns is ignored."""


def after_new(hook: Hook) -> Callable[[], None]:
    """Call `hook` with every job that the constructor makes, and return a function that removes it again.

    Jobs loaded from rows are not shown to it. Hooks run in the order they were added, in the thread that makes the
    job, whose caller gets what one raises. A hook added twice is called twice. Removing twice is harmless.
    """
    return AFTER_NEW.add(hook)


def before_insert(hook: Hook) -> Callable[[], None]:
    """Call `hook` with every job that is about to be inserted, and return a function that removes it again.

    It may change what the row will hold: `job.meta["traceparent"] = ...`; args and meta are this job's alone by then.
    It is called once per job: inside the flush of a session, where nothing may be added to that session or queried with
    it, for jobs that `Oban.enqueue` and `Oban.enqueue_many` write, and for those of the crontab on the node that leads,
    whose state and schedule are those of the tick, also where it sets others. Jobs of `enqueue_select` are not shown to
    it: they are made inside the database, where Python code sees none of them. What it raises lets the flush fail.
    Order, adding twice and removing are as with `after_new`.
    """
    return BEFORE_INSERT.add(hook)


def made(job: Any) -> None:
    """Show a job that was just made to every hook of `AFTER_NEW`."""
    for _, hook in AFTER_NEW.hooks:
        hook(job)


def writing(job: Any) -> None:
    """Show a job that is about to be written to every hook of `BEFORE_INSERT`, with args and meta of its own."""
    loaded = cast("dict[str, Any]", vars(job))
    for column in ("args", "meta"):
        if isinstance(loaded.get(column), dict):
            loaded[column] = {**loaded[column]}
    for _, hook in BEFORE_INSERT.hooks:
        hook(job)


class Hooks:
    """What is attached to one moment; callers look first whether `hooks` is empty, as it nearly always is.

    `hooks` is replaced as a whole under the lock and never changed in place, so that it is read without one.
    """

    __slots__ = ("hooks",)

    def __init__(self) -> None:
        self.hooks: tuple[tuple[object, Hook], ...] = ()

    def add(self, hook: Hook) -> Callable[[], None]:
        if not callable(hook):
            raise TypeError(f"a hook is a function of one job, not {hook!r}")
        if callables.is_async(hook) or callables.yields(hook):
            # What it gives would not be awaited, so it would never run.
            how = "yields" if callables.yields(hook) else "is async"
            raise TypeError(f"a hook is called where the job is made, and {callables.named(hook)} {how}; write `def`")
        registration = (object(), hook)
        with _lock:
            self.hooks = (*self.hooks, registration)

        def remove() -> None:
            with _lock:
                self.hooks = tuple(kept for kept in self.hooks if kept is not registration)

        return remove


_lock = threading.Lock()
AFTER_NEW: Final = Hooks()
BEFORE_INSERT: Final = Hooks()
