"""The part of a traceback that tells a worker's author something."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final

from oban_sa import errors
from oban_sa.workers import class_body, definition, function_body

PACKAGE: Final = os.path.dirname(os.path.abspath(errors.__file__)) + os.sep
"""The folder in which all files of ours are."""

_CALLS_CODE: Final = frozenset(each.__file__ for each in (definition, class_body, function_body))


def of_the_worker(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the worker's code; how that was called tells no one anything."""
    # On the way into a thread with a session lie an event loop and SQLAlchemy, too.
    step = traceback
    while step is not None:
        if step.tb_frame.f_code.co_filename in _CALLS_CODE:
            traceback = step
            break
        step = step.tb_next
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(PACKAGE):
        traceback = traceback.tb_next
    return traceback
