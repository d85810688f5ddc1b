"""Values that are made by keywords: one that is unknown is refused with what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from oban_sa.errors import InvalidOption, nearest

T = TypeVar("T")


def instead(name: object, choices: tuple[str, ...], also: Mapping[str, str]) -> str:
    """Return what to write in place of an unknown option: as `also` says of it, the nearest one, or all there are."""
    if name in also:
        said = also[str(name)]
        return f"; {said}" if said.startswith("it ") else f"; write {said}"
    return nearest(str(name), choices) or f"; there are {', '.join(choices)}"


def by_keywords(example: str, also: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """Let a class refuse what its `__init__` doesn't take with `InvalidOption`, where Python raises `TypeError`.

    `example` shows how the class is called, and `also` says what to write in place of names that people may know from
    elsewhere.
    """

    def decorate(cls: type[T]) -> type[T]:
        init: Callable[..., None] = cls.__init__
        parameters = list(inspect.signature(init).parameters.values())[1:]
        names = tuple(each.name for each in parameters)
        most = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters)
        required = [each.name for each in parameters if each.default is each.empty]

        @wraps(init)
        def checked(self: Any, *args: Any, **options: Any) -> None:
            for name in options:
                if name not in names:
                    raise InvalidOption(f"{cls.__name__} has no option {name!r}{instead(name, names, also)}")
            if len(args) > most:
                raise InvalidOption(f"{cls.__name__} takes its options by their names: {example}")
            given = {*names[: len(args)], *options}
            if missing := [name for name in required if name not in given]:
                raise InvalidOption(f"{cls.__name__} needs {' and '.join(missing)}: {example}")
            init(self, *args, **options)

        cls.__init__ = checked  # type: ignore[method-assign]
        return cls

    return decorate
