"""What annotations mean: names evaluated, aliases opened, and type variables replaced by what they stand for."""

# What annotations are made of has no types; strict pyright would have each of it cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Final, Generic, NewType, NotRequired, Required, TypeVar, Union

from oban_sa.arguments.mismatch import is_typed_dict
from oban_sa.describe.exceptions import kind
from oban_sa.errors import InvalidOption

Bound: typing.TypeAlias = Mapping[object, object]
"""What type variables stand for."""

Annotation: typing.TypeAlias = Any
"""A class, or what else may stand behind a colon, where its attributes are read; Python has no type for all of them."""

UNIONS: Final = (Union, UnionType)


class Unknown(InvalidOption):
    """An annotation names something that doesn't exist; it may once the module has been run to its end."""


def resolve(annotations: Mapping[str, object], *, scope: dict[str, Any], local: Mapping[str, object]) -> dict[str, Any]:
    """Return what annotations mean, evaluating those that are texts; raises `NameError` for an unknown name."""
    holder = SimpleNamespace(__annotations__=dict(annotations))
    return typing.get_type_hints(holder, globalns=scope, localns=dict(local), include_extras=True)


def hints_of(cls: type, args: tuple[object, ...], local: Mapping[str, object]) -> dict[str, Any]:
    """Return the annotations of a class, with `args` in place of its type variables, be they inherited or not.

    Raises `Unknown` for a name that doesn't exist.
    """
    variables = {each.__name__: each for base in cls.__mro__ for each in getattr(base, "__type_params__", ())}
    try:
        found = typing.get_type_hints(cls, localns={**local, **vars(cls), **variables}, include_extras=True)
    except NameError as error:
        raise _unknown(f"an annotation of {cls.__name__}", error) from error
    bound = dict(_bound(cls, args))
    if not any(bound.values()):
        return found
    if is_typed_dict(cls):  # which doesn't keep what it inherits from
        everything = {variable: meant for each in bound.values() for variable, meant in each.items()}
        return {name: substituted(hint, everything) for name, hint in found.items()}
    return {name: substituted(hint, bound.get(_declaring(cls, name), {})) for name, hint in found.items()}


def _declaring(cls: type, name: str) -> type:
    # The same variable may stand for one thing in a class and for another in its base.
    return next((base for base in cls.__mro__ if name in inspect.get_annotations(base)), cls)


def _bound(cls: type, args: tuple[object, ...]) -> Iterator[tuple[type, Bound]]:
    bound: dict[object, object] = dict(zip(getattr(cls, "__parameters__", ()), args, strict=False))
    yield cls, bound
    bases = vars(cls).get("__orig_bases__", cls.__bases__)
    for base in bases:
        origin = typing.get_origin(base) or base
        if isinstance(origin, type) and origin is not Generic:
            yield from _bound(origin, tuple(substituted(each, bound) for each in typing.get_args(base)))


def substituted(annotation: Annotation, bound: Bound) -> object:
    """Return an annotation with what type variables stand for in their place."""
    if isinstance(annotation, TypeVar):
        return bound.get(annotation, annotation)
    variables: tuple[object, ...] = getattr(annotation, "__parameters__", ())
    if not variables or isinstance(annotation, type) or not any(each in bound for each in variables):
        return annotation
    return annotation[tuple(bound.get(each, each) for each in variables)]


def is_alias(annotation: object) -> bool:
    """Whether `type X = ...` or `TypeAliasType` made it; that of `typing_extensions` is a class of its own."""
    # The variables around a worker may be anything, also of a class whose name is a property that raises.
    return kind(annotation) == "TypeAliasType" and hasattr(annotation, "__type_params__")


def aliased(alias: Annotation, args: tuple[object, ...], local: Mapping[str, object]) -> object:
    """Return what an alias means, with `args` in place of its type variables; raises `Unknown`."""
    module = sys.modules.get(getattr(alias, "__module__", None) or "")
    scope = dict(vars(module)) if module is not None else {}
    names = {**local, alias.__name__: alias, **{each.__name__: each for each in alias.__type_params__}}
    try:
        meant = resolve({"it": alias.__value__}, scope=scope, local=names)["it"]
    except NameError as error:
        raise _unknown(f"the type {alias.__name__}", error) from error
    return substituted(meant, dict(zip(alias.__type_params__, args, strict=False)))


def variable(annotation: TypeVar) -> object:
    """Return what may stand in the place of a type variable: its default, its bound or its constraints."""
    default = getattr(annotation, "__default__", None)
    if default is not None and type(default).__name__ != "NoDefaultType":
        return default
    if annotation.__constraints__:
        return Union[annotation.__constraints__]  # noqa: UP007 - as many as there are
    return Any if annotation.__bound__ is None else annotation.__bound__


def opened(annotation: object, local: Mapping[str, object]) -> object:
    """Return what stands behind aliases, `NewType` and an `Annotated`; raises `Unknown`."""
    while True:
        origin = typing.get_origin(annotation)
        if origin in TRANSPARENT:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif is_alias(annotation) or is_alias(origin):
            annotation = aliased(origin or annotation, typing.get_args(annotation), local)
        else:
            return annotation


def _unknown(what: str, error: NameError) -> Unknown:
    return Unknown(
        f"{what} names {error.name!r}, which doesn't exist when the program runs; "
        f"import it outside of `if TYPE_CHECKING:`"
    )


TRANSPARENT: Final = frozenset({Annotated, Required, NotRequired})
