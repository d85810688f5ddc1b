"""Typed values out of a job's JSON: what an annotation makes of them, and what doesn't fit."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal, NewType, NotRequired, Required, Union
from uuid import UUID

from oban_sa.errors import InvalidOption, nearest
from oban_sa.workers import foreign
from oban_sa.workers.entities import Entity, How, how_of, is_mapped, mapped_within, says_how
from oban_sa.workers.fitting import Decode, Gone, Locked, Misfit, at, is_typed_dict, shown


class Unknown(InvalidOption):
    """An annotation names something that doesn't exist; it may once the module has been run to its end."""


def as_is(value: Any) -> Any:
    """Return the JSON value itself: its annotation asks for nothing else, or for what isn't known here."""
    return value


def resolve(annotations: Mapping[str, Any], *, scope: dict[str, Any], local: Mapping[str, Any]) -> dict[str, Any]:
    """Return what annotations mean, evaluating those that are texts; raises `NameError` for an unknown name."""
    holder = SimpleNamespace(__annotations__=dict(annotations))
    return typing.get_type_hints(holder, globalns=scope, localns=dict(local), include_extras=True)


class Decoders:
    """Makes decoders of annotations; `local` are names that are not in the annotation's own module."""

    def __init__(self, local: Mapping[str, Any] | None = None) -> None:
        self._local: Mapping[str, Any] = local or {}
        self._known: dict[Any, Decode] = {}
        self._how = How()
        self._nullable = False
        self.entities: list[Entity] = []
        """The decoders of mapped classes that were made, wherever they stand."""

    def of(self, annotation: Any) -> Decode:
        """Return the decoder of `annotation`.

        Converted are datetime, date, time, UUID, Decimal, Enum, dataclasses, TypedDicts, NamedTuples, pydantic and
        msgspec models, and mapped classes, alone or inside lists, tuples, sets, dicts and unions (the first member that
        fits). Texts, numbers, bools and None are checked and left alone, a whole number fits `float`. Anything else is
        left alone.
        Raises `Unknown` where a field's annotation names something that doesn't exist, and `InvalidOption` for an
        annotation that can't be meant.
        """
        scalar = _SCALARS.get(annotation) if isinstance(annotation, type) else None
        if scalar is not None:
            return scalar
        if annotation is None:
            return _null
        origin = typing.get_origin(annotation)
        if origin is Annotated and says_how(annotation):
            return self._loaded_so(annotation)
        if origin in _TRANSPARENT:
            return self.of(typing.get_args(annotation)[0])
        if isinstance(annotation, NewType):
            return self.of(annotation.__supertype__)
        if _ALIAS is not None and isinstance(annotation, _ALIAS):
            return self.of(annotation.__value__)
        if origin is not None:
            return self._of_generic(origin, typing.get_args(annotation))
        if isinstance(annotation, type):
            return self._of_class(annotation)
        return as_is

    def _of_generic(self, origin: Any, args: tuple[Any, ...]) -> Decode:
        if origin in (Union, types.UnionType):
            # The text of a date is that of a datetime at midnight too, so the narrower one is tried first.
            nullable, self._nullable = self._nullable, self._nullable or type(None) in args
            try:
                return _union([self.of(arg) for arg in sorted(args, key=lambda arg: arg is datetime)])
            finally:
                self._nullable = nullable
        if origin is Literal:
            return _literal(args)
        if origin is tuple:
            if len(args) == 2 and args[1] is Ellipsis:
                return _collection(tuple, self._item(args[0]))
            return _tuple([self._item(arg) for arg in args])
        if origin in _COLLECTIONS:
            return _collection(_COLLECTIONS[origin], self._item(args[0]))
        if origin in _MAPPINGS:
            return _mapping(self._item(args[1]))
        return self._of_class(origin) if isinstance(origin, type) else as_is

    def _item(self, annotation: Any) -> Decode:
        # Of `list[User] | None` the list may be None, and none of its users.
        nullable, self._nullable = self._nullable, False
        try:
            return self.of(annotation)
        finally:
            self._nullable = nullable

    def _loaded_so(self, annotation: Any) -> Decode:
        inner, *metadata = typing.get_args(annotation)
        if not list(mapped_within(inner, self._local)):
            raise InvalidOption(
                f"{annotation} says how a row is loaded, and {getattr(inner, '__name__', inner)} has none; "
                f"only a mapped class has"
            )
        how, self._how = self._how, how_of(metadata)
        try:
            return self.of(inner)
        finally:
            self._how = how

    def _entity(self, cls: Any) -> Decode:
        entity = Entity(cls, self._how, Decoders().of, nullable=self._nullable)
        self.entities.append(entity)
        return entity

    def _of_class(self, cls: Any) -> Decode:
        if is_mapped(cls):
            return self._entity(cls)
        if is_typed_dict(cls):
            return self._remembered(cls, self._typed_dict)
        if issubclass(cls, Enum):
            return _enum(cls)
        if cls in _COLLECTIONS:
            return _collection(_COLLECTIONS[cls], as_is)
        if cls is tuple:
            return _collection(tuple, as_is)
        if cls in _MAPPINGS:
            return _mapping(as_is)
        if hasattr(cls, "_fields") and tuple in cls.__mro__:
            return self._remembered(cls, self._named_tuple)
        if hasattr(cls, "model_validate_json"):
            return self._remembered(cls, self._pydantic)
        if hasattr(cls, "__struct_fields__"):
            return self._remembered(cls, self._msgspec)
        if dataclasses.is_dataclass(cls):
            return self._remembered(cls, self._dataclass)
        return as_is

    def _remembered(self, cls: Any, make: Callable[[Any], Decode]) -> Decode:
        # A class that holds itself meets the placeholder while its own decoder is being made.
        known = self._known.get(cls)
        if known is None:
            if self._how != How():
                raise InvalidOption(f"how a row is loaded is said of the mapped class itself, within {cls.__name__}")
            nullable, self._nullable = self._nullable, False
            self._known[cls] = lambda value: self._known[cls](value)
            try:
                known = self._known[cls] = make(cls)
            except BaseException:
                del self._known[cls]
                raise
            finally:
                self._nullable = nullable
        return known

    def _dataclass(self, cls: Any) -> Decode:
        hints = self._hints(cls)
        fields = dataclasses.fields(cls)
        decoders = {field.name: self.of(hints[field.name]) for field in fields if field.init}
        required = [
            field.name
            for field in fields
            if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        computed = {field.name for field in fields if not field.init}
        return _fields(cls.__name__, decoders, required, make=cls, ignored=computed)

    def _typed_dict(self, cls: Any) -> Decode:
        hints = self._hints(cls)
        # `cls.__required_keys__` is wrong where annotations are texts: it doesn't see their Required and NotRequired.
        required = [
            name
            for name, hint in hints.items()
            if (origin := typing.get_origin(hint)) is Required
            or (origin is not NotRequired and name in cls.__required_keys__)
        ]
        return _fields(cls.__name__, {name: self.of(hint) for name, hint in hints.items()}, required, make=dict)

    def _named_tuple(self, cls: Any) -> Decode:
        hints = self._hints(cls)
        decode = _tuple([self._item(hints.get(name, Any)) for name in cls._fields])
        return lambda value: cls(*decode(value))

    def _pydantic(self, cls: Any) -> Decode:
        loading = self._loading(cls)
        return foreign.pydantic_with(cls, loading) if loading else foreign.pydantic(cls)

    def _msgspec(self, cls: Any) -> Decode:
        encoded = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
        return foreign.msgspec(cls, {encoded.get(name, name): decode for name, decode in self._loading(cls).items()})

    def _loading(self, cls: Any) -> dict[str, Decode]:
        """Return the decoders of the fields of a foreign model in which mapped objects stand."""
        if not list(mapped_within(cls, self._local)):
            return {}
        hints = self._hints(cls)
        return {name: self.of(hint) for name, hint in hints.items() if list(mapped_within(hint, self._local))}

    def _hints(self, cls: Any) -> dict[str, Any]:
        try:
            return typing.get_type_hints(cls, localns={**self._local, **vars(cls)}, include_extras=True)
        except NameError as error:
            raise Unknown(
                f"an annotation of {cls.__name__} names {error.name!r}, which doesn't exist when the program runs; "
                f"import it outside of `if TYPE_CHECKING:`"
            ) from error


def _fields(
    name: str,
    decoders: dict[str, Decode],
    required: Sequence[str],
    *,
    make: Callable[..., Any],
    ignored: AbstractSet[str] = frozenset(),
) -> Decode:
    def decode(value: Any) -> Any:
        if not isinstance(value, _OBJECT):
            raise Misfit(f"must be an object with the fields of {name}, not {shown(value)}")
        made: dict[str, Any] = {}
        for key, item in value.items():
            field = decoders.get(key)
            if field is None:
                if key in ignored:
                    continue
                raise Misfit(f"has {key!r}, which {name} doesn't{nearest(key, decoders)}")
            made[key] = at(key, field, item)
        for key in required:
            if key not in made:
                raise Misfit(f"lacks {key!r}, which {name} needs")
        try:
            return make(**made)
        except ValueError as error:  # a dataclass's own __post_init__ refuses
            raise Misfit(f"is no {name}: {error}") from error

    return decode


def _collection(make: Callable[[Any], Any], decode: Decode) -> Decode:
    def collection(value: Any) -> Any:
        if not isinstance(value, _LIST):
            raise Misfit(f"must be a list, not {shown(value)}")
        if decode is as_is:
            return make(value)
        if isinstance(decode, Entity):
            decode.prefetch(value)
        return make([at(index, decode, item) for index, item in enumerate(value)])

    return collection


def _tuple(decoders: list[Decode]) -> Decode:
    def decode(value: Any) -> Any:
        if not isinstance(value, _LIST) or len(value) != len(decoders):
            raise Misfit(f"must be a list of {len(decoders)}, not {shown(value)}")
        return tuple(at(index, decoders[index], item) for index, item in enumerate(value))

    return decode


def _mapping(decode: Decode) -> Decode:
    def mapping(value: Any) -> Any:
        if not isinstance(value, _OBJECT):
            raise Misfit(f"must be an object, not {shown(value)}")
        if decode is as_is:
            return value
        return {key: at(key, decode, item) for key, item in value.items()}

    return mapping


def _union(decoders: list[Decode]) -> Decode:
    def decode(value: Any) -> Any:
        if value is None and _null in decoders:
            return None
        misfits: list[Misfit] = []
        for member in decoders:
            try:
                return member(value)
            except (Gone, Locked):  # it was this member that was meant
                raise
            except Misfit as misfit:
                if member is not _null:
                    misfits.append(misfit)
        if len(misfits) == 1:
            raise misfits[0]
        raise Misfit(", or ".join(dict.fromkeys(misfit.reason for misfit in misfits)))

    return decode


def _literal(choices: tuple[Any, ...]) -> Decode:
    plain = {choice.value if isinstance(choice, Enum) else choice: choice for choice in choices}

    def decode(value: Any) -> Any:
        try:
            return plain[value]
        except (KeyError, TypeError):
            raise Misfit(f"must be one of {', '.join(map(repr, plain))}, not {shown(value)}") from None

    return decode


def _enum(cls: Any) -> Decode:
    def decode(value: Any) -> Any:
        try:
            return cls(value)
        except ValueError:
            choices = ", ".join(repr(member.value) for member in cls)
            raise Misfit(f"must be one of {choices}, not {shown(value)}") from None

    return decode


def _null(value: Any) -> None:
    if value is not None:
        raise Misfit(f"must be null, not {shown(value)}")


def _scalar(kinds: type | tuple[type, ...], called: str) -> Decode:
    def decode(value: Any) -> Any:
        if isinstance(value, kinds):
            return value
        raise Misfit(f"must be {called}, not {shown(value)}")

    return decode


def _parsed(parse: Callable[[str], Any], called: str) -> Decode:
    def decode(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return parse(value)
            except ValueError:
                pass
        raise Misfit(f"must be {called}, not {shown(value)}")

    return decode


def _decimal(value: Any) -> Decimal:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return Decimal(str(value))  # the text, because Decimal(0.1) isn't 0.1
        except InvalidOperation:
            pass
    raise Misfit(f"must be a decimal number, not {shown(value)}")


_SCALARS: Final[dict[type, Decode]] = {
    int: _scalar(int, "a whole number"),
    float: _scalar((int, float), "a number"),
    str: _scalar(str, "a text"),
    bool: _scalar(bool, "true or false"),
    type(None): _null,
    object: as_is,
    datetime: _parsed(datetime.fromisoformat, "an ISO 8601 date and time"),
    date: _parsed(date.fromisoformat, "an ISO 8601 date"),
    time: _parsed(time.fromisoformat, "an ISO 8601 time"),
    UUID: _parsed(UUID, "a UUID"),
    Decimal: _decimal,
}
# As type[Any], because strict checkers know nothing of the items of a list that was Any before.
_LIST: Final[type[Any]] = list
_OBJECT: Final[type[Any]] = dict
# What `type X = ...` makes, since Python 3.12.
_ALIAS: Final[Any] = getattr(typing, "TypeAliasType", None)
_TRANSPARENT: Final = frozenset({Annotated, Required, NotRequired})
_COLLECTIONS: Final[dict[Any, Callable[[Any], Any]]] = {
    list: list,
    Sequence: list,
    MutableSequence: list,
    typing.get_origin(typing.Iterable[int]): list,
    typing.get_origin(typing.Collection[int]): list,
    set: set,
    frozenset: frozenset,
    AbstractSet: frozenset,
}
_MAPPINGS: Final = frozenset({dict, Mapping, MutableMapping})
