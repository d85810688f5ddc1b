"""Python values to JSON and back: what is refused, and where it stands.

What becomes what, beside JSON's own types:

- a datetime, date or time: ISO 8601 text. An aware datetime has its offset; a naive one has none, so that it is read
  back as it was written (`datetime.fromisoformat` takes both).
- UUID and Decimal: text. An Enum: its value. A tuple: a list. A subclass of str, int, float, list or dict: the plain
  one.
- a dataclass: an object of its fields. A pydantic model: what it dumps as JSON, by the names of its fields. A msgspec
  Struct: its builtins.

A `Reference` is left where it stands; `replace_references` puts the value there later. A mapped object is refused,
unless the caller says what becomes of it.
"""

# Values of any type are what this file is about; strict pyright would have each of them cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeAlias, TypeGuard
from uuid import UUID

import orjson

from oban_sa.errors import ObanError, articled
from oban_sa.jobs import dump
from oban_sa.jobs.references import Reference
from oban_sa.jobs.unwritable import NotJSONError, check_text, instead, invalid, key_instead, not_finite, unreadable

TRACE_KEYS: Final = ("traceparent", "tracestate", "baggage", "sentry-trace")
"""Under these names a job's meta has the context of a trace (W3C Trace Context, Baggage, Sentry), which is no part of
what the job is about."""

JSONDict: TypeAlias = dict[str, Any]
"""A JSON object, such as the args of a job; what is in it only the program knows that wrote it."""

MAX_DEPTH: Final = 200
"""Lists and objects inside each other; orjson writes no more than 254 of them."""

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_LEAVES: Final = frozenset({str, int, float, bool, type(None), UUID})
_CONTAINERS: Final = frozenset({dict, list, tuple})
_AT_ONCE: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_STRICT_INTEGER  # of 53 bits; without it, integers of 64 bits that have no sign would pass
)
"""What orjson is to leave to us, because we write it otherwise."""


class Typed:
    """How values are written that an annotation reads: sets as lists, and keys that are no text as text.

    `used` tells whether there were any: untyped JSON refuses them, because they would come back as something else.
    """

    __slots__ = ("mapped", "used")
    takes_more = True

    def __init__(self, mapped: Callable[[object], Reference] | None = None) -> None:
        self.mapped = mapped
        self.used = False


class _Untyped(Typed):
    __slots__ = ()
    takes_more = False


_UNTYPED: Final = _Untyped()


def to_json(
    value: Any,
    *,
    where: str = "args",
    mapped: Callable[[object], Reference] | None = None,
    typed: Typed | None = None,
) -> Any:
    """Return `value` as plain JSON values in new containers, with every `Reference` left in place.

    `mapped` gives what stands in place of a mapped object. With `typed`, which may have a `mapped` of its own, sets and
    keys that are no text are written as well. Raises `InvalidArguments` for anything JSON or PostgreSQL can't hold; its
    `path` starts with `where`.
    """
    if typed is None:
        typed = _UNTYPED if mapped is None else _Untyped(mapped)
    try:
        return _plain(value, 0, typed)
    except NotJSONError as refused:
        raise invalid(refused, where) from refused.__cause__
    except RecursionError:  # the caller's own stack was nearly used up
        raise invalid(_too_deep(), where) from None


def refusal(value: object, *, mapped: Callable[[object], Reference]) -> NotJSONError | None:
    """Return why a value can't be untyped JSON, with the steps that lead to the reason; None where it can."""
    try:
        _plain(value, 0, _Untyped(mapped))
    except NotJSONError as refused:
        return refused
    except RecursionError:
        return _too_deep()
    return None


def from_json(text: str | bytes) -> Any:
    """Read JSON; raises `ValueError` where it is none."""
    return orjson.loads(text)


def dumps(value: Any) -> str:
    """Write plain JSON values, as `to_json` returns them, as text."""
    return orjson.dumps(value).decode()


