"""What can't be written as JSON: where it stands, what is wrong with it, and what to write instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from os import PathLike
from typing import Final
from uuid import UUID

from oban_sa.errors import InvalidArguments, articled

SECRET: Final = "give the worker what it needs to look the secret up, or, if it may be stored, take it as a str"  # noqa: S105
"""What to do about a secret, which its own class masks wherever it is written."""

_STEPS_SHOWN: Final = 20


class NotJSONError(Exception):
    """A value that can't be written, on its way up; each container that it stands in adds a step."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[object] = []


def invalid(refused: NotJSONError, where: str) -> InvalidArguments:
    """Return the error that users see, with the path from `where`."""
    steps = "".join(_step(step) for step in reversed(refused.steps[-_STEPS_SHOWN:]))
    path = where + steps + ("..." if len(refused.steps) > _STEPS_SHOWN else "")
    return InvalidArguments(f"{path} {refused.reason}", path=path)


def _step(step: object) -> str:
    if isinstance(step, str):
        if step.isidentifier() and len(step) <= 80:
            return f".{step}"
        return f"[{_shortened(json.dumps(step))}]"
    return f"[{_shortened(repr(step))}]"


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]}...{text[-16:]}"


def check_text(text: str, prefix: str = "") -> None:
    """Accept text that PostgreSQL can store."""
    if "\0" in text:
        raise NotJSONError(
            prefix + 'contains a NUL character, which PostgreSQL can\'t store; remove it: .replace("\\0", "")'
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotJSONError(
            prefix + 'contains a lone surrogate, which is no character; write .encode("utf-8", "replace").decode()'
        ) from None


def instead(value: object, kind: type) -> str:
    """Say what to write instead of a value of a class that JSON can't hold.

    A class of our own says so itself, as `INSTEAD`.
    """
    if isinstance(ours := getattr(kind, "INSTEAD", None), str) and kind.__module__.startswith("oban_sa."):
        return ours
    if isinstance(value, (set, frozenset)):
        return "write sorted(value) or list(value)"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "write text: .decode(), .hex() or base64"
    if isinstance(value, timedelta):
        return "write value.total_seconds()"
    if isinstance(value, complex):
        return "write [value.real, value.imag]"
    if isinstance(value, PathLike):
        return "write str(value)"
    if isinstance(value, Mapping):
        return "write dict(value)"
    if callable(getattr(kind, "tolist", None)):
        return "write value.tolist()"
    if callable(getattr(kind, "__await__", None)):
        return "await it first"
    if callable(getattr(kind, "__iter__", None)):
        return "write list(value)"
    if hasattr(kind, "get_secret_value"):
        return SECRET
    return "write a dict, a dataclass or text"


def key_instead(key: object) -> str:
    """Say what to write instead of a key that is no text."""
    return "write str(key)" if isinstance(key, (int, float, UUID, Decimal, date)) else "write text"


def unreadable(value: object, error: Exception) -> NotJSONError:
    """Return what refuses a value whose own class fails to give its parts."""
    return NotJSONError(f"is {articled(type(value).__name__)} that can't be read ({error}); write a plain one")


def not_finite(value: float) -> NotJSONError:
    """Return what refuses a float that is no number."""
    return NotJSONError(f"is {value}, which JSON can't hold; write None or a text")
