"""Values that are one of a few, or a whole number within bounds."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from oban_sa.errors import InvalidOption, nearest

T = TypeVar("T", bound=str)


def choice(value: object, choices: tuple[T, ...], *, what: str) -> T:
    """Return the one of `choices` that `value` is; raises `InvalidOption`, whose message begins with `what`."""
    for each in choices:
        if value == each:
            return each
    hint = nearest(value, choices) if isinstance(value, str) else ""
    raise InvalidOption(f"{what} {value!r} is unknown{hint or '; write one of ' + ', '.join(choices)}")


def is_whole(value: object, least: int | None = None, most: int | None = None) -> TypeGuard[int]:
    """Whether a value is an int, no bool, and within these bounds, which are included."""
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and (least is None or value >= least)
        and (most is None or value <= most)
    )
