"""JSON read and written exactly, with numbers of any size and containers of any depth."""

# This file reads and writes values of any type; strict pyright wants a cast for each of them.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import orjson

INDENTED: Final = 50
"""Levels that are written on lines of their own; deeper containers are written on one line."""

# Nineteen digits are searched for by translate(), since it is done for every text: a regular expression takes ten times
# as long.
_DIGITS: Final = bytes(48 if 48 <= code < 58 else 32 for code in range(256))
_DIGITS_BEYOND_64_BITS: Final = 19
_LONG: Final = b"0" * _DIGITS_BEYOND_64_BITS
_WHOLE: Final = frozenset({str, int, bool, type(None)})
_TOKENS: Final = re.compile(r'[\[\]{}]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s\[\]{},:"]+', re.DOTALL).findall


def read(text: str | bytes) -> Any:
    """Read JSON text exactly; raises `ValueError` where it is none.

    Integers of any size are ints. A number that is neither an int (beyond 4,300 digits, Python's limit) nor a finite
    float is a Decimal. Lists and objects may be nested to any depth.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _exactly(text)
    # orjson turns integers beyond 64 bits, of nineteen digits or more, into floats without an error.
    if len(text) < _DIGITS_BEYOND_64_BITS:
        return value
    # Most args are flat and have no float, which is four times faster to find out than that no such integer is there.
    if type(value) is dict and _WHOLE.issuperset(map(type, value.values())):
        return value
    written = text if isinstance(text, bytes) else text.encode()
    return _exactly(text) if _LONG in written.translate(_DIGITS) else value


def _exactly(text: str | bytes) -> object:
    if isinstance(text, bytes):
        text = text.decode()
    try:
        return _EXACT.decode(text)
    except RecursionError:
        return _unnested(text)


def _unnested(text: str) -> object:
    """Read well-formed JSON without a frame for each level."""
    found: list[Any] = []
    around: list[Any] = [found]
    keys: list[str | None] = [None]
    for token in _TOKENS(text):
        if token in ("]", "}"):
            around.pop()
            keys.pop()
            continue
        inside: Any = around[-1]
        named = type(inside) is dict
        if named and keys[-1] is None:
            keys[-1] = _EXACT.decode(token)
            continue
        value: Any = [] if token == "[" else {} if token == "{" else _EXACT.decode(token)  # noqa: S105
        if named:
            inside[keys[-1]] = value
            keys[-1] = None
        else:
            inside.append(value)  # pyright: ignore[reportAttributeAccessIssue]
        if token in ("[", "{"):
            around.append(value)
            keys.append(None)
    return found[0]


def _integer(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:  # more digits than sys.get_int_max_str_digits(), since int() takes quadratic time
        return Decimal(digits)


def _float(digits: str) -> float | Decimal:
    number = float(digits)
    return number if math.isfinite(number) else Decimal(digits)


_EXACT: Final = json.JSONDecoder(parse_int=_integer, parse_float=_float)


def write(value: object, *, indent: bool = False, default: Callable[[object], str] = str) -> str:
    """Write a value as JSON, on one line or, with `indent`, on several; never raises.

    A value of a type that JSON doesn't have is written as the text that `default` returns for it, NaN and infinities
    as null, a container inside itself as "...".
    """

    def other(value: object) -> str:
        if isinstance(value, Decimal):
            raise TypeError("a Decimal is written as a number, by _scalar")
        return default(value)

    try:
        return orjson.dumps(value, default=other, option=_INDENT if indent else _COMPACT).decode()
    except Exception:  # integers beyond 64 bits, keys that are no str, more levels than orjson writes, cycles
        return _written(value, indent=indent, default=default)


_COMPACT: Final = orjson.OPT_PASSTHROUGH_DATACLASS
_INDENT: Final = _COMPACT | orjson.OPT_INDENT_2


class _Leave:
    """Marks in the stack of `_written` where a container ends; `identity` is its id()."""

    __slots__ = ("identity",)

    def __init__(self, identity: int) -> None:
        self.identity = identity


def _written(value: object, *, indent: bool, default: Callable[[object], str]) -> str:
    pieces: list[str] = []
    inside: set[int] = set()
    # A stack of what is still to be written: text, and values in a tuple with their level.
    todo: list[str | _Leave | tuple[object, int]] = [(value, 0)]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            pieces.append(item)
        elif isinstance(item, _Leave):
            inside.discard(item.identity)
        else:
            value, level = item
            if not isinstance(value, (dict, list, tuple)):
                pieces.append(_scalar(value, default))
            elif not value:
                pieces.append("{}" if isinstance(value, dict) else "[]")
            elif id(value) in inside:
                pieces.append('"..."')
            else:
                inside.add(id(value))
                todo.append(_Leave(id(value)))
                todo.extend(reversed(_members(value, level, indent=indent, default=default)))
    return "".join(pieces)


def _members(
    value: dict[object, object] | list[object] | tuple[object, ...],
    level: int,
    *,
    indent: bool,
    default: Callable[[object], str],
) -> list[str | _Leave | tuple[object, int]]:
    indent = indent and level < INDENTED
    inner, outer = ("\n" + "  " * (level + 1), "\n" + "  " * level) if indent else ("", "")
    colon = ": " if indent else ":"
    named = isinstance(value, dict)
    parts: list[str | _Leave | tuple[object, int]] = ["{" if named else "["]
    for number, item in enumerate(value):
        parts.append(("," if number else "") + inner)
        if isinstance(value, dict):
            parts += [_key(item, default) + colon, (value[item], level + 1)]
        else:
            parts.append((item, level + 1))
    parts.append(outer + ("}" if named else "]"))
    return parts


def _key(key: object, default: Callable[[object], str]) -> str:
    if isinstance(key, str):
        return _scalar(key, default)
    return _scalar(_scalar(key, default).strip('"'), default)


def _scalar(value: object, default: Callable[[object], str]) -> str:
    if isinstance(value, str):
        return json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False)
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, int) and not isinstance(value, bool):
        return format(Decimal(value), "f")  # str() of an int has a limit of digits
    try:
        return orjson.dumps(value, default=default).decode()
    except Exception:
        try:
            return _scalar(str(default(value)), default)
        except Exception:
            return f'"<{type(value).__name__}>"'
