"""Names, messages and tracebacks of exceptions from foreign code; nothing here ever raises.

The `__str__` of an exception may raise or return a hundred megabytes, its class may refuse every attribute that is set,
its chain of causes may be a circle. The failure must be recorded all the same.
"""

from __future__ import annotations

import traceback as tracebacks
from types import TracebackType
from typing import Any, Final, cast

from oban_sa.describe import printable
from oban_sa.errors import ObanError

MAX_MESSAGE: Final = 8_000
"""Characters of a message that are kept; of a longer one the head and the tail."""

_MAX_LINE: Final = 1_000

# The descriptors of Python itself: a class or a metaclass may have properties of the same names.
_NAME: Final[Any] = type.__dict__["__name__"].__get__
_TRACEBACK: Final[Any] = vars(BaseException)["__traceback__"]
_CAUSE: Final[Any] = vars(BaseException)["__cause__"]


def kind(error: object) -> str:
    """Return the name of the class of an exception."""
    return cast("str", _NAME(type(error)))


def message(error: object, limit: int = MAX_MESSAGE) -> str:
    """Return the str() of an exception or any other value; of a long text the head and the tail."""
    try:
        # __str__ may return a subclass of str, with methods of its own.
        text = str.__str__(str(error))
    except BaseException:
        return f"<str() of this {kind(error)} failed>"
    return bounded(text, limit)


def describe(error: BaseException) -> str:
    """Return the class and the message of an exception on one line: blanks for line ends, escapes for controls."""
    return _line(error, " ".join(message(error).split()))


def named(error: BaseException | None) -> str:
    """Return the class of an exception and the first line of its message, for a line of a log."""
    if error is None:
        return "unknown error"
    lines = message(error).strip().splitlines()
    return _line(error, lines[0] if lines else "")


def shown(value: object, limit: int = _MAX_LINE) -> str:
    """Return the repr() of a value on one line, or its class where that fails; of a long one the head and the tail."""
    try:
        text = str.__str__(repr(value))
    except BaseException:
        return f"<repr() of this {kind(value)} failed>"
    return _on_one_line(text, limit)


def is_traced(error: BaseException) -> bool:
    """Return whether logs show the traceback of an exception; see `ObanError.traced`."""
    try:
        return not isinstance(error, ObanError) or bool(error.traced)
    except BaseException:
        return True


def traceback(error: BaseException) -> str:
    """Return the traceback of an exception with its causes, as Python prints it; where that fails, its own frames."""
    return traceback_from(error, traceback_of(error))


def traceback_from(error: BaseException, begin: TracebackType | None) -> str:
    """Return the same with `begin` as the first frame of the exception's own traceback."""
    try:
        return "".join(tracebacks.TracebackException(type(error), error, begin, compact=True).format())
    except BaseException:  # it reads attributes of the exception and of its causes, any of which may raise
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


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the traceback object of an exception."""
    return cast("TracebackType | None", _TRACEBACK.__get__(error)) if _is_real(error) else None


def set_traceback(error: BaseException, begin: TracebackType | None) -> None:
    """Set the traceback of an exception, also of a class that refuses attributes, such as a frozen dataclass."""
    if _is_real(error):
        _TRACEBACK.__set__(error, begin)


def set_cause(error: BaseException, cause: BaseException | None) -> None:
    """Set the `__cause__` of an exception, as `set_traceback` does."""
    if _is_real(error):
        _CAUSE.__set__(error, cause)


def _is_real(error: object) -> bool:
    """Return whether it is an exception, and not a mock with the class of one."""
    return issubclass(type(error), BaseException)


def _line(error: BaseException, text: str) -> str:
    name = printable.line(kind(error))
    return f"{name}: {_on_one_line(text)}" if text else name


def _on_one_line(text: str, limit: int = _MAX_LINE) -> str:
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {len(text) - limit} characters left out ... {text[-limit // 2 :]}"
    return printable.line(text)
