"""What users may attach on the enqueueing side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

Hook: TypeAlias = Callable[[Any], object]
"""A function of one `Job`; what it returns is ignored."""

# Replaced as a whole under the lock and never changed in place, so that `made` reads it without one.
_after_new: tuple[tuple[object, Hook], ...] = ()
_lock = threading.Lock()


def after_new(hook: Hook) -> Callable[[], None]:
    """Call `hook` with every job that the constructor makes, and return a function that removes it again.

    Jobs loaded from rows are not shown to it. Hooks run in the order they were added, in the thread that makes the
    job; what one raises reaches whoever made the job. A hook added twice is called twice. Removing twice is harmless.
    """
    if not callable(hook):
        raise TypeError(f"a hook is a function of one job, not {hook!r}")
    global _after_new
    registration = (object(), hook)
    with _lock:
        _after_new = (*_after_new, registration)

    def remove() -> None:
        global _after_new
        with _lock:
            _after_new = tuple(kept for kept in _after_new if kept is not registration)

    return remove


def made(job: Any) -> None:
    """Show a job that was just made to every hook."""
    for _, hook in _after_new:
        hook(job)
