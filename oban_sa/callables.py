"""What calling something gives, seen through partials, wrappers, methods and objects that are called."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Iterator
from typing import Any

from oban_sa.failures import kind


def is_async(given: Any) -> bool:
    """Whether calling it gives a coroutine, as can be told: what wraps an `async def` most likely hands it on."""
    return any(inspect.iscoroutinefunction(each) for each in _layers(given))


def yields(given: Any) -> bool:
    """Whether calling it gives a generator, asynchronous or not."""
    return any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in _layers(given))


def takes(given: Any, count: int) -> bool:
    """Whether it can be called with so many positional arguments; of what is written in C that is assumed."""
    try:
        inspect.signature(given).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def named(given: Any) -> str:
    """Return how messages call it."""
    return str(getattr(given, "__qualname__", None) or kind(given))


def _layers(given: Any) -> Iterator[Any]:
    """Yield it and what is inside of it, outermost first."""
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
