"""Python values to JSON and back: what is refused, and where it stands.

What becomes what, beside JSON's own types:

- a datetime, date or time: ISO 8601 text. An aware datetime has its offset; a naive one has none, so that it is read
  back as it was written (`datetime.fromisoformat` takes both).
- UUID and Decimal: text. An Enum: its value. A tuple: a list. A subclass of str, int, float, list or dict: the plain
  one.
- a dataclass: an object of its fields. A pydantic model: `model_dump(mode="json")`. A msgspec Struct: its builtins.

A `Reference` is left where it stands; `replace_references` puts the value there later. A mapped object is refused,
unless whoever writes says what becomes of it.
"""

# Values of any type are what this file is about; strict pyright would have each of them cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from os import PathLike
from typing import Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

import orjson

from oban_sa.errors import InvalidArguments, ObanError, articled
from oban_sa.references import Reference

MAX_DEPTH: Final = 200
"""Lists and objects inside each other; orjson writes no more than 254 of them."""

_STEPS_SHOWN: Final = 20
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_AT_ONCE: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_STRICT_INTEGER  # of 53 bits; without it, integers of 64 bits that have no sign would pass
)
"""What orjson is to leave to us, because we write it otherwise."""

_ALIASED: Final[WeakKeyDictionary[Any, bool]] = WeakKeyDictionary()
# Not a parameter, which all the functions below would have to hand on for the sake of the rarest value.
_mapped: Final[ContextVar[Callable[[Any], Reference] | None]] = ContextVar("oban_sa.mapped", default=None)


