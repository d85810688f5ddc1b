"""What a job's meta says of its journal, and of what the job waits for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

from oban_sa.errors import InvalidOption, Suspended, shown
from oban_sa.jobs.flow import LANES
from oban_sa.jobs.unwritable import NotJSONError, check_text
from oban_sa.jobs.values import JSONDict

JOURNAL: Final = "journal"
"""The key in a job's meta that says that it has a journal, which its next attempt reads before the code begins."""

WAITS_FOR: Final = "waits_for"
"""The key for the name of the signal that it is suspended for; null while it waits for none."""

WAIT_UNTIL: Final = "wait_until"
"""The key for when a suspended job goes on at the latest: unix milliseconds, or "infinity"; Oban Web shows it."""

PROGRESS: Final = ":progress"
"""The name of the entry in a job's journal that has its progress."""

RELAY: Final = "relay"
"""The key in a job's meta that says that a program waits for its end, and is to be told."""

WAKING: Final = LANES
"""The lane for notes that a suspended job may have a signal, behind those of flows."""


LONGEST: Final = 300
"""Characters of the name of a step or a signal."""


def checked_name(name: object, what: str, example: str) -> str:
    """Return the name of a step or a signal, which `wait_for` has as both; raises InvalidOption for what can't be one.

    The journal numbers names that are used again, such as 'charge#2', and has entries of its own behind a colon.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST:
        raise InvalidOption(f"{what} has a name of 1 to {LONGEST} characters, such as {example!r}, not {shown(name)}")
    if name.startswith(":") or re.search(r"#\d+$", name):
        raise InvalidOption(f"the name of {what} can't begin with ':' or end with a number like '#2', as {name!r}")
    try:
        check_text(name)
    except NotJSONError as refused:
        raise InvalidOption(f"the name of {what} {refused}") from None
    return name


def waiting(*, until: int | None, signal: str | None = None) -> JSONDict:
    """Return the meta of a job that is suspended."""
    return {JOURNAL: True, WAIT_UNTIL: "infinity" if until is None else until, WAITS_FOR: signal}


def resumed(meta: Mapping[str, object] | None) -> JSONDict | None:
    """Return what clears the meta of a job that was suspended; None where it says nothing of that."""
    if not meta or (meta.get(WAIT_UNTIL) is None and meta.get(WAITS_FOR) is None):
        return None
    return {WAIT_UNTIL: None, WAITS_FOR: None}


def suspension(error: BaseException) -> Suspended | None:
    """Return the `Suspended` that an error is, or a group that holds nothing else; of several the one due first."""
    if isinstance(error, Suspended):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    inside = cast("tuple[BaseException, ...]", error.exceptions)
    found = [suspension(each) for each in inside]
    suspended = [each for each in found if each is not None]
    if len(suspended) < len(found):
        return None
    return min(suspended, key=lambda each: float("inf") if each.delay is None else each.delay)
