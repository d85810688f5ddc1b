"""An error raised in a thread from outside of it, at its next Python instruction.

Python looks for such an error where a function begins, at the end of each turn of a loop, and after each call of a
function written in C, and nowhere between. So a line here is sometimes one line for that reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from typing import Any, Final

# A prototype of our own: types given to `ctypes.pythonapi.PyThreadState_SetAsyncExc` would change for all its users.
_raise: Any = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

_SPINS: Final = sys.version_info < (3, 12)


class Target:
    """A thread, and whether errors may be raised in it just now.

    The thread itself says when no more may be: `open = False`, an assignment, is all it takes. What was sent before is
    met at the next instruction, of `met` for example.
    """

    __slots__ = ("open", "thread_id")

    def __init__(self) -> None:
        self.open = False
        self.thread_id = 0

    def strike(self, error: type[BaseException]) -> bool:
        """Raise an error there if that may be; returns whether it was sent. One that was not met yet is replaced."""
        me = threading.get_ident()
        # One line: Python changes threads at none of its instructions, so the target is still open when it is struck.
        sent = self.open and _raise(self.thread_id, error) > 0
        if not (_SPINS and sent):
            return bool(sent)
        # Python 3.11 has one mark for all threads which says that some error waits to be met somewhere. A thread with a
        # trace or profile function that enters a function meanwhile looks for it again and again, and does nothing else
        # until the mark is gone: this one, the heartbeat's, all of them, for as long as the target waits inside C. So
        # this thread meets an error too, which takes the mark away; the target's is still there when it goes on. No
        # function must be entered before that.
        try:
            _raise(me, _Passing)
            for _ in _TURNS:
                pass
        except _Passing:
            pass
        except BaseException:  # the handler of a signal was first
            with contextlib.suppress(_Passing):
                for _ in _TURNS:
                    pass
            raise
        return True


def met() -> None:
    """Meet here, in this thread, what was sent to it: nothing that was sent before is raised after this."""


class _Passing(BaseException):
    """Raised by a thread in itself, and caught at once."""


_TURNS: Final = range(1000)
"""One is enough; an end, in case a trace function has caught it."""
