"""What can be said about an exception, whatever it is; nothing here ever raises.

An exception comes from code of others. Its `__str__` may raise or give a hundred megabytes, its class may refuse that
anything is set on it, its chain may be a circle. The failure that it stands for must still be told.
"""

from __future__ import annotations

import traceback as tracebacks
from types import TracebackType
from typing import Any, Final, cast

from oban_sa import printable
from oban_sa.errors import ObanError

MAX_MESSAGE: Final = 8_000
"""Characters of a message that are kept; of a longer one the head and the tail."""

_MAX_LINE: Final = 1_000

# The real ones: a class may have properties of these names, and a metaclass too.
_NAME: Final[Any] = type.__dict__["__name__"].__get__
_TRACEBACK: Final[Any] = vars(BaseException)["__traceback__"]
_CAUSE: Final[Any] = vars(BaseException)["__cause__"]
_CONTEXT: Final[Any] = vars(BaseException)["__context__"]


def kind(error: object) -> str:
    """Return the name of the class of an exception."""
    return cast("str", _NAME(type(error)))


def message(error: object, limit: int = MAX_MESSAGE) -> str:
    """Return what an exception, or any other value, says of itself; of a long text the head and the tail."""
    try:
        # What __str__ returns may be of a class derived from str, which does as it pleases.
        text = str.__str__(str(error))
    except BaseException:
        return f"<str() of this {kind(error)} failed>"
    return bounded(text, limit)


def describe(error: BaseException) -> str:
    """Return an exception on one line, its class and its message: blanks for line ends, escapes for the rest."""
    return _line(error, " ".join(message(error).split()))


def named(error: BaseException | None) -> str:
    """Return the class of an exception and the first line of what it says, for a line of a log."""
    if error is None:
        return "unknown error"
    lines = message(error).strip().splitlines()
    return _line(error, lines[0] if lines else "")


def shown(value: object, limit: int = _MAX_LINE) -> str:
    """Return the repr of a value on one line, or what class it is of; of a long one the head and the tail."""
    try:
        text = str.__str__(repr(value))
    except BaseException:
        return f"<repr() of this {kind(value)} failed>"
    return _on_one_line(text, limit)


def is_traced(error: BaseException) -> bool:
    """Whether the traceback of an exception tells more than its message."""
    try:
        return not isinstance(error, ObanError) or bool(error.traced)
    except BaseException:
        return True


def traceback(error: BaseException) -> str:
    """Return the traceback of an exception with its causes, as Python shows it; as much of it as can be made."""
    return traceback_from(error, traceback_of(error))


def traceback_from(error: BaseException, begin: TracebackType | None) -> str:
    """Return the same with a traceback of its own that begins elsewhere."""
    try:
        return "".join(tracebacks.TracebackException(type(error), error, begin, compact=True).format())
    except BaseException:  # it looks at attributes of the exception and of its causes, any of which may raise
        last = f"{kind(error)}: {message(error)}\n"
    try:
        frames = "".join(tracebacks.format_tb(begin))
    except BaseException:
        return last
    return f"Traceback (most recent call last):\n{frames}{last}" if frames else last


def bounded(text: str, limit: int) -> str:
    """Return the text, or of one longer than `limit` its head and its tail, and how much is left out."""
    if len(text) <= limit:
        return text
    head = limit // 3
    tail = limit - head - 60
    return f"{text[:head]}\n... {len(text) - head - tail} characters left out ...\n{text[-tail:]}"


# Setting an attribute may be refused too: a frozen dataclass does.


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return where an exception came from, as Python holds it."""
    return cast("TracebackType | None", _TRACEBACK.__get__(error)) if _is_real(error) else None


def set_traceback(error: BaseException, begin: TracebackType | None) -> None:
    """Set where the traceback of an exception begins."""
    if _is_real(error):
        _TRACEBACK.__set__(error, begin)


def set_cause(error: BaseException, cause: BaseException | None) -> None:
    """Set what an exception was raised from."""
    if _is_real(error):
        _CAUSE.__set__(error, cause)


def set_context(error: BaseException, context: BaseException | None) -> None:
    """Set what was handled when an exception was raised."""
    if _is_real(error):
        _CONTEXT.__set__(error, context)


def _is_real(error: object) -> bool:
    """Whether it is an exception, and doesn't only say so, as the stand-ins of tests do."""
    return issubclass(type(error), BaseException)


def _line(error: BaseException, text: str) -> str:
    name = printable.line(kind(error))
    return f"{name}: {_on_one_line(text)}" if text else name


def _on_one_line(text: str, limit: int = _MAX_LINE) -> str:
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {len(text) - limit} characters left out ... {text[-limit // 2 :]}"
    return printable.line(text)
