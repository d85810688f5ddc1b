"""Values of other libraries' models: compared field by field, and which of their fields are secrets."""

# Values of any type are what this file is about; strict pyright would have each of them cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from oban_sa.arguments.annotations import UNIONS, Unknown, hints_of
from oban_sa.arguments.round_trip import Changed, Same, leaf, of_class, parts, veiled
from oban_sa.errors import InvalidArguments
from oban_sa.jobs import values


class Field(NamedTuple):
    """How a field is compared: with its types where its annotation leaves a choice; as JSON where it asks for any."""

    choosy: bool
    open: bool
    secret: bool

    @property
    def same(self) -> Same:
        """The comparison."""
        compare: Same = _as_json if self.open else alike
        shown = veiled(compare) if self.secret else compare
        return (lambda given, came, strict: shown(given, came, True)) if self.choosy else shown


def alike(given: object, came: object, strict: bool) -> None:
    """Compare values, and models by their fields; raises `Changed`. What pydantic calls private is passed over."""
    if given is came:
        return
    fields = fields_of(type(given))
    if fields is not None:
        if type(came) is not type(given):
            raise Changed(given, came, of_class(given))
        pairs = [(name, field.same, *_of(name, given, came)) for name, field in fields.items()]
        extra = getattr(given, "__pydantic_extra__", None)
        if extra:
            pairs += [(name, _as_json, *_of(name, given, came)) for name in extra]
        parts(pairs, strict)
    elif isinstance(given, dict) and isinstance(came, dict):
        if given.keys() != came.keys():
            raise Changed(given, came)
        parts([(str(key), alike, item, came[key]) for key, item in given.items()], strict)
    elif isinstance(given, (list, tuple)) and isinstance(came, (list, tuple)):
        if len(given) != len(came):
            raise Changed(given, came)
        parts([(index, alike, *pair) for index, pair in enumerate(zip(given, came, strict=True))], strict)
    else:
        leaf(given, came, strict)


def _of(name: str, given: object, came: object) -> tuple[object, object]:
    return getattr(given, name, None), getattr(came, name, None)


def _as_json(given: object, came: object, strict: bool) -> None:
    try:
        if values.to_json(given) == came:
            return
    except InvalidArguments:
        pass
    alike(given, came, strict)


_FIELDS: Final[WeakKeyDictionary[type, dict[str, Field] | None]] = WeakKeyDictionary()


def fields_of(cls: type) -> dict[str, Field] | None:
    """Return the fields of a model, a Struct or a dataclass by name, and None for a class of another kind."""
    if cls not in _FIELDS:
        _FIELDS[cls] = (
            {
                name: Field(_chooses(annotation), _takes_any(annotation), secret)
                for name, annotation, secret in _annotated(cls)
            }
            if _has_fields(cls)
            else None
        )
    return _FIELDS[cls]


def _has_fields(cls: object) -> bool:
    return dataclasses.is_dataclass(cls) or hasattr(cls, "model_fields") or hasattr(cls, "__struct_fields__")


def _annotated(cls: type) -> Iterator[tuple[str, object, bool]]:
    """Yield the fields of a class: their names, annotations, and whether they are kept out of its repr()."""
    if isinstance(fields := getattr(cls, "model_fields", None), Mapping):
        for name, field in fields.items():
            yield name, field.annotation, field.repr is False
        return
    try:
        hints = hints_of(cls, (), {}) if _has_fields(cls) else {}
    except Unknown:  # the decoder says what is wrong
        hints = {}
    if dataclasses.is_dataclass(cls):
        for each in dataclasses.fields(cls):
            if each.compare:
                yield each.name, hints.get(each.name, Any), not each.repr
    else:
        for name in getattr(cls, "__struct_fields__", ()):
            yield name, hints.get(name, Any), False


def _chooses(annotation: object) -> bool:
    members = [each for each in typing.get_args(annotation) if each is not type(None)]
    if typing.get_origin(annotation) in UNIONS and len(members) > 1:
        return True
    return typing.get_origin(annotation) is not typing.Literal and any(map(_chooses, members))


def _takes_any(annotation: object) -> bool:
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return True
    return typing.get_origin(annotation) is not typing.Literal and any(map(_takes_any, typing.get_args(annotation)))


def is_choosy(annotation: object) -> bool:
    """Whether an annotation, or one inside it, leaves a choice, so that equality proves nothing."""
    return _chooses(annotation) or any(_chooses(kind) for _, _, kind, _ in _within(annotation, set()))


def secrets_of(annotation: object) -> frozenset[str]:
    """Return the names of the secrets within an annotation; "*" where all of it is one, or is not to be shown.

    Secret are what pydantic masks, and fields that are kept out of the repr() of their class.
    """
    names = {"*"} if _masks(annotation) or _hides(annotation) else set[str]()
    for cls, name, kind, secret in _within(annotation, set()):
        if secret or _masks(kind):
            names |= names_of(cls, name)
    return frozenset(names)


def names_of(cls: type, field: str) -> set[str]:
    """Return the names by which a field of a model may stand in JSON."""
    info = getattr(cls, "model_fields", {}).get(field)
    aliases = [] if info is None else [info.alias, info.validation_alias]
    aliases += [each for alias in aliases for each in getattr(alias, "choices", ())]
    return {field, *(alias for alias in aliases if isinstance(alias, str))}


def _masks(annotation: object) -> bool:
    return hasattr(annotation, "get_secret_value") or any(map(_masks, typing.get_args(annotation)))


def _hides(cls: object) -> bool:
    config = getattr(cls, "model_config", None)
    return isinstance(config, dict) and bool(config.get("hide_input_in_errors"))


def _within(annotation: object, seen: set[object]) -> Iterator[tuple[type, str, object, bool]]:
    """Yield the fields of all classes within an annotation, each with its class."""
    for part in (annotation, typing.get_origin(annotation)):
        if isinstance(part, type) and part not in seen and _has_fields(part):
            seen.add(part)
            for name, kind, secret in _annotated(part):
                yield part, name, kind, secret
                yield from _within(kind, seen)
    for each in typing.get_args(annotation):
        yield from _within(each, seen)
