"""The result of a step as JSON, and out of JSON again, by what the function's annotation says."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import NoneType
from typing import Final, get_origin
from weakref import WeakKeyDictionary

from oban_sa.arguments.decoders import Decoders
from oban_sa.arguments.mismatch import Decode, Misfit
from oban_sa.arguments.scalars import as_is
from oban_sa.describe import callables
from oban_sa.errors import InvalidArguments
from oban_sa.jobs import values
from oban_sa.jobs.answers import RECORDED_LIMIT, Answer
from oban_sa.jobs.values import Typed
from oban_sa.steps.journal import KINDS
from oban_sa.workers.parameters import Unresolved, meaning

LIMIT: Final = RECORDED_LIMIT
"""Characters of a result."""

_DATA: Final = (str, int, float, bytes, list, dict, tuple, set, NoneType)

_known: Final[WeakKeyDictionary[object, Decode]] = WeakKeyDictionary()


def code_of(function: object) -> str:
    """Return the name that the journal has for a function."""
    while isinstance(function, functools.partial):
        function = function.func
    name = callables.named(inspect.unwrap(function) if callable(function) else function)
    if name in KINDS:  # as asyncio.sleep
        name = f"{getattr(function, '__module__', None)}.{name}"
    return name[:300]


def written(value: object, where: str) -> str:
    """Return what is journalled as JSON text; raises `InvalidArguments` with the path of what JSON can't hold.

    `where` says what it is: the result of which step.
    """
    if isinstance(value, Answer):
        kind = type(value).__name__
        raise InvalidArguments(
            f"the {where} is a {kind}, which is an answer of the job and not of a step; write raise {kind}(...)",
            path=where,
        )
    plain: object = values.to_json(value, where=where, typed=Typed())
    if values.has_references(plain):
        raise InvalidArguments(f"the {where} can't hold ref(...): nothing is flushed; return the value", path=where)
    text = values.dumps(plain)
    if len(text) > LIMIT:
        raise InvalidArguments(
            f"the {where} has {len(text)} characters as JSON, and {LIMIT} are kept at most; "
            "keep it elsewhere, and return where",
            path=where,
        )
    return text


def of_step(key: str) -> str:
    """Return what messages call the result of a step."""
    return f"result of step {key!r}"


def read(plain: object, function: Callable[..., object], key: str) -> object:
    """Return the result that the JSON is of; raises `InvalidArguments` where the function's annotation doesn't fit."""
    try:
        return _decoder(function)(plain)
    except Misfit as misfit:
        raise misfit.at(of_step(key)) from None


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
    meant = _returned(function)
    return as_is if meant is inspect.Signature.empty else Decoders().of(meant)


def _returned(function: Callable[..., object]) -> object:
    """Return what the annotation says that a function returns; `Signature.empty` where that can't be known."""
    unknown = inspect.Signature.empty
    try:
        annotation: object = inspect.signature(function).return_annotation
    except (ValueError, TypeError):  # as of some that are written in C
        return unknown
    if annotation is unknown:
        return unknown
    meant = meaning(annotation, scope=getattr(inspect.unwrap(function), "__globals__", {}), local={})
    return unknown if isinstance(meant, Unresolved) else meant


def is_plain(function: Callable[..., object]) -> bool:
    """Whether calling a function surely gives no awaitable, by its annotation; without one that is not known."""
    # What wraps another function may make an awaitable of what that returns.
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__") or callables.is_async(function):
        return False
    meant = _returned(function)
    if meant is None:
        return True
    kind: object = get_origin(meant) or meant
    is_data = hasattr(kind, "__dataclass_fields__")
    return isinstance(kind, type) and (is_data or issubclass(kind, _DATA))
