"""What calling an object returns, seen through partials, wrappers, methods and objects with `__call__`."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from oban_sa.describe.exceptions import kind


def is_async(given: object) -> bool:
    """Return whether calling it returns a coroutine; what wraps an `async def` is assumed to return what that does."""
    return any(inspect.iscoroutinefunction(each) for each in _layers(given))


def yields(given: object) -> bool:
    """Return whether calling it returns a generator, asynchronous or not."""
    return any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in _layers(given))


def takes(given: Callable[..., object], count: int) -> bool:
    """Return whether it can be called with `count` positional arguments; assumed where it has no signature, as in C."""
    try:
        inspect.signature(given).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def named(given: object) -> str:
    """Return its name for messages."""
    return str(getattr(given, "__qualname__", None) or kind(given))


def _layers(given: Any) -> Iterator[object]:
    """Yield the object and what it wraps, outermost first."""
    for _ in range(100):  # a wrapper may wrap itself
        yield given
        if issubclass(type(given), (functools.partial, functools.partialmethod)):
            given = given.func
        elif issubclass(type(given), (types.MethodType, staticmethod, classmethod)):
            given = given.__func__
        elif (wrapped := inspect.getattr_static(given, "__wrapped__", None)) is not None:
            given = wrapped
        elif callable(given) and not inspect.isroutine(given) and not inspect.isclass(given):
            given = type(given).__call__
        else:
            return
