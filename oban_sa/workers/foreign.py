"""Models of other libraries, which validate by themselves: pydantic's and msgspec's.

Neither is imported unless a worker's own types come from it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any, Final

from oban_sa import values
from oban_sa.workers.fitting import Decode, Misfit, at, shown


def pydantic(cls: Any) -> Decode:
    """Return the decoder of a pydantic model."""

    def decode(value: Any) -> Any:
        try:
            # As text, because a strict model takes the text of a UUID or a datetime from JSON only.
            return cls.model_validate_json(values.dumps(value))
        except ValueError as error:
            raise _of_model(cls, error) from error

    return decode


def pydantic_with(cls: Any, loading: Mapping[str, Decode]) -> Decode:
    """Return the decoder of a pydantic model some of whose fields are decoded here: JSON holds no mapped objects."""

    def decode(value: Any) -> Any:
        given = _with(cls, loading, value)
        try:
            return cls.model_validate(given)
        except ValueError as error:
            raise _of_model(cls, error) from error

    return decode


def _with(cls: Any, loading: Mapping[str, Decode], value: Any) -> Any:
    if not isinstance(value, _OBJECT):
        raise Misfit(f"must be an object with the fields of {cls.__name__}, not {shown(value)}")
    return {key: at(key, loading[key], item) if key in loading else item for key, item in value.items()}


def _of_model(cls: Any, error: Any) -> Misfit:
    first: dict[str, Any] = error.errors()[0] if hasattr(error, "errors") else {"msg": str(error), "loc": ()}
    found = f", and is {shown(first['input'])}" if "input" in first and first.get("type") != "missing" else ""
    misfit = Misfit(f"doesn't fit {cls.__name__}: {first['msg']}{found}")
    misfit.steps = list(first["loc"])[::-1]
    return misfit


def msgspec(cls: Any, loading: Mapping[str, Decode]) -> Decode:
    """Return the decoder of a msgspec Struct; `loading` has those of fields with mapped objects, by encoded name."""
    library = importlib.import_module("msgspec")

    def decode(value: Any) -> Any:
        given = _with(cls, loading, value) if loading else value
        try:
            return library.convert(given, cls)
        except library.ValidationError as error:
            reason, _, path = str(error).partition(" - at `$")
            misfit = Misfit(f"doesn't fit {cls.__name__}: {reason}")
            for name, index in reversed(_MSGSPEC_PATH.findall(path)):
                misfit.steps.append(int(index) if index else name)
            raise misfit from error

    return decode


_OBJECT: Final[type[Any]] = dict
_MSGSPEC_PATH: Final = re.compile(r"\.([^.\[`]+)|\[(\d+)\]")
