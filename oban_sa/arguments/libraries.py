"""What other libraries know how to read and check: pydantic's models and annotations, msgspec's Structs.

Neither is imported unless a worker's own types come from it.
"""

# What these libraries give is Any; strict pyright would have each of it cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import dataclasses
import importlib
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

from oban_sa.arguments.annotations import UNIONS
from oban_sa.arguments.mismatch import Decode, Misfit, at, hidden
from oban_sa.arguments.models import alike, is_choosy, names_of, secrets_of
from oban_sa.arguments.round_trip import Kind, leaf, veiled
from oban_sa.arguments.scalars import as_is
from oban_sa.errors import InvalidOption
from oban_sa.jobs import values
from oban_sa.wire import json_text

OLDEST: Final = (2, 11)
"""The first pydantic that reads a model by the names of its fields and by their aliases."""


def is_model(cls: object) -> bool:
    """Whether a class is a model of pydantic's."""
    return hasattr(cls, "model_validate_json")


def is_pydantics(cls: Any) -> bool:
    """Whether pydantic reads a class, by what that class says itself."""
    own = hasattr(cls, "__get_pydantic_core_schema__") or hasattr(cls, "__pydantic_validator__")
    return own and cls.__qualname__ != "Json"


def is_models(annotation: object) -> bool:
    """Whether an annotation is a choice among models, which pydantic chooses best: by their tags, or what fits most."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return is_models(typing.get_args(annotation)[0])
    if origin not in UNIONS:
        return False
    members = [each for each in typing.get_args(annotation) if each is not type(None)]
    return len(members) > 1 and all(_is_one(each) for each in members)


def _is_one(member: object) -> bool:
    if typing.get_origin(member) is Annotated:
        return _is_one(typing.get_args(member)[0])
    return isinstance(member, type) and (
        is_model(member) or (is_pydantics(member) and dataclasses.is_dataclass(member))
    )


def constrains(metadata: Iterable[object]) -> bool:
    """Whether what an `Annotated` says is for pydantic, and pydantic is there."""
    said = [each for each in metadata if _is_constraint(each)]
    return bool(said) and _found("pydantic")


def _is_constraint(each: object) -> bool:
    cls = each if isinstance(each, type) else type(each)
    if cls.__qualname__ == "Json":  # outside of models a value is JSON itself, and no text of it
        return False
    return cls.__module__.partition(".")[0] in ("pydantic", "annotated_types") or is_pydantics(cls)


def refuse_field(default: object, name: str, *, what: str) -> None:
    """Raise `InvalidOption` for pydantic's `Field(...)` in the place of a default, where only models read it."""
    cls = type(default)
    if cls.__name__ == "FieldInfo" and cls.__module__.startswith("pydantic."):
        raise InvalidOption(
            f"{name} of {what} has Field(...) for its default, which only models read; "
            f"write {name}: Annotated[..., Field(...)]"
        )


def _found(library: str) -> bool:
    try:
        importlib.import_module(library)
    except ImportError:
        return False
    return True


def model(annotation: object, loading: Mapping[str, Decode]) -> Kind:
    """Return the kind of a pydantic model; `loading` are decoders of fields that hold mapped objects.

    JSON holds no mapped objects, so a model that has some is validated from Python values.
    Raises `InvalidOption` where pydantic is too old.
    """
    cls: Any = annotation
    _check_pydantic(cls.__name__)
    refused = _refusing(cls, f"doesn't fit {cls.__name__}: ")
    by_any_name = {name: decode for field, decode in loading.items() for name in names_of(cls, field)}

    def decode(value: object) -> object:
        try:
            # As text, because a strict model takes the text of a UUID or a datetime from JSON only.
            return cls.model_validate_json(_text(value), by_alias=True, by_name=True)
        except ValueError as error:
            raise refused(error) from error

    def decode_with_objects(value: object) -> object:
        given = _with(cls, by_any_name, value)
        try:
            return cls.model_validate(given, by_alias=True, by_name=True)
        except ValueError as error:
            raise refused(error) from error

    # Equality of a model with mapped objects compares those by identity, as is right.
    return Kind(_unseen(cls, decode_with_objects if loading else decode), alike, is_choosy(cls))


def adapted(annotation: object) -> Kind:
    """Return the kind of an annotation that pydantic reads by itself: its dataclasses and types, a choice of models."""
    name = getattr(annotation, "__name__", None) or str(annotation)
    _check_pydantic(name)
    adapter = _adapter(annotation)
    refused = _refusing(annotation, f"doesn't fit {name}: " if dataclasses.is_dataclass(annotation) else None)

    def decode(value: object) -> object:
        try:
            return adapter.validate_json(_text(value), by_alias=True, by_name=True)
        except ValueError as error:
            raise refused(error) from error

    return Kind(_unseen(annotation, decode), alike, is_choosy(annotation))


