"""The garbage collector of a command: off while the command imports what it consists of, which never becomes garbage.

Collections would go through all of it again and again: while it is imported, and later while jobs run. What a program
does that only imports oban_sa is left alone.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

from oban_sa.service.early_signals import is_command

MEMBER: Final = "oban_sa.service.member_main"
"""The module by which one of several runners is started."""


def _off() -> bool:
    if not gc.isenabled() or not (is_command(sys.orig_argv) or MEMBER in sys.orig_argv):
        return False
    gc.disable()
    return True


off: Final = _off()
"""Whether this process is such a command."""


def imported() -> None:
    """Collect again, but nothing of what exists by now: the command consists of it.

    Without a collection before: that takes 40 ms, and finds less than a megabyte.
    """
    if off:
        gc.freeze()
        gc.enable()


def loaded() -> None:
    """Leave alone, too, what the application's modules have made; what they threw away is collected first."""
    gc.collect()
    gc.freeze()
