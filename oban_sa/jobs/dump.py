"""Values of other libraries' models, opened: what is in them, to be written as JSON."""

# Values of any type are what this file is about; strict pyright would have each of them cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import dataclasses
import math
import sys
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

import orjson

from oban_sa.errors import articled
from oban_sa.jobs.unwritable import SECRET, NotJSONError, not_finite

_NUMBERS: Final = frozenset({int, bool, float})
_LEAVES: Final = frozenset({str, int, bool, float, type(None), datetime, date, UUID, Decimal})
_SERIALIZERS: Final[WeakKeyDictionary[type, Any]] = WeakKeyDictionary()


def is_foreign(value: object, kind: type) -> bool:
    """Whether a value is a model of pydantic's or msgspec's, or of a class that pydantic writes by itself."""
    if _is_model(kind) or hasattr(kind, "__pydantic_serializer__"):
        return True
    if hasattr(kind, "__get_pydantic_core_schema__") and not hasattr(kind, "get_secret_value"):
        return "pydantic" in sys.modules
    return _is_struct(value)


def dumped(value: object, kind: Any, *, mapped: bool) -> Any:
    """Return what is in a model, as JSON or as values that have yet to become JSON.

    Where there may be `mapped` objects, which pydantic could know and take apart, they are left as they are. Raises
    `NotJSONError` for what the model's own library would change, such as a secret that it masks.
    """
    if _is_struct(value):
        return _of_struct(value, kind)
    if mapped and has_mapped(getattr(value, "__dict__", {})):
        names: Any = getattr(kind, "model_fields", None) or [each.name for each in dataclasses.fields(kind)]
        return {name: getattr(value, name) for name in names}
    try:
        found = _by_pydantic(value, kind, mode="json")
        check_lost(found, value)
    except NotJSONError:
        raise
    except Exception:  # something inside that pydantic doesn't know, such as a Reference: it is looked at one by one
        return _at_least(value, kind)
    return found


def _is_model(kind: object) -> bool:
    return callable(getattr(kind, "model_dump", None))


def _is_struct(value: object) -> bool:
    library: Any = sys.modules.get("msgspec")
    return library is not None and isinstance(value, library.Struct)


def _of_struct(value: object, kind: Any) -> Any:
    library: Any = sys.modules["msgspec"]
    try:
        return library.to_builtins(value, str_keys=True)
    except Exception:
        names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
        return {encoded: getattr(value, name) for encoded, name in names}


def _by_pydantic(value: Any, kind: type, *, mode: str) -> Any:
    """Return what pydantic makes of a value: by the names of its fields, for aliases may be read by others alone.

    Without warnings, which show values; the caller compares what is read with what was given.
    """
    if callable(getattr(kind, "model_dump", None)):
        return value.model_dump(mode=mode, by_alias=False, round_trip=True, warnings=False)
    if (serializer := getattr(kind, "__pydantic_serializer__", None)) is None:
        serializer = _adapter(kind)
    return serializer.to_python(value, mode=mode, by_alias=False, round_trip=True, warnings=False)


def _adapter(kind: type) -> Any:
    known = _SERIALIZERS.get(kind)
    if known is None:
        library: Any = sys.modules["pydantic"]
        known = _SERIALIZERS[kind] = library.TypeAdapter(kind).serializer
    return known


def _at_least(value: object, kind: type) -> Any:
    try:
        return _by_pydantic(value, kind, mode="python")
    except Exception as error:
        raise NotJSONError(f"is {articled(kind.__name__)} that can't be dumped: {error}") from error


def has_mapped(value: object) -> bool:
    """Whether mapped objects stand inside a value."""
    kind = type(value)
    if isinstance(value, dict):
        return any(type(item) not in _LEAVES and has_mapped(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(type(item) not in _LEAVES and has_mapped(item) for item in value)
    # Not with hasattr(), which is slow for what a model's class lacks.
    if any("__mapper__" in vars(each) for each in kind.__mro__):
        return True
    return _is_model(kind) and has_mapped(vars(value))


def check_lost(dumped: Any, value: object) -> None:
    """Refuse what pydantic wrote something else for: None for a NaN or infinity, asterisks for a secret.

    What it made of a set is put in order.
    """
    kind = type(dumped)
    if kind is str:
        if dumped and not dumped.strip("*") and hasattr(value, "get_secret_value"):
            raise NotJSONError(f"is {articled(type(value).__name__)}, which is masked when it is written; {SECRET}")
        return
    if dumped is None:
        if isinstance(value, float) and not math.isfinite(value):
            raise not_finite(value)
        return
    value = getattr(value, "root", value) if getattr(value, "__pydantic_root_model__", False) else value
    step: Any = None
    try:
        if kind is dict and isinstance(value, dict):
            # In their order, because keys that are no text were made text.
            for (step, item), inner in zip(dumped.items(), value.values(), strict=False):  # noqa: B007
                check_lost(item, inner)
        elif kind is dict:
            for step, item in dumped.items():
                kind = type(item)
                if kind not in _NUMBERS and (kind is not type(inner := getattr(value, step, None)) or kind is not str):
                    check_lost(item, inner)
        elif kind is list and isinstance(value, (list, tuple)):
            for step, (item, inner) in enumerate(zip(dumped, value, strict=False)):  # noqa: B007 - see `_plain_list`
                check_lost(item, inner)
        elif kind is list and isinstance(value, (set, frozenset)):
            dumped[:] = in_order(dumped)
    except NotJSONError as refused:
        if step is not None:
            refused.steps.append(step)
        raise


def in_order(items: list[Any]) -> list[Any]:
    """Return what was in a set always in the same order, or equal args would differ as JSON."""
    try:
        return sorted(items)
    except TypeError:
        pass
    try:
        return sorted(items, key=orjson.dumps)
    except TypeError:  # references, which have no value yet
        return items