def dumps_at_once(value: Any) -> bytes | None:
    """Write a value as JSON, the same text as `to_json` and `dumps` lead to, in one go; None where that can't be.

    None says that something has to be converted, refused or looked at more closely, which is for `to_json` to do.
    """
    try:
        written = orjson.dumps(value, option=_AT_ONCE)
        # An orjson.Fragment is written as it is, be it JSON or not; an Enum's value may be one.
        if type(value) not in _LEAVES and (type(value) not in _CONTAINERS or not _is_plain(value)):
            return None
    except (TypeError, RecursionError):
        return None
    # A null may have been a NaN, and what looks like an escaped NUL may be one. What is shorter than two characters
    # for each level can't be nested too deep, and neither can what opens too little.
    if b"null" in written or b"\\u0000" in written:
        return None
    if len(written) > 2 * MAX_DEPTH and written.count(b"{") + written.count(b"[") > MAX_DEPTH:
        return None
    return written


def _is_plain(value: Any) -> bool:
    """Whether a list or an object holds nothing but JSON's own types and UUIDs."""
    items = value.values() if type(value) is dict else value
    if _LEAVES.issuperset(map(type, items)):
        return True
    for item in items:
        kind = type(item)
        if kind not in _LEAVES and (kind not in _CONTAINERS or not _is_plain(item)):
            return False
    return True


def is_object(value: object) -> TypeGuard[JSONDict]:
    """Tell whether a JSON value is an object."""
    return isinstance(value, dict)


def is_flat(value: object) -> bool:
    """Tell whether `to_json` would make an equal dict, without anything inside another; False says that it has to look.

    Also True for an empty one and for None. Most args are flat, and this is all they need.
    """
    if type(value) is not dict:
        return value is None
    for key, item in value.items():
        kind = type(item)
        if kind is str:
            if not item.isascii() or "\0" in item:
                return False
        elif kind is int:
            if not _SMALLEST <= item <= _LARGEST:
                return False
        elif item is not None and kind is not bool:
            return False
        if type(key) is not str or not key.isascii() or "\0" in key:
            return False
    return True


def has_references(value: Any) -> bool:
    """Tell whether a `Reference` stands anywhere inside plain JSON values."""
    kind = type(value)
    if kind is not dict and kind is not list:
        return kind is Reference
    for item in value.values() if kind is dict else value:
        kind = type(item)
        if kind is Reference or ((kind is dict or kind is list) and has_references(item)):
            return True
    return False


def replace_references(value: object, resolve: Callable[[Reference], object], *, where: str = "args") -> Any:
    """Return plain JSON values in new containers, with what `resolve` returns in place of every `Reference`.

    A resolved value becomes JSON as any other does, so a key may be a UUID; it is refused in the same way.
    """
    try:
        return _replaced(value, resolve)
    except NotJSONError as refused:
        raise invalid(refused, where) from refused.__cause__


def _plain(value: Any, depth: int, typed: Typed) -> Any:
    # Ordered by how often a kind occurs; `type` instead of isinstance, which a bool would pass as an int.
    kind = type(value)
    if kind is str:
        if "\0" in value or not value.isascii():
            check_text(value)
        return value
    if kind is int:
        if _SMALLEST <= value <= _LARGEST:
            return value
        raise NotJSONError("is an integer outside 64 bits; write it as text: str(value)")
    if value is None or kind is bool:
        return value
    if kind is dict:
        return _plain_object(value, depth, typed)
    if kind is list or kind is tuple:
        return _plain_list(value, depth, typed)
    if kind is float:
        if math.isfinite(value):
            return value
        raise not_finite(value)
    return _converted(value, kind, depth, typed)


def _plain_object(value: Mapping[Any, Any], depth: int, typed: Typed) -> JSONDict:
    if depth >= MAX_DEPTH:
        raise _too_deep()
    depth += 1
    plain: JSONDict = {}
    key: object = None
    converted = False
    try:
        for key, item in value.items():
            kind = type(item)
            if type(key) is not str or "\0" in key or not key.isascii():
                converted = True
                plain[_plain_key(key, typed)] = _plain(item, depth, typed)
            # The two commonest kinds once more, to save a call for each.
            elif (kind is str and item.isascii() and "\0" not in item) or (
                kind is int and _SMALLEST <= item <= _LARGEST
            ):
                plain[key] = item
            else:
                plain[key] = _plain(item, depth, typed)
    except NotJSONError as refused:
        refused.steps.append(key)
        raise
    except (RecursionError, ObanError):
        raise
    except Exception as error:
        raise unreadable(value, error) from error
    if converted and len(plain) < len(value):
        raise NotJSONError("has two keys that are the same text once they are written; keep one")
    return plain


