"""Exceptions as code of others may raise them: each is broken in a way of its own, and stands for a failure all the
same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")

    __repr__ = __str__


class Quitting(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


class Numeric(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class OddText(str):
    def __str__(self) -> str:
        raise RuntimeError("no text after all")

    splitlines = strip = split = __format__ = __len__ = __getitem__ = __str__  # type: ignore[assignment]


class Texted(Exception):
    def __str__(self) -> str:
        return OddText("odd text")


@dataclass(frozen=True)
class Frozen(Exception):
    code: int = 3


class Closed(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} can't be set")


class Hiding(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no traceback")

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no cause")

    @property
    def __context__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no context")

    @property
    def __notes__(self) -> Any:
        raise RuntimeError("no notes")


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Anonymous(Exception, metaclass=_Nameless):
    pass


class BadlyNoted(Exception):
    __notes__ = 7


def _circle() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def _noted() -> Exception:
    error = ValueError("noted")
    error.add_note("\x1b[2J\nforged note")
    return error


def _syntax() -> Exception:
    error = SyntaxError("odd")
    error.lineno, error.offset, error.text, error.filename = "x", "y", 7, 8  # type: ignore[assignment]
    return error


HOSTILE: Final[dict[str, tuple[str, Callable[[], Exception]]]] = {
    "a __str__ that raises": ("Unprintable", Unprintable),
    "a __str__ that exits": ("Quitting", Quitting),
    "a __str__ that returns a number": ("Numeric", Numeric),
    "a __str__ that returns an odd text": ("Texted", Texted),
    "a frozen dataclass": ("Frozen", Frozen),
    "nothing can be set": ("Closed", Closed),
    "nothing can be read": ("Hiding", Hiding),
    "no name": ("Anonymous", Anonymous),
    "odd notes": ("BadlyNoted", BadlyNoted),
    "a circle of causes": ("ValueError", _circle),
    "a group of such": ("ExceptionGroup", lambda: ExceptionGroup("several", [Unprintable(), Hiding(), Frozen()])),
    "a huge text": ("ValueError", lambda: ValueError("x" * 3_000_000)),
    "NUL and a lone surrogate": ("ValueError", lambda: ValueError("a\0b\ud800c")),
    "lines and escapes": ("ValueError", lambda: ValueError("\x1b[2J\r\n2026-01-01 00:00:00.000 INFO    forged\u2028x")),
    "a note": ("ValueError", _noted),
    "an odd SyntaxError": ("SyntaxError", _syntax),
    "an argument without repr": ("KeyError", lambda: KeyError(Unprintable())),
}
"""What is odd about it, the name of its class, and the way to make one."""


def raised(error: BaseException) -> BaseException:
    """The exception, as it was raised here."""
    try:
        raise error
    except BaseException as caught:
        return caught
