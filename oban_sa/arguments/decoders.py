"""The decoder of each annotation: typed values out of a job's JSON, what doesn't fit, and what would be lost.

Decoders are chosen here once per worker, and lie in `scalars`, `containers`, `libraries` and `entities`. Each attempt
calls them in `workers/function_body.py` or `workers/class_body.py`.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from enum import Enum
from operator import getitem
from typing import Annotated, Any, Final, Literal, NewType, NotRequired, Required, TypeVar

from oban_sa.arguments import libraries
from oban_sa.arguments.annotations import TRANSPARENT, UNIONS, Unknown, aliased, hints_of, is_alias, variable
from oban_sa.arguments.containers import fields, listed, many, mapping, named_tuple, tupled, union, unordered
from oban_sa.arguments.entities import Entity, How, how_of, is_mapped, mapped_within, says_how
from oban_sa.arguments.mismatch import Decode, Misfit, is_typed_dict
from oban_sa.arguments.round_trip import Kind, leaf
from oban_sa.arguments.scalars import ANYTHING, NULL, SCALARS, as_is, enum, literal
from oban_sa.errors import InvalidOption


class Decoders:
    """Makes kinds of annotations; `local` are names that are not in the annotation's own module."""

    def __init__(self, local: Mapping[str, object] | None = None) -> None:
        self._local: Mapping[str, object] = local or {}
        self._known: dict[object, Kind] = {}
        self._how = How()
        self._nullable = False
        self.entities: list[Entity] = []
        """The decoders of mapped classes that were made, wherever they stand."""

    def of(self, annotation: object) -> Decode:
        """Return the decoder of `annotation`; see `kind`."""
        return self.kind(annotation).read

    def kind(self, annotation: object) -> Kind:
        """Return what reads values of `annotation`, and tells whether they come back as they were given.

        Converted are datetime, date, time, UUID, Decimal, Enum, dataclasses, TypedDicts, NamedTuples, pydantic and
        msgspec models, and mapped classes, alone or inside lists, tuples, sets, dicts and unions (the first member that
        fits). Texts, numbers, bools and None are checked and left alone, a whole number fits `float`. What pydantic has
        annotations for is checked by it. Anything else is left alone.
        Raises `Unknown` where a field's annotation names something that doesn't exist, and `InvalidOption` for an
        annotation that can't be meant.
        """
        scalar = SCALARS.get(annotation) if isinstance(annotation, type) else None
        if scalar is not None:
            return scalar
        if annotation is None:
            return NULL
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            return self._of_annotated(annotation)
        if origin in TRANSPARENT:
            return self.kind(typing.get_args(annotation)[0])
        if isinstance(annotation, NewType):
            return self.kind(annotation.__supertype__)
        if isinstance(annotation, TypeVar):
            return self.kind(variable(annotation))
        if is_alias(annotation) or is_alias(origin):
            return self._remembered(annotation, self._alias)
        if origin is not None:
            return self._of_generic(annotation, origin, typing.get_args(annotation))
        if isinstance(annotation, type):
            return self._of_class(annotation, annotation)
        return ANYTHING

    def _of_annotated(self, annotation: object) -> Kind:
        if says_how(annotation):
            return self._loaded_so(annotation)
        inner, *metadata = typing.get_args(annotation)
        if not libraries.constrains(metadata):
            return self.kind(inner)
        mapped = bool(list(mapped_within(inner, self._local)))
        if libraries.is_models(inner) and not mapped:
            return libraries.adapted(annotation)
        return libraries.constrained(annotation, self.kind(inner), mapped=mapped)

    def _of_generic(self, annotation: object, origin: Any, args: tuple[object, ...]) -> Kind:
        if origin in UNIONS:
            return self._union(annotation, args)
        if origin is Literal:
            return literal(args)
        if origin is tuple and args:
            if len(args) == 2 and args[1] is Ellipsis:
                return many(self._item(args[0]))
            return tupled([self._item(arg) for arg in args])
        if origin in _LISTS and args:
            return listed(self._item(args[0]), accepts=origin)
        if origin in _SETS and args:
            return unordered(_SETS[origin], self._item(args[0]))
        if origin in _MAPPINGS and args:
            return mapping(self._item(args[0]), self._item(args[1]))
        return self._of_class(origin, annotation) if isinstance(origin, type) else ANYTHING

    def _union(self, annotation: object, args: tuple[object, ...]) -> Kind:
        if libraries.is_models(annotation) and not list(mapped_within(annotation, self._local)):
            return libraries.adapted(annotation)
        # The text of a date is that of a datetime at midnight too, so the narrower one is tried first.
        nullable, self._nullable = self._nullable, self._nullable or type(None) in args
        try:
            return union([self.kind(arg) for arg in sorted(args, key=lambda arg: arg is datetime)])
        finally:
            self._nullable = nullable

    def _item(self, annotation: object) -> Kind:
        # Of `list[User] | None` the list may be None, and none of its users.
        nullable, self._nullable = self._nullable, False
        try:
            return self.kind(annotation)
        finally:
            self._nullable = nullable

    def _loaded_so(self, annotation: object) -> Kind:
        inner, *metadata = typing.get_args(annotation)
        if not list(mapped_within(inner, self._local)):
            raise InvalidOption(
                f"{annotation} says how a row is loaded, and {getattr(inner, '__name__', inner)} has none; "
                f"only a mapped class has"
            )
        how, self._how = self._how, how_of(metadata)
        try:
            return self.kind(inner)
        finally:
            self._how = how

    def _entity(self, cls: type) -> Kind:
        entity = Entity(cls, self._how, Decoders().of, nullable=self._nullable)
        self.entities.append(entity)
        return Kind(entity, leaf)

    def _of_class(self, cls: Any, annotation: object) -> Kind:
        """Return the kind of a class, which `annotation` gives what its type variables stand for."""
        if is_mapped(cls):
            return self._entity(cls)
        if is_typed_dict(cls):
            return self._remembered(annotation, self._typed_dict)
        if issubclass(cls, Enum):
            return enum(cls)
        if cls in _LISTS:
            return listed(ANYTHING, accepts=cls)
        if cls in _SETS:
            return unordered(_SETS[cls], ANYTHING)
        if cls is tuple:
            return many(ANYTHING)
        if cls in _MAPPINGS:
            return mapping(ANYTHING, ANYTHING)
        if hasattr(cls, "_fields") and tuple in cls.__mro__:
            return self._remembered(annotation, self._named_tuple)
        if libraries.is_model(cls):
            return self._remembered(annotation, lambda each: libraries.model(each, self._loading(each)))
        if hasattr(cls, "__struct_fields__"):
            return self._remembered(annotation, self._msgspec)
        if dataclasses.is_dataclass(cls):
            own = not libraries.is_pydantics(cls) or list(mapped_within(cls, self._local))
            return self._remembered(annotation, self._dataclass if own else libraries.adapted)
        return libraries.adapted(annotation) if libraries.is_pydantics(cls) else ANYTHING

    def _remembered(self, annotation: object, make: Callable[[object], Kind]) -> Kind:
        # What holds itself meets the placeholder while its own kind is being made.
        try:
            known = self._known.get(annotation)
        except TypeError:  # what is said in an `Annotated` inside can't be a key
            return make(annotation)
        if known is not None:
            return known
        name = getattr(annotation, "__name__", str(annotation))
        if self._how != How():
            raise InvalidOption(f"how a row is loaded is said of the mapped class itself, within {name}")
        nullable, self._nullable = self._nullable, False
        self._known[annotation] = Kind(
            lambda value: self._known[annotation].read(value),
            lambda given, came, strict: self._known[annotation].same(given, came, strict),
            choosy=True,  # which nothing says yet
        )
        try:
            known = self._known[annotation] = make(annotation)
        except BaseException:
            del self._known[annotation]
            raise
        finally:
            self._nullable = nullable
        return known

    def _alias(self, annotation: object) -> Kind:
        args = typing.get_args(annotation)
        return self.kind(aliased(typing.get_origin(annotation) or annotation, args, self._local))

    def _dataclass(self, annotation: object) -> Kind:
        cls, hints = self._opened(annotation)
        every = {field.name: field for field in dataclasses.fields(cls)}
        taken = {name for name, field in every.items() if field.init}
        unkept = {name for name, hint in hints.items() if isinstance(hint, dataclasses.InitVar)}
        kinds = {name: self.kind(hints[name]) for name in hints if name in taken}
        kinds |= {name: self.kind(hints[name].type) for name in unkept}
        computed = {name: self.kind(hints[name]).same for name in hints if name in every and name not in taken}
        if not libraries.is_pydantics(cls):
            for name, field in every.items():
                libraries.refuse_field(field.default, name, what=cls.__name__)
        given = inspect.signature(cls).parameters
        return fields(
            cls.__name__,
            kinds,
            [name for name in kinds if name in given and given[name].default is inspect.Parameter.empty],
            make=cls,
            get=getattr,
            computed=computed,
            secret={name for name, field in every.items() if not field.repr},
            unkept=unkept,
            compared=[name for name, field in every.items() if field.compare],
        )

    def _typed_dict(self, annotation: object) -> Kind:
        cls, hints = self._opened(annotation)
        # `cls.__required_keys__` is wrong where annotations are texts: it doesn't see their Required and NotRequired.
        required = [
            name
            for name, hint in hints.items()
            if (origin := typing.get_origin(hint)) is Required
            or (origin is not NotRequired and name in cls.__required_keys__)
        ]
        kinds = {name: self.kind(hint) for name, hint in hints.items()}
        return fields(cls.__name__, kinds, required, make=dict, get=getitem)

    def _named_tuple(self, annotation: object) -> Kind:
        cls, hints = self._opened(annotation)
        return named_tuple(cls, [self._item(hints.get(name, Any)) for name in cls._fields])

    def _msgspec(self, annotation: object) -> Kind:
        cls: Any = typing.get_origin(annotation) or annotation
        encoded = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
        loading = {encoded.get(name, name): decode for name, decode in self._loading(annotation).items()}
        return libraries.msgspec(annotation, loading)

    def _loading(self, annotation: object) -> dict[str, Decode]:
        """Return the decoders of the fields of a foreign model in which mapped objects stand."""
        if not list(mapped_within(annotation, self._local)):
            return {}
        _, hints = self._opened(annotation)
        return {name: self.of(hint) for name, hint in hints.items() if list(mapped_within(hint, self._local))}

    def _opened(self, annotation: object) -> tuple[Any, dict[str, Any]]:
        cls: Any = typing.get_origin(annotation) or annotation
        return cls, hints_of(cls, typing.get_args(annotation), self._local)


_LISTS: Final = frozenset(
    {
        list,
        Sequence,
        MutableSequence,
        typing.get_origin(typing.Iterable[int]),
        typing.get_origin(typing.Collection[int]),
    }
)
_SETS: Final[Mapping[object, type[Any]]] = {
    set: set,
    frozenset: frozenset,
    AbstractSet: frozenset,
    typing.get_origin(typing.MutableSet[int]): set,
}
_MAPPINGS: Final = frozenset({dict, Mapping, MutableMapping})

__all__: Final = ["Decoders", "Misfit", "Unknown", "as_is"]
