"""The result of a step as JSON, and out of JSON again, by what the function's annotation says."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from oban_sa.arguments.decoders import Decoders
from oban_sa.arguments.mismatch import Decode, Misfit
from oban_sa.arguments.scalars import as_is
from oban_sa.describe import callables
from oban_sa.errors import InvalidArguments
from oban_sa.jobs import values
from oban_sa.jobs.values import Typed
from oban_sa.workers.parameters import Unresolved, meaning

_known: Final[WeakKeyDictionary[object, Decode]] = WeakKeyDictionary()


def code_of(function: object) -> str:
    """Return the name that the journal has for a function."""
    while isinstance(function, functools.partial):
        function = function.func
    return callables.named(inspect.unwrap(function) if callable(function) else function)[:300]


def written(value: object, key: str) -> str:
    """Return the result of a step as JSON text; raises `InvalidArguments` with the path of what JSON can't hold."""
    where = f"result of step {key!r}"
    plain: object = values.to_json(value, where=where, typed=Typed())
    if values.has_references(plain):
        raise InvalidArguments(f"the {where} can't hold ref(...): nothing is flushed; return the value", path=where)
    return values.dumps(plain)


def read(plain: object, function: Callable[..., object], key: str) -> object:
    """Return the result that the JSON is of; raises `InvalidArguments` where the function's annotation doesn't fit."""
    try:
        return _decoder(function)(plain)
    except Misfit as misfit:
        raise misfit.at(f"result of step {key!r}") from None


def _decoder(function: Callable[..., object]) -> Decode:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        if (decode := _known.get(function)) is not None:
            return decode
    except TypeError:  # it can't be referred to weakly
        return _made(function)
    decode = _known[function] = _made(function)
    return decode


def _made(function: Callable[..., object]) -> Decode:
    try:
        annotation: object = inspect.signature(function).return_annotation
    except (ValueError, TypeError):  # as of some that are written in C
        return as_is
    if annotation is inspect.Signature.empty:
        return as_is
    meant = meaning(annotation, scope=getattr(inspect.unwrap(function), "__globals__", {}), local={})
    return as_is if isinstance(meant, Unresolved) else Decoders().of(meant)