def constrained(annotation: object, inner: Kind, *, mapped: bool) -> Kind:
    """Return the kind of an `Annotated` whose inner kind is known here, and whose constraints pydantic checks.

    Of `mapped` objects, which it doesn't know or would take apart, it checks no more than that.
    """
    kind, *metadata = typing.get_args(annotation)
    kept = tuple(each for each in metadata if _is_constraint(each))
    annotation = Annotated[(Any if mapped else kind, *kept)]
    if inner.read is as_is and kind is not Any:  # such as a timedelta, which only pydantic reads
        return adapted(annotation)
    _check_pydantic(str(kind))
    adapter = _adapter(annotation)
    refused = _refusing(annotation, None)

    def check(value: object) -> object:
        try:
            return adapter.validate_python(value, by_alias=True, by_name=True)
        except (ValueError, TypeError) as error:  # a TypeError for a constraint that means nothing for such a value
            raise refused(error) from error

    def decode(value: object) -> object:
        return check(inner.read(value))

    def same(given: object, came: object, strict: bool) -> None:
        try:
            inner.same(given, came, strict)
        except Misfit:
            # A validator may have made another value of it, as one that strips texts does. It would do so once more.
            if type(given) is not type(came):
                raise
            leaf(came, check(came), strict)

    kind_of_it = Kind(decode, same, inner.choosy)
    if any(getattr(each, "repr", True) is False for each in kept):
        return Kind(hidden(decode), veiled(same), inner.choosy)
    return kind_of_it


def _unseen(annotation: object, decode: Decode) -> Decode:
    # The error that pydantic raised shows the whole of what it was given.
    return _uncaused(decode) if secrets_of(annotation) else decode


def _uncaused(decode: Decode) -> Decode:
    def read(value: object) -> object:
        try:
            return decode(value)
        except Misfit as misfit:
            raise misfit from None

    return read


def _adapter(annotation: object) -> Any:
    library = importlib.import_module("pydantic")
    try:
        return library.TypeAdapter(annotation)
    except (library.errors.PydanticUserError, TypeError, RuntimeError) as error:
        raise InvalidOption(f"pydantic can't read the annotation {annotation}: {error}") from error


def _check_pydantic(name: str) -> None:
    version = importlib.import_module("pydantic").VERSION
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        raise InvalidOption(
            f"{name} is pydantic's, and this is pydantic {version}, which can't read a model both by the names of its "
            f"fields and by their aliases; install pydantic {'.'.join(map(str, OLDEST))} or later"
        )


def _text(value: object) -> str:
    try:
        return values.dumps(value)
    except TypeError:  # an integer of more than 64 bits, or a number that no float holds, which others may have written
        return json_text.write(value)


def _with(cls: type, loading: Mapping[str, Decode], value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Misfit(f"must be an object with the fields of {cls.__name__}", found=value)
    return {key: at(key, loading[key], item) if key in loading else item for key, item in value.items()}


def _refusing(annotation: object, start: str | None) -> Callable[[Exception], Misfit]:
    """Return what makes a misfit of an error of pydantic's; one that is about a secret shows nothing."""

    def refused(error: Any) -> Misfit:
        first: dict[str, Any] = error.errors()[0] if hasattr(error, "errors") else {"msg": str(error), "loc": ()}
        secrets, found = secrets_of(annotation), first.get("input")
        steps = list(first["loc"])
        reason, joined = _worded(first["msg"], start)
        secret = "*" in secrets or not secrets.isdisjoint(map(str, steps))
        if secret and first.get("type") in ("value_error", "assertion_error"):  # the words of a validator
            reason, joined = f"{start or ''}is refused by a validator", ", and is "
        shown = "input" in first and first.get("type") != "missing"
        misfit = Misfit(reason, found=found, joined=joined) if shown else Misfit(reason)
        misfit.secret = secret or (bool(secrets) and (not steps or isinstance(found, (dict, list))))
        misfit.steps = steps[::-1]
        return misfit

    return refused


def _worded(message: str, start: str | None) -> tuple[str, str]:
    if start is not None:
        return start + message, ", and is "
    if message.startswith(_SHOULD):
        return "must " + message.removeprefix(_SHOULD), ", not "
    return f"is refused: {message[:1].lower()}{message[1:]}", ", and is "


def msgspec(annotation: object, loading: Mapping[str, Decode]) -> Kind:
    """Return the kind of a msgspec Struct; `loading` has those of fields with mapped objects, by encoded name."""
    library = importlib.import_module("msgspec")
    cls: Any = typing.get_origin(annotation) or annotation

    def decode(value: object) -> object:
        given = _with(cls, loading, value) if loading else value
        try:
            return library.convert(given, annotation, str_keys=True)
        except library.ValidationError as error:
            reason, _, path = str(error).partition(" - at `$")
            misfit = Misfit(f"doesn't fit {cls.__name__}: {reason}")
            for name, index in reversed(_MSGSPEC_PATH.findall(path)):
                misfit.steps.append(int(index) if index else name)
            raise misfit from error

    return Kind(decode, alike, is_choosy(annotation))


_SHOULD: Final = "Input should "
_MSGSPEC_PATH: Final = re.compile(r"\.([^.\[`]+)|\[(\d+)\]")