class _NotJSONError(Exception):
    """A value that can't be written, on its way up; each container that it stands in adds a step."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[object] = []


def to_json(value: Any, *, where: str = "args", mapped: Callable[[Any], Reference] | None = None) -> Any:
    """Return `value` as plain JSON values in new containers, with every `Reference` left in place.

    `mapped` gives what stands in place of a mapped object. Raises `InvalidArguments` for anything JSON or PostgreSQL
    can't hold; its `path` starts with `where`.
    """
    token = None if mapped is None else _mapped.set(mapped)
    try:
        return _plain(value, 0)
    except _NotJSONError as refused:
        raise _invalid(refused, where) from refused.__cause__
    except RecursionError:  # the caller's own stack was nearly used up
        raise InvalidArguments(f"{where} {_too_deep().reason}", path=where) from None
    finally:
        if token is not None:
            _mapped.reset(token)


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
    except TypeError:
        return None
    # A null may have been a NaN, and what looks like an escaped NUL may be one. What is shorter than two characters
    # for each level can't be nested too deep, and neither can what opens too little.
    if b"null" in written or b"\\u0000" in written:
        return None
    if len(written) > 2 * MAX_DEPTH and written.count(b"{") + written.count(b"[") > MAX_DEPTH:
        return None
    return written


def is_flat(value: Any) -> bool:
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


def replace_references(value: Any, resolve: Callable[[Reference], Any], *, where: str = "args") -> Any:
    """Return plain JSON values in new containers, with what `resolve` returns in place of every `Reference`.

    A resolved value becomes JSON as any other does, so a key may be a UUID; it is refused in the same way.
    """
    try:
        return _replaced(value, resolve)
    except _NotJSONError as refused:
        raise _invalid(refused, where) from refused.__cause__


def _plain(value: Any, depth: int) -> Any:
    # Ordered by how often a kind occurs; `type` instead of isinstance, which a bool would pass as an int.
    kind = type(value)
    if kind is str:
        if "\0" in value or not value.isascii():
            _check_text(value)
        return value
    if kind is int:
        if _SMALLEST <= value <= _LARGEST:
            return value
        raise _NotJSONError("is an integer outside 64 bits; write it as text: str(value)")
    if value is None or kind is bool:
        return value
    if kind is dict:
        return _plain_object(value, depth)
    if kind is list or kind is tuple:
        return _plain_list(value, depth)
    if kind is float:
        if math.isfinite(value):
            return value
        raise _NotJSONError(f"is {value}, which JSON can't hold; write None or a text")
    return _converted(value, kind, depth)


def _plain_object(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise _too_deep()
    depth += 1
    plain: dict[str, Any] = {}
    key: Any = None
    try:
        for key, item in value.items():
            kind = type(item)
            if type(key) is not str or "\0" in key or not key.isascii():
                plain[_plain_key(key)] = _plain(item, depth)
            # The two commonest kinds once more, to save a call for each.
            elif (kind is str and item.isascii() and "\0" not in item) or (
                kind is int and _SMALLEST <= item <= _LARGEST
            ):
                plain[key] = item
            else:
                plain[key] = _plain(item, depth)
    except _NotJSONError as refused:
        refused.steps.append(key)
        raise
    except (RecursionError, ObanError):
        raise
    except Exception as error:
        raise _unreadable(value, error) from error
    return plain


def _plain_list(value: Any, depth: int) -> list[Any]:
    if depth >= MAX_DEPTH:
        raise _too_deep()
    depth += 1
    plain: list[Any] = []
    try:
        for item in value:
            plain.append(_plain(item, depth))  # noqa: PERF401 - its length says where a refused item stands
    except _NotJSONError as refused:
        refused.steps.append(len(plain))
        raise
    except (RecursionError, ObanError):
        raise
    except Exception as error:
        raise _unreadable(value, error) from error
    return plain


def _converted(value: Any, kind: type[Any], depth: int) -> Any:
    if kind is Reference or isinstance(value, Reference):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, depth)
    if isinstance(value, str):
        return _plain(str.__str__(value), depth)
    if isinstance(value, int):
        return _plain(int.__index__(value), depth)
    if isinstance(value, float):
        return _plain(float.__float__(value), depth)
    if isinstance(value, dict):
        return _plain_object(value, depth)
    if isinstance(value, (list, tuple)):
        return _plain_list(value, depth)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        if value.is_finite():
            return str(value)
        raise _NotJSONError(f"is Decimal({str(value)!r}), which is no number; write None or a text")
    if isinstance(value, type):
        raise _NotJSONError(f"is the class {value.__name__}, not a value; write what it stands for as text")
    if hasattr(kind, "__mapper__"):
        mapped = _mapped.get()
        if mapped is None:
            raise _NotJSONError(
                f"is a mapped {kind.__name__}; write ref(obj) for its key, or the attributes that are needed, "
                f"or give it to a worker whose parameter is annotated as {kind.__name__}"
            )
        return mapped(value)
    return _plain_model(value, kind, depth)


def _plain_model(value: Any, kind: type[Any], depth: int) -> Any:
    if depth >= MAX_DEPTH:  # a model may give itself
        raise _too_deep()
    if callable(getattr(kind, "model_dump", None)):
        if _mapped.get() is not None and _has_mapped(vars(value)):  # which pydantic may know, and take apart
            by_alias = _by_alias(kind)
            fields = {(field.alias or name) if by_alias else name: name for name, field in kind.model_fields.items()}
            return _plain_object({key: getattr(value, name) for key, name in fields.items()}, depth + 1)
        try:
            dumped = value.model_dump(mode="json", by_alias=(by_alias := _by_alias(kind)))
            _check_lost(value.model_dump(mode="json") if by_alias else dumped, value)
        except Exception:  # something inside that pydantic doesn't know, such as a Reference: look at it here
            dumped = _dumped(value)
        return _plain(dumped, depth + 1)
    msgspec: Any = sys.modules.get("msgspec")
    if msgspec is not None and isinstance(value, msgspec.Struct):
        try:
            dumped = msgspec.to_builtins(value, str_keys=True)
        except Exception:
            names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
            dumped = {encoded: getattr(value, name) for encoded, name in names}
        return _plain(dumped, depth + 1)
    if dataclasses.is_dataclass(value):
        return _plain_object({each.name: getattr(value, each.name) for each in dataclasses.fields(value)}, depth)
    raise _NotJSONError(f"is {articled(kind.__name__)}, which JSON can't hold; {_instead(value, kind)}")


def _by_alias(kind: Any) -> bool:
    """Whether a pydantic model could not be read back by the names of its fields."""
    known = _ALIASED.get(kind)
    if known is None:
        config: Any = getattr(kind, "model_config", {})
        by_name = config.get("populate_by_name") or config.get("validate_by_name")
        fields: Any = getattr(kind, "model_fields", {})
        known = _ALIASED[kind] = not by_name and any(field.alias is not None for field in fields.values())
    return known


def _has_mapped(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_mapped(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_mapped(item) for item in value)
    return hasattr(type(value), "__mapper__") or (
        callable(getattr(type(value), "model_dump", None)) and _has_mapped(vars(value))
    )


def _dumped(value: Any) -> Any:
    try:
        # Without warnings: a reference is not of the type its field has.
        return value.model_dump(warnings=False, by_alias=_by_alias(type(value)))
    except Exception as error:
        raise _NotJSONError(f"is {articled(type(value).__name__)} that can't be dumped: {error}") from error


def _check_lost(dumped: Any, value: Any) -> None:
    """Refuse a NaN or infinity where pydantic wrote None for it, as it does wherever a field is not typed as float."""
    if dumped is None and isinstance(value, float):
        _plain(value, 0)
    step: Any = None
    try:
        if type(dumped) is dict:
            for step, item in dumped.items():
                inner = value.get(step) if isinstance(value, dict) else getattr(value, step, None)
                _check_lost(item, inner)
        elif type(dumped) is list and isinstance(value, (list, tuple)):
            for step, (item, inner) in enumerate(zip(dumped, value, strict=False)):  # noqa: B007 - see `_plain_list`
                _check_lost(item, inner)
    except _NotJSONError as refused:
        refused.steps.append(step)
        raise


def _plain_key(key: Any) -> str:
    if isinstance(key, Enum) and isinstance(key.value, str):
        key = key.value
    if not isinstance(key, str):
        kind = type(key).__name__
        raise _NotJSONError(f"is a key of type {kind}, and keys of a JSON object are text; {_key_instead(key)}")
    text = str.__str__(key)
    _check_text(text, "is a key that ")
    return text


def _check_text(text: str, prefix: str = "") -> None:
    if "\0" in text:
        raise _NotJSONError(
            prefix + 'contains a NUL character, which PostgreSQL can\'t store; remove it: .replace("\\0", "")'
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _NotJSONError(
            prefix + 'contains a lone surrogate, which is no character; write .encode("utf-8", "replace").decode()'
        ) from None


def _instead(value: Any, kind: type[Any]) -> str:
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
    return "write a dict, a dataclass or text"


def _key_instead(key: object) -> str:
    return "write str(key)" if isinstance(key, (int, float, UUID, Decimal, date)) else "write text"


def _unreadable(value: object, error: Exception) -> _NotJSONError:
    return _NotJSONError(f"is {articled(type(value).__name__)} that can't be read ({error}); write a plain one")


def _too_deep() -> _NotJSONError:
    return _NotJSONError(f"is nested more than {MAX_DEPTH} levels deep, or contains itself; write a flatter value")


def _replaced(value: Any, resolve: Callable[[Reference], Any]) -> Any:
    step: Any = None
    try:
        if type(value) is dict:
            plain: dict[str, Any] = {}
            for step, item in value.items():
                plain[step] = _replaced(item, resolve)
            return plain
        if type(value) is list:
            items: list[Any] = []
            for step, item in enumerate(value):  # noqa: B007 - read where an item is refused
                items.append(_replaced(item, resolve))
            return items
    except _NotJSONError as refused:
        refused.steps.append(step)
        raise
    if isinstance(value, Reference):
        return _plain(resolve(value), 0)
    return value


def _invalid(refused: _NotJSONError, where: str) -> InvalidArguments:
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