def _plain_list(value: Any, depth: int, typed: Typed) -> list[object]:
    if depth >= MAX_DEPTH:
        raise _too_deep()
    depth += 1
    plain: list[object] = []
    try:
        for item in value:
            plain.append(_plain(item, depth, typed))  # noqa: PERF401 - its length says where a refused item stands
    except NotJSONError as refused:
        refused.steps.append(len(plain))
        raise
    except (RecursionError, ObanError):
        raise
    except Exception as error:
        raise unreadable(value, error) from error
    return plain


def _converted(value: Any, kind: type, depth: int, typed: Typed) -> Any:
    if kind is Reference or isinstance(value, Reference):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, depth, typed)
    if isinstance(value, str):
        return _plain(str.__str__(value), depth, typed)
    if isinstance(value, int):
        return _plain(int.__index__(value), depth, typed)
    if isinstance(value, float):
        return _plain(float.__float__(value), depth, typed)
    if isinstance(value, dict):
        return _plain_object(value, depth, typed)
    if isinstance(value, (list, tuple)):
        return _plain_list(value, depth, typed)
    if isinstance(value, (set, frozenset)) and typed.takes_more:
        typed.used = True
        return dump.in_order(_plain_list(value, depth, typed))
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        if value.is_finite():
            return str(value)
        raise NotJSONError(f"is Decimal({str(value)!r}), which is no number; write None or a text")
    if isinstance(value, type):
        raise NotJSONError(f"is the class {value.__name__}, not a value; write what it stands for as text")
    if hasattr(kind, "__mapper__"):
        if typed.mapped is None:
            raise NotJSONError(
                f"is a mapped {kind.__name__}; write ref(obj) for its key, or the attributes that are needed, "
                f"or give it to a worker whose parameter is annotated as {kind.__name__}"
            )
        return typed.mapped(value)
    return _plain_model(value, kind, depth, typed)


def _plain_model(value: Any, kind: type, depth: int, typed: Typed) -> Any:
    if depth >= MAX_DEPTH:  # a model may give itself
        raise _too_deep()
    if dump.is_foreign(value, kind):
        return _plain(dump.dumped(value, kind, mapped=typed.mapped is not None), depth + 1, typed)
    if dataclasses.is_dataclass(value):
        return _plain_object({each.name: getattr(value, each.name) for each in dataclasses.fields(value)}, depth, typed)
    raise NotJSONError(f"is {articled(kind.__name__)}, which JSON can't hold; {instead(value, kind)}")


def key_text(key: object) -> str | None:
    """Return what is written of a key that is no text, or None for one that has no text of its own."""
    if isinstance(key, Enum):
        return key.value if isinstance(key.value, str) else key_text(key.value)
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, (int, UUID, Decimal)):
        return str(key)
    if isinstance(key, float):
        return repr(key) if math.isfinite(key) else None
    return key.isoformat() if isinstance(key, (datetime, date, time)) else None


def _plain_key(key: object, typed: Typed) -> str:
    if isinstance(key, Enum) and isinstance(key.value, str):
        key = key.value
    if not isinstance(key, str) and typed.takes_more and (written := key_text(key)) is not None:
        typed.used = True
        key = written
    if not isinstance(key, str):
        kind = type(key).__name__
        raise NotJSONError(f"is a key of type {kind}, and keys of a JSON object are text; {key_instead(key)}")
    text = str.__str__(key)
    check_text(text, "is a key that ")
    return text


def _too_deep() -> NotJSONError:
    return NotJSONError(f"is nested more than {MAX_DEPTH} levels deep, or contains itself; write a flatter value")


def _replaced(value: Any, resolve: Callable[[Reference], object]) -> Any:
    step: Any = None
    try:
        if type(value) is dict:
            plain: JSONDict = {}
            for step, item in value.items():
                plain[step] = _replaced(item, resolve)
            return plain
        if type(value) is list:
            items: list[object] = []
            for step, item in enumerate(value):  # noqa: B007 - read where an item is refused
                items.append(_replaced(item, resolve))
            return items
    except NotJSONError as refused:
        refused.steps.append(step)
        raise
    if isinstance(value, Reference):
        return _plain(resolve(value), 0, _UNTYPED)
    return value
